"""Calibration: branch weights fitted to cases that were not used in training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.inference import outputs
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.modules.classifier import AlignedFusionClassifier

SPREAD = 0.4
"""Deviation of a weight's logarithm before any case is seen: 80 cases move a weight by a third, not by a factor of three."""


def calibrate(model: AlignedFusionClassifier, cases: Any, *, progress: bool = True) -> None:
    """Set `model.branch_weights` to what fits these cases best, and save nothing else of them.

    A part that learned its training cases by heart is overconfident, and drowns the others; its weight falls. The weights
    are those of highest posterior probability: cross-entropy over the cases, each with all its attributes, with 10 to 50 %
    of them missing and with none, and a log-normal prior around the weights the model has without calibration.

    Args:
        model: A trained model; left in evaluation mode.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`, not those of training.
        progress: Show a progress bar.
    """
    variants = [drop_attributes(cases.codes, rate, model.schema) for rate in (*RATES, 1.0)]
    weighted = outputs(model, cases, variants, "contributions", progress=progress)  # (versions, n, P, C)
    contributions = weighted / model.branch_weights.cpu()[:, None]
    model.branch_weights.copy_(
        fit_weights(contributions, model.log_prior.cpu(), cases.labels, model.initial_branch_weights())
    )


def fit_weights(contributions: Tensor, log_prior: Tensor, labels: Tensor, start: Tensor) -> Tensor:
    """The weights (P,) of highest posterior probability.

    Args:
        contributions: (versions, n, P, C), unweighted, of the same cases under several versions of their attributes.
        log_prior: (C,).
        labels: (n,).
        start: (P,), the weights before any case is seen.
    """
    with torch.enable_grad():
        shift = torch.zeros(len(start), requires_grad=True)
        optimizer = torch.optim.LBFGS([shift], max_iter=50, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = log_prior + (contributions * (start * shift.exp())[:, None]).sum(2)  # (versions, n, C)
            fit = F.cross_entropy(logits.transpose(1, 2), labels.expand(len(contributions), -1), reduction="sum")
            loss = fit / len(contributions) + (shift**2).sum() / (2 * SPREAD**2)
            loss.backward()
            return loss

        optimizer.step(closure)
    return start * shift.detach().exp()
