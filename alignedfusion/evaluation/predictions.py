"""Predictions of cases with labels, checked once for all metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_ROUNDING = 1e-3
"""How far probabilities in half precision may be from 0 to 1."""


class Predictions(NamedTuple):
    """Checked predictions of the cases that have a label: probabilities (n, C), labels, predicted classes and groups (n,)."""

    probabilities: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray


def known_labels(labels: np.ndarray, task: str) -> np.ndarray:
    """Which labels are known, with the shape of the labels: those that are not negative, or not nan in "regression"."""
    return np.asarray(~np.isnan(labels) if task == "regression" else labels >= 0)


def known_cases(labels: np.ndarray, task: str) -> np.ndarray:
    """Which cases have a known label (n,)."""
    is_known = known_labels(labels, task)
    return is_known if is_known.ndim == 1 else np.asarray(is_known.any(1))


def check_predictions(
    probabilities: np.ndarray, labels: np.ndarray, predicted: np.ndarray | None, groups: Sequence[Any] | None
) -> Predictions:
    """The cases with a label. Raises a ValueError for columns of other lengths, labels out of range, or no label at all."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise ValueError(
            f"need one row of probabilities per label, got {len(probabilities)} for {len(labels)}"
            + ("" if probabilities.ndim == 2 else f" (the shape is {probabilities.shape}, not (n, C))")
        )
    for name, column in (("predicted", predicted), ("groups", groups)):
        if column is not None and len(column) != len(labels):
            raise ValueError(f"{name} must have one entry per label, got {len(column)} for {len(labels)}")
    if not (is_known := labels >= 0).any():
        raise ValueError(f"no case has a label: of {len(labels)} labels all are negative, that is unknown")
    if labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"label {labels.max()} is out of range: there are {probabilities.shape[1]} probabilities a case"
        )
    check_outputs(probabilities[is_known], "multiclass")
    best = probabilities.argmax(1) if predicted is None else np.asarray(predicted)
    kept = None if groups is None else np.asarray(groups, dtype=object)[is_known]
    numbers = number_groups(kept, int(is_known.sum()))
    return Predictions(probabilities[is_known], labels[is_known], best[is_known], numbers)


def check_outputs(outputs: np.ndarray, task: str) -> None:
    """Raise a ValueError for outputs (n, C) that are nan, infinite, or no probabilities where these are expected."""
    if not (is_finite := np.isfinite(outputs)).all():
        raise ValueError(f"{(~is_finite).any(1).sum()} cases have outputs that are nan or infinite")
    is_share = (outputs >= -_ROUNDING) & (outputs <= 1 + _ROUNDING)
    if task != "regression" and not is_share.all():
        raise ValueError(
            f"outputs of the task {task!r} must be probabilities, 0 to 1, got {outputs[~is_share][0]:g}; for logits, pass "
            f"what model.activate(logits) returns"
        )


def number_groups(groups: Any, count: int) -> np.ndarray:
    """A number per case (count,), equal within a group; a case without a group is a group of its own."""
    import pandas as pd

    if groups is None:
        return np.arange(count)
    numbers, names = pd.factorize(pd.Series(groups, dtype=object))
    is_empty = numbers < 0
    numbers[is_empty] = len(names) + np.arange(is_empty.sum())
    return numbers
