"""The attributes of a cohort, and its tables as codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignedfusion.attributes.attribute import UNKNOWN, Attribute
from alignedfusion.attributes.cells import as_text, is_unmentioned, quote
from alignedfusion.attributes.columns import ColumnOptions
from alignedfusion.attributes.learning import learn_attribute

REPORT = "report"
"""The modality whose tokens are attributes; every other modality is an image."""

_UNREAD = -2


class Reading(NamedTuple):
    """The result of `AttributeSchema.read`.

    Attributes:
        codes: int64 (B, A), `UNKNOWN` where a cell is not recorded or cannot be read.
        is_unread: bool (B, A), True where a cell is recorded but cannot be read.
    """

    codes: Tensor
    is_unread: Tensor


class AttributeSchema:
    """The attributes of a cohort, in the order of the code columns.

    Args:
        attributes: One `Attribute` per column; names are distinct.
    """

    def __init__(self, attributes: Iterable[Attribute]) -> None:
        self.attributes = tuple(attributes)
        if not self.attributes:
            raise ValueError("a schema needs at least one attribute")
        self.names = tuple(attribute.name for attribute in self.attributes)
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"attribute names must be distinct; named more than once: {twice}")
        self.num_values = tuple(len(attribute.values) for attribute in self.attributes)

    @classmethod
    def from_table(
        cls,
        frame: Any,
        columns: Sequence[str],
        *,
        bins: int = 4,
        units: Mapping[str, str] | None = None,
        max_values: int = 50,
        options: Mapping[str, ColumnOptions] | None = None,
    ) -> AttributeSchema:
        """Learn a schema from TRAINING rows.

        A column becomes numeric if at least 90 % of its recorded cells are numbers, with quantile edges; a number that fills
        more than one interval's share of the rows gets an interval of its own, and so does each of up to eight distinct
        numbers. Cells that are no numbers then count as unreadable (see `read`). Numbers with leading zeros are codes. Every
        other column becomes categorical, with its distinct values in sorted order.

        Args:
            frame: A DataFrame or a list of mappings.
            columns: The attribute columns, in the order of the schema.
            bins: Number of intervals of a numeric attribute.
            units: Units of numeric attributes by name, such as `{"age": "years"}`.
            max_values: A categorical column with more distinct values is refused, because it is a name or free text.
            options: What is known about some of the columns and need not be learned, by name.

        Raises:
            ValueError: If a column does not exist, has no value in these rows, has too many, or mixes many numbers with many
                other cells.
        """
        options = dict(options or {})
        for name, unit in (units or {}).items():
            options[name] = replace(options.get(name, ColumnOptions()), units=unit, kind="numeric")
        if stray := sorted(set(options) - set(columns)):
            raise ValueError(
                f"units or options were given for {stray}, which are not among the columns {list(columns)}"
            )
        return cls(
            learn_attribute(
                name, _column(frame, name), options.get(name, ColumnOptions()), bins=bins, max_values=max_values
            )
            for name in columns
        )

    def encode(self, rows: Any, *, unseen: str = "error") -> Tensor:
        """Turn a table into codes.

        Args:
            rows: A DataFrame, whose other columns are ignored, or a list of mappings, in which an absent name is unmentioned.
                None, NaN, an empty string and "UN" are unmentioned.
            unseen: What to do with a cell that cannot be read (see `read`): "error", or "unknown" to treat it as unmentioned.

        Returns:
            int64 (B, A).

        Raises:
            ValueError: For a cell that cannot be read, with the values that would be right, or a name that is not in the
                schema.
        """
        if unseen not in ("error", "unknown"):
            raise ValueError(f"unseen must be 'error' or 'unknown', got {unseen!r}")
        reading = self.read(rows)
        if unseen == "error" and reading.is_unread.any():
            column, row = reading.is_unread.T.nonzero()[0].tolist()
            attribute = self.attributes[column]
            cell = _column(rows, attribute.name)[row]
            raise ValueError(
                f"attribute {attribute.name!r}, row {row}: {quote(cell)} is {_expected(attribute, cell)}; "
                f"unseen='unknown' treats unseen values as unmentioned"
            )
        return reading.codes

    def read(self, rows: Any) -> Reading:
        """Turn a table into codes, and mark the cells that are recorded but cannot be read.

        Such a cell has a value that is not among the candidates, or no finite number. Its code is `UNKNOWN`.

        Args:
            rows: As in `encode`.
        """
        if not hasattr(rows, "columns"):
            self._check_names(rows)
        columns = [_encode_column(attribute, _column(rows, attribute.name)) for attribute in self.attributes]
        codes = torch.tensor(columns, dtype=torch.int64).T.contiguous()  # (B, A)
        is_unread = codes == _UNREAD
        return Reading(codes.masked_fill(is_unread, UNKNOWN), is_unread)

    def decode(self, codes: Tensor) -> list[dict[str, str | None]]:
        """Turn codes (B, A) back into rows of values; None where unmentioned."""
        self.check_codes(codes)
        return [
            {a.name: None if code == UNKNOWN else a.values[code] for a, code in zip(self.attributes, row, strict=True)}
            for row in codes.tolist()
        ]

    def check_codes(self, codes: Tensor) -> None:
        """Refuse codes of the wrong type, shape or range, naming the attribute.

        The range is checked here on the CPU; on a GPU it becomes an assertion that does not wait for the device.
        """
        if not isinstance(codes, Tensor):
            raise ValueError(
                f"codes must be an int64 tensor of shape (B, {len(self)}), got {type(codes).__name__}: "
                f"schema.encode(rows) turns a list such as [{_example(self.attributes[0])}] or a DataFrame into codes"
            )
        if codes.dtype != torch.int64 or codes.ndim != 2 or codes.shape[1] != len(self):
            raise ValueError(
                f"codes must be int64 of shape (B, {len(self)}), one column per attribute {list(self.names)}; "
                f"got {codes.dtype} of shape {tuple(codes.shape)}{_cure(codes, len(self))}"
            )
        if torch.compiler.is_compiling() or codes.is_meta:
            return
        limits = torch.tensor(self.num_values, device=codes.device)
        is_right = (codes >= UNKNOWN) & (codes < limits)
        if codes.is_cuda:
            torch._assert_async(is_right.all(), "an attribute code is out of range; run on the CPU to see which")
        elif not is_right.all():
            row, column = (~is_right).nonzero()[0].tolist()
            raise ValueError(
                f"code {int(codes[row, column])} in row {row} is out of range for attribute {self.names[column]!r}: "
                f"{self.num_values[column]} values {_some(self.attributes[column].values)} take codes 0 to "
                f"{self.num_values[column] - 1}, and {UNKNOWN} means unmentioned"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; part of every checkpoint."""
        rows: list[dict[str, Any]] = []
        for a in self.attributes:
            row: dict[str, Any] = {"name": a.name, "kind": a.kind}
            if a.kind == "numeric":
                row |= {"units": a.units, "edges": list(a.edges)}
            else:
                row |= {"values": list(a.values)}
            if a.decimal:
                row["decimal"] = a.decimal
            if a.missing:
                row["missing"] = list(a.missing)
            rows.append(row)
        return {"attributes": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AttributeSchema:
        """The schema that `to_dict` described."""
        return cls(Attribute(**row) for row in data["attributes"])

    def difference(self, other: AttributeSchema) -> str:
        """What another schema has otherwise, in words; empty if they are equal."""
        if self.names != other.names:
            return f"attributes {list(self.names)} against {list(other.names)}"
        for mine, theirs in zip(self.attributes, other.attributes, strict=True):
            if mine.values != theirs.values:
                return f"attribute {mine.name!r} has values {_some(mine.values)} against {_some(theirs.values)}"
            if mine != theirs:
                return f"attribute {mine.name!r} is {mine} against {theirs}"
        return ""

    def _check_names(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if isinstance(rows, Mapping):
            raise ValueError("rows must be a DataFrame or a list of mappings, got one mapping; for one row, pass [row]")
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"rows must be a DataFrame or a list of mappings; row {number} is {type(row).__name__}"
                )
            for name in row:
                if name not in self.names:
                    raise ValueError(f"row {number} names the attribute {name!r}, {_instead(name, self.names)}")

    def __len__(self) -> int:
        return len(self.attributes)

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self.attributes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSchema) and self.attributes == other.attributes

    def __hash__(self) -> int:
        return hash(self.attributes)

    def __repr__(self) -> str:
        return f"AttributeSchema({list(self.attributes)})"


