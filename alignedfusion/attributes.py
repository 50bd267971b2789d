"""A table of attribute values <-> codes (eq. 4): one cell is a value's index, or `UNKNOWN` where nothing was said."""

from __future__ import annotations

import difflib
import itertools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNKNOWN = -1
"""The code of a cell that the report does not mention. It never means "absent"."""

REPORT = "report"
"""The modality whose tokens are attributes; every other modality is an image."""

_UNMENTIONED_TEXT = ("", "UN")


@dataclass(frozen=True)
class Attribute:
    """One named attribute and its candidate values.

    Args:
        name: What the report's table calls it. Underscores become spaces in prompts.
        values: The candidate values of a categorical attribute.
        kind: "categorical", or "numeric" for a number sorted into the intervals between `edges`.
        units: Unit of a numeric attribute, such as "years"; part of its prompts.
        edges: Increasing inner edges of a numeric attribute; n edges make n + 1 intervals, each closed at its lower end.
    """

    name: str
    values: tuple[str, ...] = ()
    kind: str = "categorical"
    units: str = ""
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("categorical", "numeric"):
            raise ValueError(f"attribute {self.name!r}: kind must be 'categorical' or 'numeric', got {self.kind!r}")
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"an attribute needs a name that is a non-empty string, got {self.name!r}")
        if isinstance(self.values, str):
            raise ValueError(
                f"attribute {self.name!r}: values must be a sequence of strings, got the string {self.values!r}"
            )
        if self.kind == "numeric":
            self._derive_intervals()
        elif self.edges or self.units:
            raise ValueError(f"attribute {self.name!r} is categorical: edges and units belong to kind='numeric'")
        # Frozen dataclass: lists are taken too, and stored hashable.
        object.__setattr__(self, "values", tuple(_as_text(value) for value in self.values))
        if not self.values:
            raise ValueError(f"attribute {self.name!r} has no values: name at least one")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"attribute {self.name!r} names a value twice: {list(self.values)}")
        if forbidden := [value for value in self.values if value in _UNMENTIONED_TEXT]:
            raise ValueError(
                f"attribute {self.name!r}: {forbidden[0]!r} stands for 'not mentioned' and cannot be a value"
            )

    def _derive_intervals(self) -> None:
        edges = tuple(float(edge) for edge in self.edges)
        if self.values:
            raise ValueError(f"attribute {self.name!r} is numeric: its values follow from edges; leave values out")
        if not all(math.isfinite(edge) for edge in edges) or list(edges) != sorted(set(edges)):
            raise ValueError(f"attribute {self.name!r}: edges must be finite and increasing, got {list(edges)}")
        digits = next((d for d in range(4, 18) if len({f"{edge:.{d}g}" for edge in edges}) == len(edges)), 17)
        texts = [f"{edge:.{digits}g}" for edge in edges]
        unit = f" {self.units}" if self.units else ""
        if texts:
            inner = [f"{low} to {high}{unit}" for low, high in itertools.pairwise(texts)]
            labels = [f"below {texts[0]}{unit}", *inner, f"{texts[-1]}{unit} or more"]
        else:
            labels = ["recorded"]
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "values", tuple(labels))

    def prompts(self) -> tuple[str, ...]:
        """One sentence per candidate value, for a text encoder (eq. 5)."""
        name = self.name.replace("_", " ").strip()
        return tuple(f"The {name} is {value}." for value in self.values)

    def code(self, cell: Any) -> int | None:
        """The code of one cell; `UNKNOWN` if nothing was said, None if the value is not among the candidates."""
        if _is_unmentioned(cell):
            return UNKNOWN
        if self.kind == "categorical":
            text = _as_text(cell)
            return self.values.index(text) if text in self.values else None
        try:
            number = float(cell)
        except (TypeError, ValueError):
            # An interval's own label is a value too, so that decoded rows can be encoded again.
            return self.values.index(str(cell)) if str(cell) in self.values else None
        return int(np.searchsorted(self.edges, number, side="right")) if math.isfinite(number) else None


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
    ) -> AttributeSchema:
        """Learn a schema from TRAINING rows.

        A column of numbers with more than eight distinct ones becomes numeric, with quantile edges; every other column
        becomes categorical, with its distinct values in sorted order.

        Args:
            frame: A DataFrame or a list of mappings.
            columns: The attribute columns, in the order of the schema.
            bins: Intervals of a numeric attribute.
            units: Units of numeric attributes by name, such as `{"age": "years"}`.
            max_values: A categorical column with more distinct values is refused: it is a name or free text.

        Raises:
            ValueError: If a column is not there, has no value in these rows, or has too many.
        """
        units = dict(units or {})
        if stray := sorted(set(units) - set(columns)):
            raise ValueError(f"units were given for {stray}, which are not among the columns {list(columns)}")
        return cls(
            _learn(name, _column(frame, name), bins=bins, units=units.get(name, ""), max_values=max_values)
            for name in columns
        )

    def encode(self, rows: Any, *, unseen: str = "error") -> Tensor:
        """Turn a table into codes.

        Args:
            rows: A DataFrame (other columns are left alone), or a list of mappings (a name left out is unmentioned).
                None, NaN, an empty string and "UN" are unmentioned.
            unseen: What to do with a value that is not among the candidates: "error", or "unknown" to treat it as
                unmentioned.

        Returns:
            int64 (B, A).

        Raises:
            ValueError: For an unseen value, with the values that would be right, or a name the schema does not have.
        """
        if unseen not in ("error", "unknown"):
            raise ValueError(f"unseen must be 'error' or 'unknown', got {unseen!r}")
        if not hasattr(rows, "columns"):
            self._check_names(rows)
        columns = [_encode_column(attribute, _column(rows, attribute.name), unseen) for attribute in self.attributes]
        return torch.tensor(columns, dtype=torch.int64).T.contiguous()  # (B, A)

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
        if codes.dtype != torch.int64 or codes.ndim != 2 or codes.shape[1] != len(self):
            raise ValueError(
                f"codes must be int64 of shape (B, {len(self)}), one column per attribute {list(self.names)}; "
                f"got {codes.dtype} of shape {tuple(codes.shape)}"
            )
        if torch.compiler.is_compiling():
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
            if a.kind == "numeric":
                rows.append({"name": a.name, "kind": a.kind, "units": a.units, "edges": list(a.edges)})
            else:
                rows.append({"name": a.name, "kind": a.kind, "values": list(a.values)})
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


