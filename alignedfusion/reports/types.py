"""What a report says of one attribute, and where it says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Span = tuple[int, int]
"""Start and end of a stretch of characters, as Python slices count them."""

POSITIVE, NEGATIVE, UNCERTAIN, UNVERIFIED = "positive", "negative", "uncertain", "unverified"
UN = "UN"
"""How a table shows a cell that the report does not mention."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where in the text a cell comes from.

    Attributes:
        target: The words that name the attribute or its value.
        sentence: The sentence they stand in.
        cue: The words that deny it or put it in doubt, if there are any.
    """

    target: Span
    sentence: Span
    cue: Span | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the attribute table (eq. 4).

    Attributes:
        value: What the table shows: "positive", "nodular", "63"; None where the report says nothing (UN).
        state: "positive", "negative" or "uncertain"; "unverified" if a chat model gave a value that the text does not
            bear out; None where the report says nothing.
        evidence: Where it says so; None where it says nothing.
    """

    value: str | None = None
    state: str | None = None
    evidence: Evidence | None = None


UNMENTIONED = Cell()
Row = dict[str, Cell]
"""A cell for each attribute, in the order of the table's columns."""


class ReportFailedError(ValueError):
    """This report could not be read. The message says why and never quotes the report."""


class ServerError(RuntimeError):
    """The server cannot serve any report. The message says what to do; rows that are not done can be resumed."""


class Extractor(Protocol):
    """Anything that reads a report: `RuleExtractor`, `ChatExtractor`, or a pipeline of your own."""

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes, in the order of the table's columns."""

    def extract(self, text: str) -> Row:
        """Read one report; `ReportFailedError` if that is not possible."""


def to_json(row: Row) -> dict[str, list[object]]:
    """What is mentioned, as plain JSON: value, state, and the spans of target, sentence and cue."""
    return {
        name: [cell.value, cell.state, *(() if (e := cell.evidence) is None else (e.target, e.sentence, e.cue))]
        for name, cell in row.items()
        if cell.state is not None
    }


def from_json(data: dict[str, list[Any]], names: Sequence[str]) -> Row:
    """The row that `to_json` described, with a cell for each of the names."""
    row = dict.fromkeys(names, UNMENTIONED)
    for name, (value, state, *spans) in data.items():
        evidence = Evidence(*(None if span is None else tuple(span) for span in spans)) if spans else None  # type: ignore[arg-type]
        row[name] = Cell(value, state, evidence)
    return row
