"""The figures of a run page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.evaluation.bootstrap import calibration_bins
from alignedfusion.pages.rendering import percent
from alignedfusion.pages.svg import INK, NEUTRAL, SERIES, SOFT, new_figure, page_style, to_svg

if TYPE_CHECKING:
    from alignedfusion.evaluation.intervals import Metrics
    from alignedfusion.pages.run_errors import RunCases

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
MAX_ATTRIBUTES = 20
MAX_PANELS, MAX_POINTS = 4, 500
_POINTS = 150


def run_figures(tested: RunCases, metrics: Metrics, class_names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The figures that depend on the task: identifier, heading and picture of each.

    Args:
        tested: The test cases.
        metrics: Their metrics.
        class_names: The classes, labels or numbers.
    """
    if tested.task == "regression":
        return [("predicted", "Predicted and recorded", scatter(tested.outputs, tested.labels, class_names))]
    is_known = tested.is_known
    if tested.task == "multiclass":
        outputs, labels = tested.outputs[is_known], tested.labels[is_known]
        figures = [("confusion", "Confusion matrix", confusion(metrics.confusion, class_names))]
        pairs = [(labels == c, outputs[:, c]) for c in range(len(class_names))]
        calibration = reliability(outputs.max(1), outputs.argmax(1) == labels)
    else:
        figures = []
        columns = zip(tested.labels.T, tested.outputs.T, is_known.T, strict=True)
        pairs = [(labels[known] == 1, outputs[known]) for labels, outputs, known in columns]
        texts = {"of": "labels", "horizontal": "probability of a label (%)", "vertical": "it is present (%)"}
        calibration = reliability(tested.outputs[is_known], tested.labels[is_known] == 1, **texts)
    roc, precision = curves(pairs, class_names)
    return [
        *figures,
        ("reliability", "Reliability", calibration),
        ("roc", "ROC", roc),
        ("precision", "Precision and recall", precision),
    ]


def missing(curves: Mapping[str, Sequence[tuple[float, float]]], *, measure: str = "accuracy") -> str:
    """A metric against the share of missing attributes.

    Args:
        curves: Points (share, value) by the name of the curve, the model itself first.
        measure: Name of the metric.
    """
    with page_style():
        figure, axes = new_figure(330, 250)
        for i, (name, points) in enumerate(curves.items()):
            shares, accuracies = ([100 * point[k] for point in points] for k in (0, 1))
            style = {"color": SERIES[i], "linestyle": _LINES[i], "linewidth": 2.6 if i == 0 else 1.6}
            axes.plot(shares, accuracies, label=name, marker=_MARKERS[i], markersize=4, **style)
        axes.set(xlabel="mentioned attributes dropped (%)", ylabel=f"{measure} (%)")
        figure.legend(loc="outside lower center", ncols=2)
        ends = [f"{name} {percent(p[0][1], 1)} to {percent(p[-1][1], 1)}" for name, p in curves.items()]
        first, last = (100 * next(iter(curves.values()))[k][0] for k in (0, -1))
        subject = (
            f"{measure[0].upper()}{measure[1:]} with {first:.0f} to {last:.0f} % of the mentioned attributes dropped"
        )
        alt = f"{subject}: {'; '.join(ends)}."
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


