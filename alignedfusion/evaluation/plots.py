"""Plots of accuracy, or another metric, against the share of missing attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAIN_METRIC = {
    "multiclass": ("accuracy", "accuracy"),
    "multilabel": ("macro_auc", "macro AUC"),
    "regression": ("r2", "explained variance"),
}
"""By task, the metric of the plots and its name on the axis."""


def accuracy_against_missing(
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    path: str | Path,
    *,
    title: str,
    axis: str = "attributes missing (%)",
    chance: float | None = None,
    highlight: str | None = None,
    measure: str = "accuracy",
) -> None:
    """Plot accuracy, or another metric, against the share of missing attributes.

    Args:
        curves: Points (share missing, accuracy, standard deviation) by the name of the curve, all 0 to 1.
        path: File to write the plot to.
        title: Title of the plot.
        axis: Label of the horizontal axis.
        chance: Accuracy of predicting the most frequent class, drawn as a dotted line.
        highlight: Name of a curve to draw in bold; the others become thin, and every curve is named at its right end.
        measure: Name of the metric.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(6.4 if highlight is None else 9.0, 4.0 if highlight is None else 5.6), layout="constrained"
    )
    axes = figure.subplots()
    ends = []
    for number, (name, points) in enumerate(curves.items()):
        shares, accuracies, deviations = (([100 * point[i] for point in points]) for i in range(3))
        if highlight is not None and name != highlight:
            axes.plot(shares, accuracies, color=f"C{number % 10}", linewidth=1.0, alpha=0.8)
        else:
            strong: dict[str, Any] = {} if highlight is None else {"linewidth": 2.5, "zorder": 5}
            color = f"C{number}" if highlight is None else "black"
            axes.errorbar(
                shares, accuracies, deviations, label=name, marker="os^Dv"[number % 5], capsize=3, color=color, **strong
            )
        ends.append((accuracies[-1], name, "black" if name == highlight else f"C{number % 10}"))
    if highlight is not None:
        _name_ends(axes, ends, 100 * max(point[0] for points in curves.values() for point in points))
    if chance is not None:
        axes.axhline(100 * chance, color="grey", linestyle=":", label="most frequent class")
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{measure} (%)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if highlight is None:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _name_ends(axes: Any, ends: Sequence[tuple[float, str, str]], right: float) -> None:
    """Write the name of each curve beside its right end, as near as possible without overlaps."""
    from sklearn.isotonic import isotonic_regression

    low, high = axes.get_ylim()
    ends = sorted(ends)
    steps = [(high - low) / 26 * i for i in range(len(ends))]
    # The nearest heights that rise by at least one step each: without the steps, they must not decrease.
    heights = isotonic_regression([end[0] - step for end, step in zip(ends, steps, strict=True)])
    for (end, name, color), height, step in zip(ends, heights, steps, strict=True):
        axes.annotate(
            name,
            (right, end),
            (1.08 * right, height + step),
            color=color,
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkB": 1, "relpos": (0, 0.5)},
        )
