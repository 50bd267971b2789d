"""Cells, rows and evidence: what is extracted from a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Span = tuple[int, int]
"""Start and end of a span of characters, as in a Python slice."""

POSITIVE, NEGATIVE, UNCERTAIN, UNVERIFIED = "positive", "negative", "uncertain", "unverified"
UN = "UN"
"""Text of a cell in the table if the report does not mention the attribute."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Spans of the text that a cell rests on.

    Attributes:
        target: Words that name the attribute or its value.
        sentence: Sentence that contains them.
        cue: Words that deny or doubt the finding; None if there are none.
    """

    target: Span
    sentence: Span
    cue: Span | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the attribute table (eq. 4).

    Attributes:
        value: Value such as "positive", "nodular" or "63"; None if the report does not mention the attribute (UN).
        state: "positive", "negative" or "uncertain"; "unverified" if the text does not support the value of a chat
            model; None if unmentioned.
        evidence: Spans of the text; None if unmentioned.
    """

    value: str | None = None
    state: str | None = None
    evidence: Evidence | None = None


UNMENTIONED = Cell()
Row = dict[str, Cell]
"""A cell for each attribute, in the order of the table's columns."""


class ReportFailedError(ValueError):
    """A report could not be read. The message contains the reason and never quotes the report."""


class ServerError(RuntimeError):
    """The server cannot read any report. The message contains the fix; the run can be resumed."""


class Extractor(Protocol):
    """Interface of extractors: `RuleExtractor`, `ChatExtractor`, or a class of your own."""

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes, in the order of the table's columns."""

    def extract(self, text: str) -> Row:
        """Extract one report, or raise `ReportFailedError`."""


def to_json(row: Row) -> dict[str, list[object]]:
    """The mentioned cells as plain JSON: value, state, and the spans of target, sentence and cue."""
    return {
        name: [cell.value, cell.state, *(() if (e := cell.evidence) is None else (e.target, e.sentence, e.cue))]
        for name, cell in row.items()
        if cell.state is not None
    }


def from_json(data: dict[str, list[Any]], names: Sequence[str]) -> Row:
    """The row that `to_json` converted, with a cell for each name."""
    row = dict.fromkeys(names, UNMENTIONED)
    for name, (value, state, *spans) in data.items():
        evidence = Evidence(*(None if span is None else tuple(span) for span in spans)) if spans else None  # type: ignore[arg-type]
        row[name] = Cell(value, state, evidence)
    return row
