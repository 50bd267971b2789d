"""Tables and plain text in Markdown, whatever characters the text has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold any text."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "&#92;")
    for sign in "|`*_[]#~":
        text = text.replace(sign, f"\\{sign}")
    return text


def code(text: str) -> str:
    """Text as inline code, on one line."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def names(each: Iterable[str]) -> str:
    """A list of names, each as it is."""
    return ", ".join(plain(name) for name in each)