def curves(pairs: Sequence[tuple[np.ndarray, np.ndarray]], class_names: Sequence[str]) -> tuple[str, str]:
    """ROC and precision-recall curves of each class against the others, or of each label.

    Args:
        pairs: For each class or label, whether the cases have it (n,), and its probability (n,).
        class_names: The classes or labels.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    shown = [c for c, (is_label, _) in enumerate(pairs) if 0 < is_label.sum() < len(is_label)]
    names = ", ".join(class_names[c] for c in shown)
    with page_style():
        roc, axes = new_figure(330, 300)
        for c in shown:
            wrong, found, _ = roc_curve(*pairs[c])
            axes.plot(*_thin(wrong, found), label=_short(class_names[c]), **_style(c))
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1)
        _finish(roc, axes, "false positive rate", "true positive rate (recall)")
        first = to_svg(roc, name="roc", alt=f"ROC curves of {names}, each against the rest.")

        precision_recall, axes = new_figure(330, 300)
        for c in shown:
            precision, recall, _ = precision_recall_curve(*pairs[c])
            axes.plot(*_thin(recall[::-1], precision[::-1]), label=_short(class_names[c]), **_style(c))
        _finish(precision_recall, axes, "recall", "precision")
        alt = f"Precision-recall curves of {names}, each against the rest."
        return first, to_svg(precision_recall, name="precision", alt=alt)


def reliability(
    confidence: np.ndarray,
    is_right: np.ndarray,
    *,
    of: str = "cases",
    horizontal: str = "probability of the likeliest class (%)",
    vertical: str = "it is the label (%)",
) -> str:
    """A reliability diagram, with the bins of the calibration error.

    Args:
        confidence: (n,), the probabilities.
        is_right: (n,), whether what they are about is true.
        of: What is counted.
        horizontal: Label of the horizontal axis.
        vertical: Label of the vertical axis.
    """
    bins = calibration_bins(confidence)
    used = np.unique(bins)
    points = [(confidence[bins == b].mean(), is_right[bins == b].mean(), int((bins == b).sum())) for b in used]
    x, y, counts = (np.array(column) for column in zip(*points, strict=True))
    with page_style():
        figure, axes = new_figure(330, 300)
        axes.plot([0, 100], [0, 100], color=NEUTRAL, linewidth=1, linestyle="--", label="perfect calibration")
        axes.plot(100 * x, 100 * y, color=SERIES[0], linewidth=1)
        sizes = 12 + 220 * counts / counts.max()
        axes.scatter(100 * x, 100 * y, s=sizes, color=SERIES[0], alpha=0.75, label=f"predictions (area: {of})")
        axes.set(xlabel=horizontal, ylabel=vertical)
        axes.set(xlim=(0, 102), ylim=(-2, 102))
        figure.legend(loc="outside lower center", ncols=2)
        pairs = "; ".join(f"{percent(p)}: {percent(right)} of {count}" for p, right, count in points)
        return to_svg(
            figure, name="reliability", alt=f"Reliability diagram. By probability, the share that is right: {pairs}."
        )


def scatter(values: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """The predicted numbers against the recorded ones, one panel per number.

    Args:
        values: (n, L), the predicted numbers.
        labels: (n, L), the recorded ones; nan where unknown.
        names: The L numbers.
    """
    shown = names[:MAX_PANELS]
    with page_style():
        figure, _ = new_figure(330, 270 * len(shown))
        figure.clear()
        for i, axes in enumerate(np.atleast_1d(figure.subplots(len(shown)))):
            known = ~np.isnan(labels[:, i])
            x, y = labels[known, i], values[known, i]
            ends = [min(x.min(), y.min()), max(x.max(), y.max())] if len(x) else [0, 1]
            axes.plot(ends, ends, color=NEUTRAL, linewidth=1, linestyle="--")
            kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
            axes.scatter(x[kept], y[kept], s=9, color=SERIES[0], alpha=0.6)
            axes.set(xlabel=f"{_short(names[i], 24)}, recorded", ylabel="predicted")
        alt = f"Predicted numbers against recorded ones: {', '.join(shown)}."
        return to_svg(figure, name="predicted", alt=alt)


def worth(attributes: Mapping[str, Mapping[str, Any]], *, lost: str = "accuracy") -> str:
    """What each attribute is worth in points of a metric, with intervals.

    Args:
        attributes: The `attributes` of `evaluation.ablation.describe_attributes`.
        lost: Name of the metric.
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
        axes.set_xlabel(f"points of {lost} lost")
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        values = "; ".join(f"{name} {100 * attribute['worth'][0]:.1f}" for name, attribute in ranked)
        alt = f"Points of {lost} lost when an attribute is permuted among the cases, with intervals: {values}."
        return to_svg(figure, name="worth", alt=alt)


def _finish(figure: Any, axes: Any, horizontal: str, vertical: str) -> None:
    axes.set(xlabel=horizontal, ylabel=vertical, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    if axes.get_legend_handles_labels()[0]:  # no class has cases and others
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
