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
"""Prior standard deviation of the logarithm of a weight: 80 cases change a weight by a third, not by a factor of three."""


def calibrate(model: AlignedFusionClassifier, cases: Any, *, progress: bool = True) -> None:
    """Fit `model.branch_weights` to these cases. Nothing else is changed.

    A branch that overfits its training cases is overconfident and dominates the others; calibration lowers its weight. The
    weights are the maximum a posteriori estimate. The likelihood is the cross-entropy over the cases, each with all its
    attributes, with 10 to 50 % of them missing, and with none. The prior is log-normal around the initial weights.

    Args:
        model: A trained model; it is left in evaluation mode.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`; cases not used in training.
        progress: Show a progress bar.
    """
    variants = [drop_attributes(cases.codes, rate, model.schema) for rate in (*RATES, 1.0)]
    weighted = outputs(model, cases, variants, "contributions", progress=progress)  # (versions, n, P, C)
    contributions = weighted / model.branch_weights.cpu()[:, None]
    model.branch_weights.copy_(
        fit_weights(contributions, model.log_prior.cpu(), cases.labels, model.initial_branch_weights())
    )


def fit_weights(contributions: Tensor, log_prior: Tensor, labels: Tensor, start: Tensor) -> Tensor:
    """The maximum a posteriori estimate of the branch weights (P,).

    Args:
        contributions: (versions, n, P, C), the unweighted contributions for several versions of the same cases' attributes.
        log_prior: (C,), the logarithm of the class prior.
        labels: (n,).
        start: (P,), the initial weights, which are the median of their prior.
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
