"""One attribute of a report, and the codes of its cells."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignedfusion.attributes.cells import UNMENTIONED_TEXT, as_text, find_value, is_unmentioned, parse_number

UNKNOWN = -1
"""The code of a cell that the report does not mention. It never means "absent"."""


@dataclass(frozen=True)
class Attribute:
    """One named attribute and its candidate values.

    Args:
        name: The column of the table. Underscores become spaces in prompts.
        values: The candidate values of a categorical attribute.
        kind: "categorical", or "numeric" for a number sorted into the intervals between `edges`.
        units: Unit of a numeric attribute, such as "years"; it is written in prompts and may follow the number in a cell.
        edges: Increasing inner edges of a numeric attribute; n edges make n + 1 intervals, each closed at its lower end.
            Without edges there is one value, "recorded".
        decimal: Decimal sign of a numeric attribute's texts, "." or ","; by default it is inferred from each text.
        missing: Further cells that mean "not recorded", such as "999".
    """

    name: str
    values: tuple[str, ...] = ()
    kind: str = "categorical"
    units: str = ""
    edges: tuple[float, ...] = ()
    decimal: str = ""
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("categorical", "numeric"):
            raise ValueError(f"attribute {self.name!r}: kind must be 'categorical' or 'numeric', got {self.kind!r}")
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"an attribute needs a name that is a non-empty string, got {self.name!r}")
        for field in ("values", "missing"):
            if isinstance(getattr(self, field), str):
                raise ValueError(
                    f"attribute {self.name!r}: {field} must be a sequence of strings, got the string "
                    f"{getattr(self, field)!r}"
                )
        if self.decimal not in ("", ".", ","):
            raise ValueError(f"attribute {self.name!r}: decimal must be '.' or ',', got {self.decimal!r}")
        if self.kind == "numeric":
            self._derive_intervals()
        elif self.edges or self.units or self.decimal:
            raise ValueError(
                f"attribute {self.name!r} is categorical: edges, units and decimal belong to kind='numeric'"
            )
        # A frozen dataclass: sequences of any type are stored as tuples, which are hashable.
        object.__setattr__(self, "values", tuple(as_text(value) for value in self.values))
        object.__setattr__(self, "missing", tuple(as_text(value) for value in self.missing))
        if not self.values:
            raise ValueError(f"attribute {self.name!r} has no values: name at least one")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"attribute {self.name!r} names a value twice: {list(self.values)}")
        if forbidden := [value for value in self.values if value in (*UNMENTIONED_TEXT, *self.missing)]:
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

    def is_missing(self, cell: Any) -> bool:
        """Whether a cell is not recorded: empty, "UN", or one of `missing`."""
        return is_unmentioned(cell) or (bool(self.missing) and find_value(cell, self.missing) is not None)

    def number(self, cell: Any) -> float | None:
        """The number in a cell of a numeric attribute, or None."""
        return parse_number(cell, units=self.units, decimal=self.decimal)

    def code(self, cell: Any) -> int | None:
        """The code of one cell; `UNKNOWN` if it is not recorded, None if it cannot be read.

        A cell may differ from a value in case and spaces. Decoded rows can be encoded again, because the label of an
        interval is a readable cell, too.
        """
        if self.is_missing(cell):
            return UNKNOWN
        if self.kind == "numeric" and (number := self.number(cell)) is not None:
            return int(np.searchsorted(self.edges, number, side="right"))
        return find_value(cell, self.values)
