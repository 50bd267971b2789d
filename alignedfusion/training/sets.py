"""Conformal prediction sets of a model, calibrated on cases that were not used in training."""

from __future__ import annotations

from typing import Any

import torch

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.conformal import PredictionSets
from alignedfusion.evaluation.inference import predict
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.training.calibration import CALIBRATION_RATES


def calibrate_sets(
    model: AlignedFusionClassifier, cases: Any, *, kind: str = "lac", coverage: float = 0.9, progress: bool = True
) -> None:
    """Set `model.prediction_sets`. Nothing else is changed.

    The cases count with all their attributes and with 10 to 100 % of them missing, so that sets are calibrated for every share
    of mentioned attributes. The model must be calibrated and have its decision already: its sets follow both.

    Args:
        model: A trained model; it is left in evaluation mode.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`; cases not used in training.
        kind: Kind of sets, see `PredictionSets`.
        coverage: Share of the sets that shall contain the true class.
        progress: Whether to show a progress bar.
    """
    check_sets_fit(model.task)
    variants = [drop_attributes(cases.codes, rate, model.schema) for rate in CALIBRATION_RATES]
    mentioned = torch.stack([(codes != UNKNOWN).double().mean(1) for codes in variants])  # (versions, n)
    model.prediction_sets = PredictionSets.calibrate(
        predict(model, cases, variants, progress=progress),
        cases.labels.numpy(),
        mentioned.numpy(),
        kind=kind,
        coverage=coverage,
        offsets=(-model.prior_exponent * model.log_prior).tolist(),
    ).to_dict()


def check_sets_fit(task: str) -> None:
    """Raise a ValueError for a task without prediction sets."""
    if task != "multiclass":
        raise ValueError(
            f"prediction sets are sets of classes, and a model for {task!r} has none: train it with sets='none'"
        )
