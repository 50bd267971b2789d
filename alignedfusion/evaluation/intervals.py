"""Metrics of a set of cases with bootstrap intervals: one type for runs, cards, pages and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from alignedfusion.evaluation import bootstrap
from alignedfusion.evaluation.columns import (
    OVERALL,
    PER_COLUMN,
    Columns,
    check_columns,
    count_labels,
    resample_columns,
    weighted_columns,
)
from alignedfusion.evaluation.conformal import set_metrics
from alignedfusion.evaluation.metrics import compute_metrics, format_cell, heading, table
from alignedfusion.evaluation.predictions import Predictions, check_predictions

PER_CLASS = ("precision", "recall", "f1", "auc")


class Interval(NamedTuple):
    """A metric and its bootstrap interval; nan where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of cases, with bootstrap intervals. `print` shows them as tables.

    Args:
        cases: Number of cases with a label.
        groups: Number of groups that were drawn whole in the bootstrap; None if single cases were drawn.
        level: Coverage of the intervals.
        overall: The metrics of `compute_metrics`.
        classes: By the name of each class its precision, recall, F1 and AUC; for a label also its average precision "ap"; for a
            number MAE and RMSE in its unit, and R2.
        support: By name, the number of cases of a class, of positive cases of a label, or of cases with the number.
        confusion: Number of cases by label (row) and predicted class (column); empty for several labels and numbers.
        task: "multiclass", "multilabel" or "regression".
        counts: For several labels and numbers, by name, the number of known and unknown labels; see `columns.count_labels`.
    """

    cases: int
    groups: int | None
    level: float
    overall: Mapping[str, Interval]
    classes: Mapping[str, Mapping[str, Interval]]
    support: Mapping[str, int]
    confusion: Sequence[Sequence[int]]
    task: str = "multiclass"
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: each interval is a list of three numbers, null where undefined."""
        return {
            "cases": self.cases,
            "groups": self.groups,
            "level": self.level,
            "overall": _pack(self.overall),
            "classes": {name: _pack(metrics) for name, metrics in self.classes.items()},
            "support": dict(self.support),
            "confusion": [list(row) for row in self.confusion],
            "task": self.task,
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """The metrics that `to_dict` described."""
        classes = {name: _unpack(metrics) for name, metrics in data["classes"].items()}
        return cls(**{**data, "overall": _unpack(data["overall"]), "classes": classes})

    def __str__(self) -> str:
        drawn = "cases" if self.groups is None else f"{self.groups} groups"
        overall = [
            {"metric": heading(name), **dict(zip(("value", "low", "high"), _texts(name, interval), strict=True))}
            for name, interval in self.overall.items()
        ]
        classes = [
            {
                **(
                    {"label": name, **self.counts[name]}
                    if self.counts
                    else {"class": name, "cases": self.support[name]}
                ),
                **{key: _texts(key, row[key])[0] for key in row},
            }
            for name, row in self.classes.items()
        ]
        note = f"{self.cases} cases; low and high: {self.level:.0%} interval, bootstrap of {drawn}"
        return "\n\n".join((note, table(overall), table(classes)))


def measure(
    outputs: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    task: str = "multiclass",
    predicted: np.ndarray | None = None,
    groups: Sequence[Any] | None = None,
    sets: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 1000,
) -> Metrics:
    """All metrics of a set of cases with bootstrap intervals, and those of each class, label or target.

    Intervals are percentile intervals, shifted by the bootstrap's estimate of the bias, because the calibration error of a
    resample is higher than that of the cases. They are nan with a single case or group.

    Args:
        outputs: (n, C): probabilities, or values in "regression".
        labels: (n,) class indices, or (n, C). Unknown labels take no part: negative ones, or nan in "regression".
        class_names: Names of the classes, labels or targets; their indices by default.
        task: "multiclass", "multilabel" or "regression".
        predicted: Predicted classes (n,) or labels (n, C), if they are not the most probable ones.
        groups: The patient of each case. Patients are drawn whole; None draws single cases.
        sets: Bool (n, C), the classes in prediction sets; adds `coverage` and `set_size` to the metrics.
        level: Coverage of the intervals.
        resamples: Number of bootstrap resamples.
    """
    from sklearn.metrics import confusion_matrix

    if task != "multiclass":
        if sets is not None:
            raise ValueError(f"prediction sets are sets of classes; the task {task!r} has none")
        columns = check_columns(outputs, labels, task, predicted, groups)
        names = _check_names(class_names, columns.outputs.shape[1])
        return _measure_columns(columns, names, groups is not None, level, resamples)
    cases = check_predictions(outputs, labels, predicted, groups)
    count = cases.probabilities.shape[1]
    names = _check_names(class_names, count)
    overall = compute_metrics(cases.probabilities, cases.labels, predicted=cases.predicted)
    per_class = _per_class(cases)
    per_case = {} if sets is None else set_metrics(sets, np.asarray(labels))
    overall |= {name: float(values.mean()) for name, values in per_case.items()}
    draws = bootstrap.resample(cases, per_case, resamples=resamples)
    if cases.groups.max() == 0:  # one group alone: its resamples are all equal
        draws = {name: np.full_like(values, np.nan) for name, values in draws.items()}
    confusion = confusion_matrix(cases.labels, cases.predicted, labels=range(count))
    return Metrics(
        cases=len(cases.labels),
        groups=None if groups is None else int(cases.groups.max()) + 1,
        level=level,
        overall={name: _interval(overall[name], draws[name], level, _LARGEST.get(name, 1.0)) for name in overall},
        classes={
            name: {key: _interval(per_class[key][c], draws[key][:, c], level) for key in PER_CLASS}
            for c, name in enumerate(names)
        },
        support={name: int(row.sum()) for name, row in zip(names, confusion, strict=True)},
        confusion=confusion.tolist(),
    )


def _measure_columns(columns: Columns, names: list[str], is_grouped: bool, level: float, resamples: int) -> Metrics:
    found = weighted_columns(columns, np.ones((1, len(columns.labels))))
    drawn = list(resample_columns(columns, resamples=resamples))
    if columns.groups.max() == 0:  # one group alone: its resamples are all equal
        drawn = [{name: np.full_like(x, np.nan) for name, x in draws.items()} for draws in drawn]
    overall, each = ({name: draws[name].T for name in draws} for draws in found)  # (1,), and (L, 1)
    all_draws, each_draws = ({name: draws[name].T for name in draws} for draws in drawn)  # (R,), and (L, R)
    counts = dict(zip(names, count_labels(columns), strict=True))

    def interval(name: str, value: np.ndarray, draws: np.ndarray) -> Interval:
        largest = 1.0 if name == "brier" else _LARGEST.get(name, 1.0)
        return _interval(float(value[0]), draws, level, largest, _SMALLEST.get(name, 0.0))

    return Metrics(
        cases=len(columns.labels),
        groups=int(columns.groups.max()) + 1 if is_grouped else None,
        level=level,
        overall={name: interval(name, overall[name], all_draws[name]) for name in OVERALL[columns.task]},
        classes={
            name: {key: interval(key, each[key][c], each_draws[key][c]) for key in PER_COLUMN[columns.task]}
            for c, name in enumerate(names)
        },
        support={name: row["positive"] if "positive" in row else row["known"] for name, row in counts.items()},
        confusion=[],
        task=columns.task,
        counts=counts,
    )


def _check_names(class_names: Sequence[str] | None, count: int) -> list[str]:
    names = [str(name) for name in (range(count) if class_names is None else class_names)]
    if len(names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(names)}: {names}")
    return names


def _per_class(cases: Predictions) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and AUC (C,) each; nan where undefined, such as all but the precision without a case."""
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    classes = np.arange(cases.probabilities.shape[1])
    precision, recall, f1, support = precision_recall_fscore_support(
        cases.labels, cases.predicted, labels=classes, zero_division=np.nan
    )
    is_ranked = (support > 0) & (support < len(cases.labels))
    auc = [roc_auc_score(cases.labels == c, cases.probabilities[:, c]) if is_ranked[c] else np.nan for c in classes]
    return {"precision": precision, "recall": recall, "f1": np.where(support > 0, f1, np.nan), "auc": np.array(auc)}


_LARGEST = {"cross_entropy": np.inf, "brier": 2.0, "set_size": np.inf, "mae": np.inf, "rmse": np.inf}
"""The largest possible value of metrics that are no shares."""
_SMALLEST = {"r2": -np.inf}


def _interval(value: float, draws: np.ndarray, level: float, largest: float = 1.0, smallest: float = 0.0) -> Interval:
    """The interval of a metric between `smallest` and `largest`; nan unless at least half of the resamples have a value."""
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or 2 * len(defined) < len(draws) or not len(defined):
        return Interval(float(value), float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = np.quantile(defined, (tail, 1 - tail)) - (defined.mean() - value)
    return Interval(
        float(value), float(np.clip(low, smallest, value)), float(np.clip(high, value, max(largest, value)))
    )


def _texts(name: str, interval: Interval) -> list[str]:
    return [format_cell(name, number) for number in interval]


def _pack(metrics: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    return {name: [None if number != number else number for number in interval] for name, interval in metrics.items()}


def _unpack(metrics: Mapping[str, Sequence[float | None]]) -> dict[str, Interval]:
    return {
        name: Interval(*(float("nan") if number is None else number for number in interval))
        for name, interval in metrics.items()
    }
