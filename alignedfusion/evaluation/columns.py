"""Metrics of several labels per case, or of numbers: each label is a column of its own, with its own unknown cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignedfusion.evaluation import bootstrap
from alignedfusion.evaluation.predictions import check_outputs, known_cases, known_labels, number_groups

OVERALL = {
    "multilabel": (
        "macro_auc",
        "average_precision",
        "macro_f1",
        "micro_f1",
        "cross_entropy",
        "brier",
        "calibration_error",
    ),
    "regression": ("mae", "rmse", "r2"),
}
"""Metrics of all columns together, by task."""
PER_COLUMN = {"multilabel": ("precision", "recall", "f1", "auc", "ap"), "regression": ("mae", "rmse", "r2")}
"""Metrics of each column, by task."""


class Columns(NamedTuple):
    """Checked outputs of n cases with at least one known label, in L columns."""

    task: str
    outputs: np.ndarray  # (n, L): probabilities, or values
    labels: np.ndarray  # (n, L), float; 0 where unknown
    is_known: np.ndarray  # (n, L)
    predicted: np.ndarray  # (n, L)
    groups: np.ndarray  # (n,)


def check_columns(
    outputs: np.ndarray,
    labels: np.ndarray,
    task: str,
    predicted: np.ndarray | None = None,
    groups: Sequence[Any] | None = None,
) -> Columns:
    """The cases with a known label. Raises a ValueError for shapes or values that do not fit, or no known label at all."""
    outputs, labels = np.asarray(outputs, dtype=float), np.asarray(labels)
    if outputs.ndim != 2 or outputs.shape != labels.shape:
        raise ValueError(
            f"outputs and labels of the task {task!r} must both have the shape (n, L), got {outputs.shape} and {labels.shape}"
        )
    if task == "multilabel" and not np.isin(labels, (-1, 0, 1)).all():
        wrong = labels[~np.isin(labels, (-1, 0, 1))][0]
        raise ValueError(f"labels of the task 'multilabel' are 0, 1, or -1 where unknown; got {wrong}")
    if np.isinf(labels).any():
        raise ValueError(f"{int(np.isinf(labels).sum())} labels are infinite; an unknown one is nan")
    if predicted is not None and np.shape(predicted) != labels.shape:
        raise ValueError(f"predicted must have the shape of the labels {labels.shape}, got {np.shape(predicted)}")
    if predicted is not None and task == "multilabel" and not np.isin(predicted, (0, 1)).all():
        raise ValueError("predicted labels are 0 or 1, got other numbers; probabilities are the outputs")
    if groups is not None and len(groups) != len(labels):
        raise ValueError(f"groups must have one entry per case, got {len(groups)} for {len(labels)}")
    is_known, kept = known_labels(labels, task), known_cases(labels, task)
    if not kept.any():
        raise ValueError(f"no case has a label: all {labels.size} labels of {len(labels)} cases are unknown")
    check_outputs(outputs[kept], task)
    if predicted is None:
        predicted = outputs > 0.5 if task == "multilabel" else outputs
    own = None if groups is None else np.asarray(groups, dtype=object)[kept]
    values = np.where(is_known, labels, 0)[kept].astype(float)
    numbers = number_groups(own, int(kept.sum()))
    return Columns(task, outputs[kept], values, is_known[kept], np.asarray(predicted)[kept], numbers)


def weighted_columns(columns: Columns, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Metrics of weighted cases, for several vectors of weights at once.

    Args:
        columns: n cases.
        weights: (R, n), how often each case counts.

    Returns:
        (R,) for each metric of `OVERALL`, and (R, L) for each of `PER_COLUMN`; nan where undefined. Means over columns take the
        columns that have a value. `cross_entropy` (binary), `brier`, `calibration_error` and `micro_f1` pool all known labels.
    """
    return _labels(columns, weights) if columns.task == "multilabel" else _numbers(columns, weights)


def resample_columns(
    columns: Columns, *, resamples: int = 1000, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Metrics of bootstrap resamples, drawn as in `bootstrap.resample`; results as `weighted_columns` returns them."""
    parts = [weighted_columns(columns, weights) for weights in bootstrap.draw_weights(columns.groups, resamples, seed)]
    overall, each = ({name: np.concatenate([part[i][name] for part in parts]) for name in parts[0][i]} for i in (0, 1))
    return overall, each


def count_labels(columns: Columns) -> list[dict[str, int]]:
    """Number of known and unknown labels of each column among the cases; for "multilabel", of positives and negatives."""
    rows = []
    for values, is_known in zip(columns.labels.T, columns.is_known.T, strict=True):
        known, unknown = int(is_known.sum()), int((~is_known).sum())
        positives = int(values.sum()) if columns.task == "multilabel" else 0
        counts = (
            {"positive": positives, "negative": known - positives} if columns.task == "multilabel" else {"known": known}
        )
        rows.append({**counts, "unknown": unknown})
    return rows


def _labels(columns: Columns, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    outputs, labels, is_known = columns.outputs, columns.labels, columns.is_known
    is_positive, is_predicted = is_known & (labels == 1), is_known & (columns.predicted == 1)
    support, claims = weights @ is_positive, weights @ is_predicted  # (R, L) each
    hits, total = weights @ (is_positive & is_predicted), weights @ is_known.sum(1)
    each = {"precision": bootstrap.ratio(hits, claims), "recall": bootstrap.ratio(hits, support)}
    each["f1"] = np.where(support > 0, bootstrap.ratio(2 * hits, support + claims), np.nan)
    ranking = [
        bootstrap.ranking(outputs[known, c], is_positive[known, c], weights[:, known])
        for c, known in enumerate(is_known.T)
    ]
    each["auc"], each["ap"] = np.stack(ranking, axis=-1)
    chosen = np.maximum(np.where(labels == 1, outputs, 1 - outputs), np.finfo(np.float32).eps)
    bins = bootstrap.calibration_bins(outputs)[..., None] == np.arange(bootstrap.BINS)  # (n, L, bins)
    gaps = weights @ (bins * (is_known * (labels - outputs))[..., None]).sum(1)  # (R, bins)
    return {
        "macro_auc": bootstrap.mean(each["auc"], support),
        "average_precision": bootstrap.mean(each["ap"], support),
        "macro_f1": bootstrap.mean(each["f1"], support),
        "micro_f1": bootstrap.ratio(2 * hits.sum(1), (support + claims).sum(1)),
        "cross_entropy": weights @ (is_known * -np.log(chosen)).sum(1) / total,
        "brier": weights @ (is_known * (labels - outputs) ** 2).sum(1) / total,
        "calibration_error": np.abs(gaps).sum(1) / total,
    }, each


def _numbers(columns: Columns, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    is_known = columns.is_known
    errors = is_known * (columns.predicted - columns.labels)
    count = weights @ is_known
    total = is_known.sum(0)
    centred = is_known * (columns.labels - columns.labels.sum(0) / np.maximum(total, 1))
    spread = weights @ centred**2 - bootstrap.ratio((weights @ centred) ** 2, count)
    # Labels that are all equal in a resample have a spread of rounding errors.
    has_spread = spread > 1e-9 * (centred**2).sum(0)
    squared = weights @ errors**2
    each = {
        "mae": bootstrap.ratio(weights @ np.abs(errors), count),
        "rmse": np.sqrt(bootstrap.ratio(squared, count)),
        "r2": 1 - bootstrap.ratio(squared, np.where(has_spread, spread, 0.0)),
    }
    return {name: bootstrap.mean(values, count) for name, values in each.items()}, each
