"""A report as pieces of text, with the evidence of its cells marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alignedfusion.reports.types import Row


class Piece(NamedTuple):
    """A piece of a report.

    Attributes:
        text: The text.
        name: The attribute that it is evidence of; None for plain text.
        state: State of the attribute's cell, such as "negative".
        is_cue: Whether the words deny or doubt a finding.
        is_first: Whether it is the first piece of the attribute, which the attribute's row links to.
    """

    text: str
    name: str | None = None
    state: str | None = None
    is_cue: bool = False
    is_first: bool = False


def pieces(text: str, row: Row) -> list[Piece]:
    """Divide a report at the borders of its evidence. Where two attributes overlap, the shorter evidence is shown."""
    targets: dict[str, tuple[int, int]] = {}
    cues: set[tuple[int, int]] = set()
    for name, cell in row.items():
        if cell.evidence is not None and cell.state is not None:
            targets[name] = cell.evidence.target
            if cell.evidence.cue is not None:
                cues.add(cell.evidence.cue)
    borders = sorted({0, len(text), *(place for span in (*targets.values(), *cues) for place in span)})
    result, shown = [], set()
    for start, end in zip(borders, borders[1:], strict=False):
        name = _owner(start, end, targets)
        is_cue = any(first <= start and end <= last for first, last in cues)
        is_first = name is not None and name not in shown
        shown.add(name)
        result.append(Piece(text[start:end], name, None if name is None else row[name].state, is_cue, is_first))
    return result


def _owner(start: int, end: int, targets: Mapping[str, tuple[int, int]]) -> str | None:
    """The attribute with the shortest evidence around a piece."""
    around = [(last - first, name) for name, (first, last) in targets.items() if first <= start and end <= last]
    return min(around)[1] if around else None