def check_probability(name: str, value: float) -> None:
    """Raise a ValueError if `value` is not between 0 and 1."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


def _encode_column(attribute: Attribute, cells: Iterable[Any]) -> list[int]:
    """The codes of a column; `_UNREAD` for a cell that is recorded and cannot be read."""
    known: dict[Any, int] = {}  # a column has few distinct cells, a table many rows
    codes = []
    for row, cell in enumerate(cells):
        if is_unmentioned(cell):
            codes.append(UNKNOWN)
            continue
        if cell.__hash__ is None:
            raise ValueError(f"attribute {attribute.name!r}, row {row}: a cell is one value, got {type(cell).__name__}")
        key = (type(cell), cell)
        if key not in known:
            code = attribute.code(cell)
            known[key] = _UNREAD if code is None else code
        codes.append(known[key])
    return codes


def _expected(attribute: Attribute, cell: Any) -> str:
    if attribute.kind == "numeric":
        unit = f", or a number with the unit {attribute.units!r}" if attribute.units else ""
        return f"not a finite number{unit}"
    return f"not a known value, {_instead(as_text(cell), attribute.values)}"


def _column(rows: Any, name: str) -> list[Any]:
    if not hasattr(rows, "columns"):
        return [row.get(name) for row in rows]
    if list(rows.columns).count(name) > 1:
        raise ValueError(f"the table has more than one column {name!r}")
    if name not in rows.columns:
        raise ValueError(f"the table has no column {name!r}, {_instead(name, [str(c) for c in rows.columns])}")
    return list(rows[name])


def _example(attribute: Attribute) -> str:
    """A row that mentions one attribute, as Python code."""
    return repr({attribute.name: attribute.values[0] if attribute.kind == "categorical" else 1})


def _cure(codes: Tensor, count: int) -> str:
    """What makes codes of the wrong type or shape right, if that can be seen."""
    if tuple(codes.shape) == (count,):
        return ": a single row needs a batch dimension, codes[None]"
    return ": codes.long()" if codes.ndim == 2 and codes.shape[1] == count else ""


def _instead(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {_some(known)}"


def _some(items: Sequence[str]) -> str:
    return str(list(items[:8]))[:-1] + (f", ... {len(items) - 8} more]" if len(items) > 8 else "]")
