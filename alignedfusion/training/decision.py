"""The decision: which class is predicted from calibrated probabilities, so that rare classes are predicted too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.inference import outputs
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.modules.classifier import AlignedFusionClassifier

EXPONENTS = tuple(step / 20 for step in range(21))


def choose_decision(model: AlignedFusionClassifier, cases: Any, *, progress: bool = True) -> None:
    """Set `model.prior_exponent` to the value with the highest expected macro F1 on these cases. Nothing else is changed.

    The cases count with all their attributes and with 10 to 50 % of them missing. The probabilities of the model stay as they
    are. `model.prior_exponent = 0` undoes the choice.

    Args:
        model: A trained and calibrated model; it is left in evaluation mode.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes`; cases not used in training.
        progress: Whether to show a progress bar.
    """
    variants = [drop_attributes(cases.codes, rate, model.schema) for rate in RATES]
    logits = outputs(model, cases, variants, "logits", progress=progress)  # (versions, n, C)
    model.prior_exponent = choose_exponent(logits.log_softmax(-1), model.log_prior.cpu())


def choose_exponent(log_probabilities: Tensor, log_prior: Tensor) -> float:
    """The exponent of the prior, 0 to 1, with the highest expected macro F1.

    The expectation is over the labels, drawn from the probabilities. It varies less than the macro F1 of the labels themselves,
    of which rare classes have only a few.

    Args:
        log_probabilities: (..., C), calibrated.
        log_prior: (C,), the logarithm of the class shares in training.
    """
    log_probabilities = log_probabilities.flatten(0, -2).double()  # (n, C)
    return max(EXPONENTS, key=lambda exponent: _expected_f1(log_probabilities, exponent * log_prior.double()))


def _expected_f1(log_probabilities: Tensor, offsets: Tensor) -> float:
    probabilities = log_probabilities.exp()
    is_predicted = torch.nn.functional.one_hot((log_probabilities - offsets).argmax(-1), len(offsets)).double()
    hits = (probabilities * is_predicted).sum(0)
    return float((2 * hits / (probabilities.sum(0) + is_predicted.sum(0))).mean())
