"""What a user states about a column of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from alignedfusion.attributes.cells import as_text


@dataclass(frozen=True)
class ColumnOptions:
    """Properties of an attribute column; those left out are learned from the training rows.

    Args:
        kind: "categorical" or "numeric".
        units: Unit of a numeric column, such as "years".
        edges: Inner edges of a numeric column's intervals.
        values: The values of a categorical column.
        decimal: Decimal sign of a numeric column's texts, "." or ",".
        missing: Cells that mean "not recorded", such as 999.
    """

    kind: str = ""
    units: str = ""
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    decimal: str = ""
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("", "categorical", "numeric"):
            raise ValueError(f"kind must be 'categorical' or 'numeric', got {self.kind!r}")
        if self.decimal not in ("", ".", ","):
            raise ValueError(f"decimal must be '.' or ',', got {self.decimal!r}")
        for name in ("edges", "values", "missing"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a list, got the text {getattr(self, name)!r}")
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))
        object.__setattr__(self, "values", tuple(as_text(value) for value in self.values))
        object.__setattr__(self, "missing", tuple(as_text(value) for value in self.missing))
        is_numeric = bool(self.edges or self.units or self.decimal)
        if is_numeric and (self.values or self.kind == "categorical"):
            raise ValueError(
                "edges, units and decimal belong to a numeric column, values to a categorical one; give one kind"
            )
        if not self.kind and (is_numeric or self.values):
            object.__setattr__(self, "kind", "numeric" if is_numeric else "categorical")

    def to_dict(self) -> dict[str, Any]:
        """The options that are stated, as plain JSON types."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ColumnOptions:
        """Read the options of one column from plain JSON or YAML types.

        Raises:
            ValueError: For an unknown option, or one with a wrong value.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(data, Mapping):
            raise ValueError(f"a column takes a mapping with {known}, got {data!r}")
        if unknown := [name for name in data if name not in known]:
            raise ValueError(f"unknown options {unknown}; a column takes {known}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"edges, values and missing must be lists: {error}") from error
