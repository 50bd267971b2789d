"""The labels y of `fit`: classes, several labels of 0 and 1, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from alignedfusion.datasets.labels import Labels, strata_of
from alignedfusion.datasets.splits import join_small


@dataclass(frozen=True)
class FitLabels:
    """The labels of the rows that a model is fitted to.

    Args:
        values: (n,), or (n, L), as `datasets.labels.Labels.read` returns them.
        task: "multiclass", "multilabel" or "regression".
        names: Names of the classes, labels or numbers.
        classes: What `predict` returns for each class; for several labels 0 and 1 for each; None for numbers.
        is_flat: Whether y had one dimension.
    """

    values: np.ndarray
    task: str
    names: tuple[str, ...]
    classes: Any
    is_flat: bool

    def strata(self, groups: pd.Series | None) -> np.ndarray:
        """What the rows for calibration are stratified by (n,)."""
        if self.task == "multiclass":
            return self.values
        return join_small(strata_of(self.values, self.task, self.names), groups)


def read_labels(y: Any, task: str) -> FitLabels:
    """Check labels and turn them into those of a model.

    Args:
        y: n labels of any type for "multiclass". For "multilabel" (n, L) 0, 1 or words such as yes and no; -1 and empty are
            unknown. For "regression" (n,) or (n, L) numbers; nan is unknown. The columns of a DataFrame name the labels.
        task: The task.

    Raises:
        ValueError: For labels that do not fit the task, or from which nothing can be learned.
    """
    if task == "multiclass":
        return _read_classes(y)
    frame = _as_frame(y, task)
    if task == "multilabel":
        frame = frame.mask(frame == -1)
    names = tuple(frame.columns)
    labels = Labels.learn(frame, names, task, np.full(len(frame), "train", dtype=object))
    classes = [np.arange(2)] * len(names) if task == "multilabel" else None
    return FitLabels(labels.read(frame).numpy(), task, names, classes, np.ndim(y) == 1)


def used_rows(
    frame: pd.DataFrame, y: Any, sample_weight: Any, task: str
) -> tuple[pd.DataFrame, FitLabels, np.ndarray | None]:
    """The rows with a weight above 0, their labels, and their weights.

    Args:
        frame: n rows.
        y: Their labels, as in `read_labels`.
        sample_weight: Their weights (n,), or None.
        task: The task.
    """
    weights = None
    if sample_weight is not None:
        weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        if weights.ndim != 1 or len(weights) != len(frame) or (weights < 0).any():
            raise ValueError(
                f"sample_weight must hold one number of at least 0 per row ({len(frame)}), got the shape {weights.shape} "
                f"with {int((weights < 0).sum())} negative numbers"
            )
        check_consistent_length(frame, y)
        if not (is_used := weights > 0).any():
            raise ValueError(f"all {len(weights)} rows have a sample_weight of zero: there is nothing to learn")
        y = y[is_used] if isinstance(y, (pd.DataFrame, pd.Series)) else np.asarray(y)[is_used]
        frame, weights = frame[is_used], weights[is_used]
    labels = read_labels(y, task)
    check_consistent_length(frame, labels.values)
    return frame, labels, weights


def score_labels(outputs: np.ndarray, y: Any, names: Sequence[str], task: str, weights: Any = None) -> float:
    """The score of predicted labels or numbers, by the known ones.

    Args:
        outputs: (n, L), labels of 0 and 1, or numbers.
        y: The labels as in `read_labels`; the columns of a DataFrame may be in any order.
        names: Names of the L labels or numbers.
        task: "multilabel", whose score is the share of known labels that are predicted right, or "regression", whose score is
            R2, averaged over the numbers.
        weights: (n,), weights of the rows.
    """
    from sklearn.metrics import r2_score

    frame = _as_frame(y, task)
    if isinstance(y, pd.DataFrame) and list(frame.columns) != list(names):
        if absent := [name for name in names if name not in frame]:
            raise ValueError(f"y has no columns {absent}; it has {list(frame)}")
        frame = frame[list(names)]
    if frame.shape != outputs.shape:
        raise ValueError(f"y must have the shape {outputs.shape} of the predictions, got {frame.shape}")
    frame = frame.mask(frame == -1) if task == "multilabel" else frame
    values = Labels(tuple(frame.columns), task, tuple(frame.columns)).read(frame).numpy()
    is_known = values >= 0 if task == "multilabel" else ~np.isnan(values)
    shares = np.broadcast_to(np.ones(len(values)) if weights is None else np.asarray(weights), len(values))
    if not (is_known & (shares[:, None] > 0)).any():
        raise ValueError("no label of y is known: there is nothing to compare with")
    if task == "multilabel":
        counted = shares[:, None] * is_known
        return float((counted * (values == outputs)).sum() / counted.sum())
    columns = [c for c in range(values.shape[1]) if is_known[:, c].sum() > 1]
    if not columns:
        raise ValueError("R2 compares numbers with their mean: y needs at least two known numbers in one column")
    known = [(c, is_known[:, c]) for c in columns]
    return float(np.mean([r2_score(values[k, c], outputs[k, c], sample_weight=shares[k]) for c, k in known]))


def _read_classes(y: Any) -> FitLabels:
    y = column_or_1d(y, warn=True)
    if pd.isna(y).any():
        raise ValueError(f"y contains NaN: {int(pd.isna(y).sum())} rows have no label; leave them out")
    check_classification_targets(check_array(y, ensure_2d=False, dtype=None))
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has only one class, {list(classes)}: there is nothing to learn")
    return FitLabels(labels, "multiclass", tuple(str(name) for name in classes), classes, True)


def _as_frame(y: Any, task: str) -> pd.DataFrame:
    """The labels as a DataFrame with one column for each, named y0, y1 and so on unless y is one."""
    if isinstance(y, pd.DataFrame):
        return y.reset_index(drop=True).set_axis([str(name) for name in y.columns], axis=1)
    values = np.asarray(y)
    if values.ndim == 1 and task == "regression":
        values = values[:, None]
    if values.ndim != 2:
        raise ValueError(
            f"y of the task {task!r} must have one column for each label, got the shape {values.shape}; one column of "
            f"classes is the task 'multiclass'"
        )
    return pd.DataFrame(values, columns=[f"y{i}" for i in range(values.shape[1])])
