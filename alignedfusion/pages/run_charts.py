"""The figures of a run page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignedfusion.evaluation.bootstrap import calibration_bins
from alignedfusion.pages.rendering import percent
from alignedfusion.pages.svg import INK, NEUTRAL, SERIES, SOFT, new_figure, page_style, to_svg

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
MAX_ATTRIBUTES = 20
_POINTS = 150


def missing(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Accuracy against the share of missing attributes.

    Args:
        curves: Points (share, accuracy) by the name of the curve, the model itself first.
    """
    with page_style():
        figure, axes = new_figure(330, 250)
        for i, (name, points) in enumerate(curves.items()):
            shares, accuracies = ([100 * point[k] for point in points] for k in (0, 1))
            style = {"color": SERIES[i], "linestyle": _LINES[i], "linewidth": 2.6 if i == 0 else 1.6}
            axes.plot(shares, accuracies, label=name, marker=_MARKERS[i], markersize=4, **style)
        axes.set(xlabel="mentioned attributes dropped (%)", ylabel="accuracy (%)")
        figure.legend(loc="outside lower center", ncols=2)
        ends = [f"{name} {percent(p[0][1], 1)} to {percent(p[-1][1], 1)}" for name, p in curves.items()]
        first, last = (100 * next(iter(curves.values()))[k][0] for k in (0, -1))
        alt = f"Accuracy with {first:.0f} to {last:.0f} % of the mentioned attributes dropped: {'; '.join(ends)}."
        return to_svg(figure, name="missing", alt=alt)


def confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """The confusion matrix, shaded by the share of each label.

    Args:
        counts: Cases by label (row) and predicted class (column).
        class_names: The classes.
    """
    size = len(class_names)
    table = np.array(counts)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    with page_style():
        figure, axes = new_figure(330, 110 + 24 * size)
        for row in range(size):
            for column in range(size):
                share = float(shares[row, column])
                axes.fill_between(
                    [column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=SERIES[0], alpha=0.6 * share
                )
                axes.text(column, row, table[row, column], ha="center", va="center", fontsize=10 if size < 8 else 8)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="label")
        axes.set_xticks(range(size), [_short(name) for name in class_names], rotation=90 if size > 4 else 0)
        axes.set_yticks(range(size), [_short(name) for name in class_names])
        axes.grid(False)
        rows = [f"{name}: {table[i, i]} of {table[i].sum()}" for i, name in enumerate(class_names)]
        return to_svg(figure, name="confusion", alt=f"Confusion matrix. Predicted as labelled: {'; '.join(rows)}.")


def curves(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> tuple[str, str]:
    """ROC and precision-recall curves of each class against the others.

    Args:
        probabilities: (n, C).
        labels: (n,) class indices.
        class_names: The classes.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    shown = [c for c in range(len(class_names)) if 0 < (labels == c).sum() < len(labels)]
    names = ", ".join(class_names[c] for c in shown)
    with page_style():
        roc, axes = new_figure(330, 300)
        for c in shown:
            wrong, found, _ = roc_curve(labels == c, probabilities[:, c])
            axes.plot(*_thin(wrong, found), label=_short(class_names[c]), **_style(c))
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1)
        _finish(roc, axes, "false positive rate", "true positive rate (recall)")
        first = to_svg(roc, name="roc", alt=f"ROC curves of {names}, each against the other classes.")

        precision_recall, axes = new_figure(330, 300)
        for c in shown:
            precision, recall, _ = precision_recall_curve(labels == c, probabilities[:, c])
            axes.plot(*_thin(recall[::-1], precision[::-1]), label=_short(class_names[c]), **_style(c))
        _finish(precision_recall, axes, "recall", "precision")
        alt = f"Precision-recall curves of {names}, each against the other classes."
        return first, to_svg(precision_recall, name="precision", alt=alt)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> str:
    """The reliability diagram of the most probable classes, with the bins of the calibration error.

    Args:
        probabilities: (n, C).
        labels: (n,) class indices.
    """
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = calibration_bins(confidence)
    used = np.unique(bins)
    points = [(confidence[bins == b].mean(), is_right[bins == b].mean(), int((bins == b).sum())) for b in used]
    x, y, counts = (np.array(column) for column in zip(*points, strict=True))
    with page_style():
        figure, axes = new_figure(330, 300)
        axes.plot([0, 100], [0, 100], color=NEUTRAL, linewidth=1, linestyle="--", label="perfect calibration")
        axes.plot(100 * x, 100 * y, color=SERIES[0], linewidth=1)
        sizes = 12 + 220 * counts / counts.max()
        axes.scatter(100 * x, 100 * y, s=sizes, color=SERIES[0], alpha=0.75, label="predictions (area: cases)")
        axes.set(xlabel="probability of the likeliest class (%)", ylabel="it is the label (%)")
        axes.set(xlim=(0, 102), ylim=(-2, 102))
        figure.legend(loc="outside lower center", ncols=2)
        pairs = "; ".join(f"{percent(p)}: {percent(right)} of {count}" for p, right, count in points)
        return to_svg(
            figure, name="reliability", alt=f"Reliability diagram. By probability, the share that is right: {pairs}."
        )


def worth(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """What each attribute is worth in points of accuracy, with intervals.

    Args:
        attributes: The `attributes` of `evaluation.ablation.describe_attributes`.
    """
    ranked = sorted(attributes.items(), key=lambda item: -item[1]["worth"][0])[:MAX_ATTRIBUTES]
    with page_style():
        figure, axes = new_figure(330, 60 + 19 * len(ranked))
        for row, (_, attribute) in enumerate(ranked):
            value, low, high = (100 * number for number in attribute["worth"])
            axes.plot([low, high], [row, row], color=SERIES[0], linewidth=2)
            axes.plot(value, row, color=SERIES[0], marker="o", markersize=5)
        axes.axvline(0, color=INK, linewidth=0.8)
        labels = [f"{_short(name.replace('_', ' '), 18)}  {percent(each['mentioned'])}" for name, each in ranked]
        axes.set_yticks(range(len(ranked)), labels)
        axes.set_ylim(len(ranked) - 0.4, -0.6)
        axes.set_xlabel("points of accuracy lost")
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        values = "; ".join(f"{name} {100 * attribute['worth'][0]:.1f}" for name, attribute in ranked)
        alt = f"Points of accuracy lost when an attribute is permuted among the cases, with intervals: {values}."
        return to_svg(figure, name="worth", alt=alt)


def _finish(figure: Any, axes: Any, horizontal: str, vertical: str) -> None:
    axes.set(xlabel=horizontal, ylabel=vertical, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    figure.legend(loc="outside lower center", ncols=3)


def _style(c: int) -> dict[str, Any]:
    return {"color": SERIES[c % len(SERIES)], "linestyle": _LINES[c // len(SERIES) % len(_LINES)], "linewidth": 1.4}


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_POINTS` points of a curve, among them both ends."""
    if len(x) <= _POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
    return x[kept], y[kept]


def _short(name: str, limit: int = 14) -> str:
    return name if len(name) <= limit else name[: limit - 1].rstrip() + "…"
