"""Pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def accuracy_against_missing(
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    path: str | Path,
    *,
    title: str,
    chance: float | None = None,
) -> None:
    """Draw accuracy against the share of missing attributes.

    Args:
        curves: For each name, points (share missing, accuracy, deviation), all 0 to 1.
        path: Where to write the picture.
        title: Its heading.
        chance: Accuracy of always naming the most frequent class, drawn as a dotted line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        shares, accuracies, deviations = (([100 * point[i] for point in points]) for i in range(3))
        axes.errorbar(
            shares, accuracies, deviations, label=name, marker="os^Dv"[number % 5], capsize=3, color=f"C{number}"
        )
    if chance is not None:
        axes.axhline(100 * chance, color="grey", linestyle=":", label="most frequent class")
    axes.set_xlabel("attributes missing (%)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
