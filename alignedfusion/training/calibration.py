"""Calibration: branch weights fitted to cases that were not used in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.inference import outputs
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tasks import Multiclass, Task

CALIBRATION_RATES = (*RATES, 0.75, 1.0)
"""Shares of missing attributes that the weights are fitted for."""
SPREAD = 0.4
"""Prior standard deviation of the logarithm of each branch's weight for an empty report, and of the prior's weight.

80 cases change a weight by a third, not by a factor of three."""
SLOPE_SPREAD = 1.2
"""Prior standard deviation of the change of a log weight from a complete report to an empty one.

The more a report mentions, the more overconfident a model of few cases is: with 100 cases of MILK10k, the weights of a complete
report are about half of those of an empty one."""

LARGEST = 10.0
"""Limit on the logarithm of a weight while it is fitted: an outlier among the labels would let the first step overflow."""


def calibrate(model: AlignedFusionClassifier, cases: Any, *, progress: bool = True) -> None:
    """Fit `model.branch_weights`, `model.branch_slopes` and `model.prior_weight` to these cases. Nothing else is changed.

    A branch that overfits its training cases is overconfident and dominates the others; calibration lowers its weight. The
    logarithm of a weight is a + b (1/2 - s), where s is the share of the attributes that are mentioned. These, and the weight
    of the class prior, are the maximum a posteriori estimate. The likelihood is that of the known labels of the cases (the
    cross-entropy, or half of the squared error in standardised units), each case with all its attributes, with 10 to 75 % of
    them missing, and with none. The prior is normal: around the logarithm of the initial weight for an empty report
    (a + b / 2), and around 0 for the slope b.

    Args:
        model: A trained model; it is left in evaluation mode.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`; cases not used in training.
        progress: Show a progress bar.

    Raises:
        ValueError: For no cases, or labels of another type, shape or range.
    """
    model.targets.check(cases.labels, len(cases.labels))
    variants = [drop_attributes(cases.codes, rate, model.schema) for rate in CALIBRATION_RATES]
    model.branch_weights.copy_(model.initial_branch_weights())
    model.branch_slopes.zero_()
    model.prior_weight.fill_(1.0)
    weighted = outputs(model, cases, variants, "contributions", progress=progress)  # (versions, n, P, C)
    shares = torch.stack([(codes != UNKNOWN).float().mean(1) for codes in variants])  # (versions, n)
    shifts, slopes, prior_shift = fit_weights(weighted, shares, model.log_prior.cpu(), cases.labels, model.targets)
    model.branch_weights.mul_(shifts.exp().to(model.branch_weights))
    model.branch_slopes.copy_(slopes)
    model.prior_weight.copy_(prior_shift.exp())


def fit_weights(
    contributions: Tensor, shares: Tensor, log_prior: Tensor, labels: Tensor, task: Task | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The maximum a posteriori estimate of the changes of the branches' log weights.

    Args:
        contributions: (versions, n, P, C) for several versions of the same cases' attributes, with the initial weights.
        shares: (versions, n), the share of the attributes that each version mentions.
        log_prior: (C,), the logarithm of the class prior.
        labels: (n,), or (n, C) for the tasks "multilabel" and "regression".
        task: The model's `targets`; several classes by default.

    Returns:
        The shifts and the slopes, (P,) each: the log weight changes by shift + slope (1/2 - share). The shift () of the log
        weight of the prior.
    """
    task = Multiclass(()) if task is None else task
    mentioned = shares[..., None]  # (versions, n, 1)
    with torch.enable_grad():
        at_empty, slopes = torch.zeros(2, contributions.shape[2]).unbind()
        prior_shift = torch.zeros(())
        parameters = [parameter.requires_grad_() for parameter in (at_empty, slopes, prior_shift)]
        optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            factors = (at_empty - slopes * mentioned).clamp(-LARGEST, LARGEST).exp()  # (versions, n, P)
            logits = prior_shift.clamp(-LARGEST, LARGEST).exp() * log_prior + torch.einsum(
                "vnpc,vnp->vnc", contributions, factors
            )
            fit = task.losses(logits.transpose(0, 1), labels).sum()  # versions share the labels of a case, as heads do
            prior = (at_empty.square().sum() + prior_shift**2) / SPREAD**2 + slopes.square().sum() / SLOPE_SPREAD**2
            loss = fit / len(contributions) + prior / 2
            loss.backward()
            return loss

        optimizer.step(closure)
    return (at_empty - slopes / 2).detach(), slopes.detach(), prior_shift.detach()
