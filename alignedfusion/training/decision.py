"""The decision: what is predicted from calibrated probabilities, so that rare classes and labels are predicted too."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import one_hot

from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.inference import outputs
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tasks import Multiclass, Task

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
    model.prior_exponent = choose_exponent(logits, model.log_prior.cpu(), model.targets)


def choose_exponent(logits: Tensor, log_prior: Tensor, task: Task | None = None) -> float:
    """The exponent of the prior, 0 to 1, with the highest expected macro F1.

    The expectation is over the labels, drawn from the probabilities. It varies less than the macro F1 of the labels themselves,
    of which rare classes have only a few.

    Args:
        logits: (..., C), calibrated.
        log_prior: (C,), the logarithm of the class shares in training, or the log odds of each label.
        task: The model's `targets`; several classes by default.
    """
    task = Multiclass(()) if task is None else task
    logits, log_prior = logits.flatten(0, -2).double(), log_prior.double()  # (n, C)
    probabilities = task.activate(logits)

    def expected_f1(exponent: float) -> float:
        predicted = task.decide(logits - exponent * log_prior)
        is_predicted = one_hot(predicted, len(log_prior)) if predicted.ndim == 1 else predicted  # (n, C)
        hits = (probabilities * is_predicted).sum(0)
        return float((2 * hits / (probabilities.sum(0) + is_predicted.sum(0))).mean())

    return max(EXPONENTS, key=expected_f1)
