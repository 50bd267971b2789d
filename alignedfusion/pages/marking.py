"""A report as pieces of text, with the evidence of its cells marked."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from alignedfusion.reports.types import Row


class Piece(NamedTuple):
    """A piece of a report.

    Attributes:
        text: The text.
        names: The attributes that it is evidence of, the one with the shortest evidence first.
        ends: Those of them whose evidence ends with this piece.
        is_cue: Whether the words deny or doubt a finding.
    """

    text: str
    names: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    is_cue: bool = False


def divide(text: str, row: Row) -> list[Piece]:
    """Divide a report at the borders of its evidence."""
    targets: dict[str, tuple[int, int]] = {}
    cues: set[tuple[int, int]] = set()
    for name, cell in row.items():
        if cell.evidence is not None and cell.state is not None:
            targets[name] = cell.evidence.target
            if cell.evidence.cue is not None:
                cues.add(cell.evidence.cue)
    shortest_first = sorted(targets, key=lambda name: targets[name][1] - targets[name][0])
    borders = sorted({0, len(text), *itertools.chain(*targets.values(), *cues)})
    return [
        Piece(
            text[start:end],
            names=tuple(name for name in shortest_first if _covers(targets[name], start, end)),
            ends=tuple(name for name in targets if _covers(targets[name], start, end) and targets[name][1] == end),
            is_cue=any(_covers(cue, start, end) for cue in cues),
        )
        for start, end in itertools.pairwise(borders)
    ]


def _covers(span: tuple[int, int], start: int, end: int) -> bool:
    return span[0] <= start and end <= span[1]
