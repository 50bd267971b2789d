"""What is predicted: one of several classes, several labels at once, or numbers. All that depends on it is in this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion.modules.inputs import IGNORED, can_read, check_labels

UNKNOWN_LABEL = -1
"""An unknown label of the task "multilabel"; in "regression" it is nan."""


class Task(nn.Module):
    """The meaning of labels and logits. `Multiclass`, `Multilabel` and `Regression` derive from it.

    Args:
        names: Names of the L classes, labels or targets.
    """

    name: str

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def check(self, labels: Tensor, batch: int) -> None:
        """Raise a ValueError for labels of another type, shape or range."""
        raise NotImplementedError

    def is_known(self, labels: Tensor) -> Tensor:
        """Which labels are known, bool with the shape of the labels."""
        return labels >= 0

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The negative log-likelihood of each label, with the shape of the labels; 0 for unknown labels.

        Args:
            logits: (B, H, L), H predictions for each case; their losses add up.
            labels: (B,) or (B, L).
        """
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The sum of `losses` over H, averaged over the known labels.

        Args:
            logits: (B, H, L).
            labels: (B,) or (B, L).
            weights: (B,), weights of the cases.
        """
        losses = self.losses(logits, labels)
        if weights is not None:
            losses = losses * weights.view(-1, *[1] * (losses.ndim - 1))
        return losses.sum() / self.is_known(labels).sum().clamp(min=1)

    def learn_prior(self, labels: Tensor, weights: Tensor) -> Tensor:
        """The logits (L,) of a case about which nothing is known.

        Args:
            labels: Labels of all training cases, (n,) or (n, L).
            weights: (n,), weights of the cases.
        """
        raise NotImplementedError

    def initial_weights(self, weights: Tensor) -> Tensor:
        """Weights (P,) of the branches before calibration, from those of independent evidence, which adds up."""
        return weights

    def activate(self, logits: Tensor) -> Tensor:
        """What logits (..., L) mean to a user, (..., L): probabilities, or values in the unit of the target."""
        raise NotImplementedError

    def deactivate(self, outputs: Tensor) -> Tensor:
        """The inverse of `activate`, up to a constant for each case in the task "multiclass"."""
        raise NotImplementedError

    def decide(self, logits: Tensor) -> Tensor:
        """What is predicted from logits (..., L)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The names."""
        return f"names={self.names}"

    def _check_columns(self, labels: Tensor, batch: int, kind: str, *, is_float: bool) -> None:
        wanted = f"labels of the task {self.name!r} must be {kind}, a tensor of shape ({batch}, {len(self.names)})"
        if not isinstance(labels, Tensor):
            raise ValueError(f"{wanted}, got {type(labels).__name__}: torch.tensor(labels)")
        if tuple(labels.shape) != (batch, len(self.names)):
            fix = ": labels[:, None]" if len(self.names) == 1 and tuple(labels.shape) == (batch,) else ""
            raise ValueError(
                f"{wanted}: one column for each of {list(self.names)}, got shape {tuple(labels.shape)}{fix}"
            )
        if labels.is_floating_point() if not is_float else not labels.is_floating_point():
            fix = "labels.float()" if is_float else "labels.nan_to_num(-1).long()"
            raise ValueError(f"{wanted}, got {labels.dtype}: {fix}")
        if not is_float and labels.dtype != torch.int64:
            raise ValueError(f"{wanted}, got {labels.dtype}: labels.long()")

    def _check_values(self, labels: Tensor, is_right: Tensor, accepted: str) -> None:
        if torch.compiler.is_compiling() or labels.is_meta:
            return
        if labels.is_cuda:
            torch._assert_async(is_right.all(), "a label is out of range; run on the CPU to see which")
        elif can_read(labels) and not is_right.all():
            row, column = (~is_right).nonzero()[0].tolist()
            raise ValueError(
                f"label {labels[row, column].item():g} of {self.names[column]!r} in row {row} is out of range: {accepted}"
            )


class Multiclass(Task):
    """One of C classes: labels int64 (B,), logits of a softmax."""

    name = "multiclass"

    def check(self, labels: Tensor, batch: int) -> None:
        """As in `inputs.check_labels`."""
        check_labels(labels, batch, self.names)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (B,), summed over the H predictions."""
        targets = labels.masked_fill(labels < 0, IGNORED)[:, None].expand(-1, logits.shape[1])
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(1)

    def learn_prior(self, labels: Tensor, weights: Tensor) -> Tensor:
        """Logarithms of the class shares, with one case added to each class."""
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(
                f"labels must be class indices (n,), int64; got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        is_known = labels >= 0
        counts = torch.bincount(labels[is_known], weights[is_known].double(), minlength=len(self.names)) + 1
        return (counts / counts.sum()).log().float()

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes."""
        return logits.softmax(-1)

    def deactivate(self, outputs: Tensor) -> Tensor:
        """Log probabilities."""
        return outputs.log()

    def decide(self, logits: Tensor) -> Tensor:
        """The index of the largest logit, int64 (...)."""
        return logits.argmax(-1)


class Multilabel(Task):
    """Each of L labels is 0 or 1: labels int64 (B, L), -1 unknown; logits are log odds."""

    name = "multilabel"

    def check(self, labels: Tensor, batch: int) -> None:
        """Labels are 0, 1 or -1."""
        self._check_columns(labels, batch, "0, 1, or -1 where unknown, int64", is_float=False)
        self._check_values(labels, (labels >= UNKNOWN_LABEL) & (labels <= 1), "labels are 0, 1, or -1 where unknown")

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy (B, L), summed over the H predictions."""
        targets = labels.clamp(min=0).to(logits.dtype)[:, None].expand_as(logits)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
        return losses.masked_fill(~self.is_known(labels), 0.0)

    def learn_prior(self, labels: Tensor, weights: Tensor) -> Tensor:
        """Log odds of each label among the cases in which it is known, with one positive and one negative case added."""
        self.check(labels, len(labels))
        positives, negatives = ((weights[:, None].double() * (labels == value)).sum(0) for value in (1, 0))
        return ((positives + 1) / (negatives + 1)).log().float()

    def activate(self, logits: Tensor) -> Tensor:
        """The probability of each label."""
        return logits.sigmoid()

    def deactivate(self, outputs: Tensor) -> Tensor:
        """Log odds."""
        return outputs.logit()

    def decide(self, logits: Tensor) -> Tensor:
        """1 where the log odds are above 0, int64 (..., L)."""
        return (logits > 0).long()


class Regression(Task):
    """L numbers: labels float (B, L), nan unknown; logits are values standardised by the training labels.

    Args:
        names: Names of the targets.

    Attributes:
        mean: (L,), the mean of each target over the training labels.
        std: (L,), its standard deviation.
    """

    name = "regression"
    mean: Tensor
    std: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("std", torch.ones(len(self.names)))

    def _apply(self, fn: Any, recurse: bool = True) -> Regression:
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        if self.mean.dtype != mean.dtype:  # half precision may round a mean by more than the deviation
            self.mean, self.std = mean.to(self.mean.device), std.to(self.std.device)
        return self

    def check(self, labels: Tensor, batch: int) -> None:
        """Labels are finite, or nan."""
        self._check_columns(labels, batch, "numbers, or nan where unknown, float32", is_float=True)
        self._check_values(labels, ~labels.isinf(), "labels are finite numbers, or nan where unknown")

    def is_known(self, labels: Tensor) -> Tensor:
        """Which labels are not nan."""
        return ~labels.isnan()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Half of the squared error in standardised units (B, L), summed over the H predictions.

        It is the negative log-likelihood of a normal distribution with variance 1, up to a constant.
        """
        targets = (torch.where(self.is_known(labels), labels, 0.0).to(logits) - self.mean.to(logits)) / self.std.to(
            logits
        )
        losses = ((logits - targets[:, None]) ** 2 / 2).sum(1)
        return losses.masked_fill(~self.is_known(labels), 0.0)

    def learn_prior(self, labels: Tensor, weights: Tensor) -> Tensor:
        """Zeros: a case about which nothing is known has the mean of the training labels. Sets `mean` and `std`."""
        self.check(labels, len(labels))
        is_known = self.is_known(labels)
        share = weights[:, None].double() * is_known
        share = share / share.sum(0).clamp(min=1e-12)
        values = torch.where(is_known, labels, 0.0).double()
        mean = (share * values).sum(0)
        std = (share * (values - mean) ** 2).sum(0).sqrt()
        if constant := [name for name, spread in zip(self.names, std.tolist(), strict=True) if not spread > 0]:
            raise ValueError(f"targets {constant} have fewer than two different known values: leave them out")
        self.mean.copy_(mean)
        self.std.copy_(std)
        return torch.zeros(len(self.names))

    def initial_weights(self, weights: Tensor) -> Tensor:
        """Weights that sum to one: each branch alone predicts the whole value."""
        return weights / weights.sum()

    def activate(self, logits: Tensor) -> Tensor:
        """Values in the unit of each target, in float32 or more."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits * self.std.to(logits) + self.mean.to(logits)

    def deactivate(self, outputs: Tensor) -> Tensor:
        """Standardised values."""
        return (outputs - self.mean.to(outputs)) / self.std.to(outputs)

    def decide(self, logits: Tensor) -> Tensor:
        """Values in the unit of each target."""
        return self.activate(logits)


_TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Multiclass, Multilabel, Regression)}
TASKS = tuple(_TASKS)
"""Names of the tasks."""


def check_task(task: str) -> None:
    """Raise a ValueError for a task of another name."""
    if task not in TASKS:
        raise ValueError(f"task must be one of {list(TASKS)}, got {task!r}")


def build_task(task: str, names: Sequence[str]) -> Task:
    """The task of a name, for these classes, labels or targets."""
    check_task(task)
    return _TASKS[task](names)
