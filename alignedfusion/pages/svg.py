"""Figures of matplotlib as SVG inside a page: they follow its colours, light or dark, and its font."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib needs real colours; in the finished SVG each of them becomes a variable of the page's style sheet.
INK, SOFT, FAVOURS, OPPOSES, NEUTRAL = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = ("#010201", "#010202", "#010203", "#010204", "#010205", "#010206", "#010207")
_VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--line)",
    FAVOURS: "var(--favours)",
    OPPOSES: "var(--opposes)",
    NEUTRAL: "var(--neutral)",
    **{color: f"var(--k{i})" for i, color in enumerate(SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": SOFT,
    "grid.linewidth": 0.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}


@contextmanager
def page_style() -> Iterator[None]:
    """Settings of matplotlib for the figures of a page; draw and convert them inside."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """A figure and its axes; 360 points of width are a phone's page.

    Args:
        width: Width in points.
        height: Height in points.
        **subplots: Arguments of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.subplots(**subplots)


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """A figure as the text of an `<svg>` element.

    Args:
        figure: The figure, drawn within `page_style`.
        name: Its name, unique within the page.
        alt: What the figure shows, in words.
    """
    from markupsafe import Markup, escape

    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    head, _, rest = text.partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert size is not None
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {size[1]} {size[2]}" role="img"'
    label = f' style="max-width: {1.5 * float(size[1]):.0f}px" aria-label="{escape(alt)}"'
    return Markup(f"{opening}{label}>{rest}")