def _encode_column(attribute: Attribute, cells: Iterable[Any], unseen: str) -> list[int]:
    known: dict[Any, int] = {}  # a column has few distinct cells, a table many rows
    codes = []
    for row, cell in enumerate(cells):
        if _is_unmentioned(cell):
            codes.append(UNKNOWN)
            continue
        if cell.__hash__ is None:
            raise ValueError(f"attribute {attribute.name!r}, row {row}: a cell is one value, got {type(cell).__name__}")
        key = (type(cell), cell)
        if key not in known:
            code = attribute.code(cell)
            if code is None:
                if unseen == "error":
                    raise ValueError(
                        f"attribute {attribute.name!r}, row {row}: {cell!r} is {_expected(attribute, cell)}; "
                        f"unseen='unknown' treats unseen values as unmentioned"
                    )
                code = UNKNOWN
            known[key] = code
        codes.append(known[key])
    return codes


def _expected(attribute: Attribute, cell: Any) -> str:
    if attribute.kind == "numeric":
        return "not a finite number"
    return f"not a known value, {_instead(_as_text(cell), attribute.values)}"


def _learn(name: str, cells: list[Any], *, bins: int, units: str, max_values: int) -> Attribute:
    cells = [cell for cell in cells if not _is_unmentioned(cell)]
    if not cells:
        raise ValueError(f"attribute {name!r} has no value in any of these rows; leave the column out")
    is_number = [_is_number(cell) for cell in cells]
    if all(is_number) and len({float(cell) for cell in cells}) > 8:
        array = np.asarray(cells, dtype=np.float64)
        if not np.isfinite(array).all():
            raise ValueError(
                f"attribute {name!r} has an infinite value; a number must be finite, or empty if unmentioned"
            )
        edges = np.unique(np.quantile(array, np.linspace(0, 1, bins + 1)[1:-1]))
        # An edge at the minimum would leave an interval without a single training row.
        return Attribute(name, kind="numeric", units=units, edges=tuple(edges[edges > array.min()].tolist()))
    if units:
        raise ValueError(
            f"units {units!r} were given for {name!r}, but its cells are not numbers (or only a few distinct)"
        )
    texts = {_as_text(cell): cell for cell in cells}
    if len(texts) > max_values:
        raise ValueError(
            f"attribute {name!r} has {len(texts)} distinct values in {len(cells)} rows, more than max_values={max_values}: "
            f"it looks like an identifier or free text ({_some(sorted(texts))}); leave it out, or group its values first"
        )
    order = sorted(texts, key=lambda text: (float(texts[text]), text)) if all(is_number) else sorted(texts)
    return Attribute(name, values=tuple(order))


def _column(rows: Any, name: str) -> list[Any]:
    if not hasattr(rows, "columns"):
        return [row.get(name) for row in rows]
    if list(rows.columns).count(name) > 1:
        raise ValueError(f"the table has more than one column {name!r}")
    if name not in rows.columns:
        raise ValueError(f"the table has no column {name!r}, {_instead(name, [str(c) for c in rows.columns])}")
    return list(rows[name])


def _is_unmentioned(cell: Any) -> bool:
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip() in _UNMENTIONED_TEXT
    try:
        return bool(cell != cell)  # NaN is the one value that differs from itself
    except TypeError:  # pandas.NA refuses to answer
        return True
    except ValueError:  # an array answers once per element: not a cell, and refused as such
        return False


def _is_number(cell: Any) -> bool:
    return isinstance(cell, numbers.Real) and not isinstance(cell, (bool, np.bool_))


def _as_text(cell: Any) -> str:
    if _is_number(cell) and float(cell).is_integer():
        return str(int(cell))  # 3.0, as a column with gaps holds it, is the 3 of a full column
    return str(cell).strip()


def _instead(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {_some(known)}"


def _some(items: Sequence[str]) -> str:
    return str(list(items[:8]))[:-1] + (f", ... {len(items) - 8} more]" if len(items) > 8 else "]")
