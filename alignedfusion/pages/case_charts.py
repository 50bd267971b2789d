"""The figures of a case page."""

from __future__ import annotations

from collections.abc import Sequence

from alignedfusion.pages.rendering import signed
from alignedfusion.pages.svg import FAVOURS, INK, NEUTRAL, OPPOSES, SOFT, new_figure, page_style, to_svg


def waterfall(steps: Sequence[tuple[str, str, float]], *, first: str, second: str) -> str:
    """A waterfall from the prior to the prediction, in logits of one class against another.

    Args:
        steps: Name of each term, the value of an attribute, and what the term adds; the first is the prior.
        first: The class that positive numbers favour.
        second: The class that negative numbers favour.
    """
    total = sum(value for *_, value in steps)
    with page_style():
        figure, axes = new_figure(300, 44 + 19 * (len(steps) + 1))
        level = 0.0
        for row, (*_, value) in enumerate(steps):
            color = NEUTRAL if row == 0 else FAVOURS if value >= 0 else OPPOSES
            axes.barh(row, value, left=level, height=0.66, color=color)
            axes.plot([level + value] * 2, [row - 0.33, row + 1.33], color=INK, linewidth=0.6)
            level += value
        axes.barh(len(steps), total, height=0.66, color=FAVOURS if total >= 0 else OPPOSES)
        axes.axvline(0, color=INK, linewidth=0.8)
        _name_steps(axes, [*steps, ("prediction", "", total)])
        axes.set_xlabel(f"← {_short(second)}\u2003logit\u2003{_short(first)} →")
        parts = ", ".join(f"{name}{f' {cell}' if cell else ''} {signed(value)}" for name, cell, value in steps)
        alt = f"Waterfall of {first} against {second}, in logits: {parts}; together {signed(total)}."
        return to_svg(figure, name="waterfall", alt=alt)


def _name_steps(axes: object, steps: Sequence[tuple[str, str, float]]) -> None:
    """Names of the steps at the left, and their numbers at the right, where no bar can cover them."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.set_yticks(range(len(steps)), [_label(name, cell) for name, cell, _ in steps])
    axes.set_ylim(len(steps) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color=SOFT)
    axes.spines["left"].set_visible(False)
    for row, (*_, value) in enumerate(steps):
        axes.annotate(
            signed(value),
            (1, row),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
        )


def _label(name: str, cell: str) -> str:
    return f"{_short(name, 15)}: {_short(cell, 13)}" if cell else _short(name, 24)


def _short(text: str, limit: int = 15) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
