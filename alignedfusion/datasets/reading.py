"""The attribute cells of a table as codes, with a count of the cells that cannot be read."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from alignedfusion.attributes import AttributeSchema
from alignedfusion.attributes.cells import quote
from alignedfusion.attributes.schema import Reading

MAX_UNREAD = 0.5
"""Default limit on the share of a column's recorded cells that cannot be read."""

_log = logging.getLogger(__name__)


def read_cells(rows: Any, schema: AttributeSchema, *, max_unread: float = MAX_UNREAD) -> Reading:
    """Encode a table, log the cells that cannot be read, and refuse a column with too many of them.

    Such a cell counts as unmentioned. Short ones are quoted in the message, with the index of their rows.

    Args:
        rows: As `AttributeSchema.encode` takes them.
        schema: The attributes.
        max_unread: Limit on the share of a column's recorded cells that cannot be read, 0 to 1.

    Raises:
        ValueError: For a column above the limit.
    """
    reading = schema.read(rows)
    if not reading.is_unread.any():
        return reading
    lines = []
    for column, attribute in enumerate(schema):
        numbers = reading.is_unread[:, column].nonzero().flatten().tolist()
        if not numbers:
            continue
        recorded = len(numbers) + int((reading.codes[:, column] >= 0).sum())
        if hasattr(rows, "columns"):
            names, cells = list(rows.index), list(rows[attribute.name])
        else:
            names, cells = list(range(len(rows))), [row.get(attribute.name) for row in rows]
        line = (
            f"attribute {attribute.name!r}: {len(numbers)} of {recorded} recorded cells cannot be read, such as "
            f"{_examples([(names[number], cells[number]) for number in numbers])}; readable are {_readable(attribute)}"
        )
        if len(numbers) > max_unread * recorded:
            raise ValueError(
                f"{line}; correct the column, or raise the limit (--max-unreadable, max_unread=, now {max_unread:g}) to count "
                f"these cells as unmentioned"
            )
        lines.append(line)
    _log.warning("cells that cannot be read count as unmentioned: %s", "; ".join(lines))
    return reading


def count_unread(is_unread: Tensor, schema: AttributeSchema) -> dict[str, int]:
    """The number of cells (B, A) that could not be read, by attribute; attributes without any are left out."""
    counts = is_unread.sum(0).tolist()
    return {name: count for name, count in zip(schema.names, counts, strict=True) if count}


def name_unread(is_unread: Tensor, schema: AttributeSchema) -> list[str | None]:
    """For each row of is_unread (B, A) the attributes whose cells could not be read, separated by semicolons; or None."""
    names: list[list[str]] = [[] for _ in range(len(is_unread))]
    for row, column in torch.nonzero(is_unread).tolist():
        names[row].append(schema.names[column])
    return ["; ".join(row) or None for row in names]


def _examples(cells: list[tuple[Any, Any]]) -> str:
    first: dict[str, Any] = {}
    for row, cell in cells:
        first.setdefault(quote(cell), row)
    return ", ".join(f"{text} (row {row})" for text, row in list(first.items())[:3])


def _readable(attribute: Any) -> str:
    if attribute.kind == "numeric":
        return "numbers" + (f", with or without {attribute.units!r}" if attribute.units else "")
    more = f" and {len(attribute.values) - 8} more" if len(attribute.values) > 8 else ""
    return f"{list(attribute.values[:8])}{more}"
