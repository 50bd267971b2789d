"""A report with the evidence of its cells marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignedfusion.reports.sources import join_texts, read_reports
from alignedfusion.reports.table import digest_of, evidence_file
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNCERTAIN, UNVERIFIED, Row, from_json
from alignedfusion.tables.journal import read_journal

_COLORS = {POSITIVE: "\033[1;32m", NEGATIVE: "\033[1;31m", UNCERTAIN: "\033[1;33m", UNVERIFIED: "\033[1;35m"}
_CUE, _PLAIN = "\033[4m", "\033[0m"


@dataclass(frozen=True)
class TableEvidence:
    """The reports of a table that `extract` wrote, with the evidence of its cells.

    Attributes:
        texts: The text of each report.
        prefix: Prefix of the attribute columns of the table.
        attributes: The attributes, without the prefix.
        rows: The lines of the evidence file by row number.
    """

    texts: list[str]
    prefix: str
    attributes: list[str]
    rows: dict[int, dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> TableEvidence:
        """Read an evidence file, and the reports that it names.

        Raises:
            ValueError: If the reports have changed since the extraction.
        """
        about, rows, _ = read_journal(path)
        texts = join_texts(read_reports(Path(path).parent / about["reports"]), about["text"])
        if digest_of(texts) != about["sha256"]:
            raise ValueError(
                f"the reports in {about['reports']!r} have changed since {str(path)!r} was made; extract again"
            )
        return cls(texts, about["prefix"], about["attributes"], rows)

    def failure(self, number: int) -> str | None:
        """The reason why the report of a row could not be read; None if it was read."""
        if not 0 <= number < len(self.texts):
            raise ValueError(f"there is no row {number}: the table has rows 0 to {len(self.texts) - 1}")
        return self.rows.get(number, {"error": "not read yet"}).get("error")

    def report(self, number: int) -> tuple[str, Row]:
        """The text of a row's report and its cells, by the names of the attributes without the prefix.

        Raises:
            ValueError: If the row does not exist or its report could not be read.
        """
        if reason := self.failure(number):
            raise ValueError(f"the report of row {number} could not be read: {reason}")
        return self.texts[number], from_json(self.rows[number]["cells"], self.attributes)


def show(table: str | Path, number: int, attributes: Sequence[str] | None = None, *, color: bool = False) -> str:
    """Show one row of a table that `extract` wrote: its report with marks, followed by its cells.

    Findings are marked as `[pleural effusion]{pleural_effusion: negative}`, words that deny or doubt as `<no>`.

    Args:
        table: Path of the table.
        number: Row number, from 0.
        attributes: Attributes to show; all by default.
        color: Whether to use terminal colours instead of brackets.

    Raises:
        FileNotFoundError: If the table has no evidence beside it.
        ValueError: If the row or an attribute does not exist, or the reports have changed since the extraction.
    """
    if not evidence_file(table).is_file():
        raise FileNotFoundError(
            f"{str(table)!r} has no evidence: {evidence_file(table).name!r} must lie beside it, as `alignedfusion extract` "
            "writes it; a table from elsewhere cannot be shown"
        )
    evidence = TableEvidence.read(evidence_file(table))
    if reason := evidence.failure(number):
        return f"{evidence.texts[number]}\n\nrow {number} could not be read: {reason}"
    text, row = evidence.report(number)
    if unknown := [name for name in attributes or () if name not in row]:
        raise ValueError(f"{str(table)!r} has no attribute {unknown[0]!r}; it has {', '.join(row)}")
    chosen = {name: cell for name, cell in row.items() if attributes is None or name in attributes}
    return mark(text, chosen, color=color) + "\n\n" + _listing(chosen)


def mark(text: str, row: Row, *, color: bool = False) -> str:
    """Mark the evidence of the cells in the text."""
    opening: dict[int, list[str]] = {}
    closing: dict[int, list[str]] = {}
    for name, cell in row.items():
        if cell.evidence is None or cell.state is None:
            continue
        start, end = cell.evidence.target
        opening.setdefault(start, []).append(_COLORS[cell.state] if color else "[")
        closing.setdefault(end, []).append((_PLAIN if color else "]") + f"{{{name}: {cell.value}}}")
        if cell.evidence.cue is not None and cell.evidence.cue not in [(start, end)]:
            first, last = cell.evidence.cue
            mark_cue = (_CUE, _PLAIN) if color else ("<", ">")
            if mark_cue[0] not in opening.get(first, []):
                opening.setdefault(first, []).append(mark_cue[0])
                closing.setdefault(last, []).append(mark_cue[1])
    places = sorted({0, len(text), *opening, *closing})
    parts = []
    for place, following in zip(places, [*places[1:], len(text)], strict=True):
        parts += closing.get(place, []) + opening.get(place, []) + [text[place:following]]
    return "".join(parts)


def _listing(row: Row) -> str:
    said = {name: cell for name, cell in row.items() if cell.state is not None}
    width = max((len(name) for name in said), default=0)
    lines = [f"{name:{width}}  {cell.value}" for name, cell in said.items()]
    silent = [name for name in row if name not in said]
    return "\n".join([*lines, *([f"UN: {', '.join(silent)}"] if silent else [])])
