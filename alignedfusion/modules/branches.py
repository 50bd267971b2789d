"""From the contributions of branches to predictions: weights, the prior, and the decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.modules.tasks import build_task


class WeightedBranches(nn.Module):
    """The part of a classifier that weighs its branches, adds the prior, and turns logits into predictions.

    Args:
        branches: Names of the P branches.
        names: Names of the L classes, labels or targets.
        task: See `AlignedFusionClassifier`.
    """

    log_prior: Tensor
    prior_weight: Tensor
    branch_weights: Tensor
    branch_slopes: Tensor
    modalities: tuple[str, ...]

    def __init__(self, branches: Sequence[str], names: Sequence[str], task: str) -> None:
        super().__init__()
        self.branches = tuple(branches)
        self.class_names = tuple(names)
        self.num_classes = len(self.class_names)
        self.targets = build_task(task, self.class_names)
        self.register_buffer("branch_weights", self.initial_branch_weights())
        self.register_buffer("branch_slopes", torch.zeros(len(self.branches)))
        self.register_buffer("log_prior", torch.zeros(self.num_classes))
        self.register_buffer("prior_weight", torch.ones(()))
        self.prior_exponent = 0.0
        self.prediction_sets: dict[str, Any] | None = None

    @property
    def task(self) -> str:
        """Name of the task: "multiclass", "multilabel" or "regression"."""
        return self.targets.name

    def initial_branch_weights(self) -> Tensor:
        """Weights of the branches (P,) before any calibration."""
        if len(self.branches) == 1:
            return torch.ones(1)
        return self.targets.initial_weights(torch.tensor([1 / 2] * (len(self.branches) - 1) + [1 / 4]))

    @property
    def weighted_prior(self) -> Tensor:
        """The part (L,) of the logits that is the same for every case."""
        return self.prior_weight.float() * self.log_prior.float()

    def weigh_branches(self, codes: Tensor) -> Tensor:
        """Weights (B, P) of the branches for codes (B, A), which depend on the share of attributes mentioned."""
        if REPORT not in self.modalities:
            return self.branch_weights.float().expand(len(codes), -1)
        share = (codes != UNKNOWN).float().mean(1, keepdim=True)  # (B, 1)
        return self.branch_weights.float() * (self.branch_slopes.float() * (0.5 - share)).exp()

    def set_prior(self, labels: Tensor, weights: Tensor | None = None) -> None:
        """Set the prior from the labels of all training cases, before training; `training.fit` calls this.

        For the task "regression" it sets the mean and the standard deviation by which targets are standardised.

        Args:
            labels: int64 (n,) for "multiclass", int64 (n, L) for "multilabel", float (n, L) for "regression". Unknown labels
                take no part: -1, or nan in "regression".
            weights: (n,), weights of the cases.
        """
        weights = torch.ones(len(labels)) if weights is None else weights
        self.log_prior.copy_(self.targets.learn_prior(labels.cpu(), weights.cpu()))

    def set_class_counts(self, counts: Tensor | Sequence[int]) -> None:
        """Set the prior from the number of training cases of each class (C,), before training; `training.fit` calls this.

        Without it the prior is uniform. Every branch then learns the class shares, and their sum counts them more than once.
        """
        if self.task != "multiclass":
            raise ValueError(
                f"class counts belong to the task 'multiclass', this model has {self.task!r}: set_prior(labels)"
            )
        counts = torch.as_tensor(counts, dtype=torch.float32)
        if tuple(counts.shape) != (self.num_classes,):
            raise ValueError(f"counts must hold one number per class ({self.num_classes}), got {tuple(counts.shape)}")
        if not (counts >= 0).all():
            raise ValueError(f"counts are numbers of cases and cannot be negative or nan, got {counts.tolist()}")
        self.log_prior.copy_(((counts + 1.0) / (counts + 1.0).sum()).log())

    def activate(self, logits: Tensor) -> Tensor:
        """What logits (..., L) mean to a user, (..., L).

        Probabilities of the classes, which sum to one; the probability of each label; or the value of each target in its unit.
        """
        return self.targets.activate(logits)

    def decide(self, logits: Tensor) -> Tensor:
        """What is predicted from logits (..., L).

        For "multiclass", the class index (...) with the largest p(class) / prior ** prior_exponent; for "multilabel", int64
        (..., L), 1 where odds / prior odds ** prior_exponent are above 1. This is logit adjustment (Menon et al. 2021): an
        exponent above 0 favours what is rare. Probabilities are unchanged. For "regression", the values of `activate`.
        """
        return self.targets.decide(logits - self.prior_exponent * self.log_prior.to(logits))
