"""Everything that a run, its card and `evaluate` report about a set of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignedfusion.evaluation.intervals import measure
from alignedfusion.evaluation.metrics import predict_sweep, summarise_sweep
from alignedfusion.modules.classifier import AlignedFusionClassifier


def evaluate_model(
    model: AlignedFusionClassifier, cases: Any, *, groups: Sequence[Any] | None = None, progress: bool = True
) -> tuple[dict[str, Any], np.ndarray]:
    """Test a model on cases with labels.

    Args:
        model: The model.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`.
        groups: The patient of each case, for the intervals; None draws single cases.
        progress: Whether to show a progress bar.

    Returns:
        A mapping, plain JSON, and the probabilities (n, C) of the cases as they are. The mapping has `test`, the dict of
        `Metrics` of the cases as they are, and `missing`, the rows of `missing_sweep`.
    """
    sweep = predict_sweep(model, cases, model.schema, progress=progress)
    probabilities, labels = sweep.probabilities[0, 0], cases.labels.numpy()
    metrics = measure(probabilities, labels, model.class_names, groups=groups)
    return {"test": metrics.to_dict(), "missing": summarise_sweep(sweep, labels)}, probabilities
