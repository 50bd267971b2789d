"""An attribute learned from the cells of a training column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from alignedfusion.attributes.attribute import Attribute
from alignedfusion.attributes.cells import (
    as_text,
    decimal_sign,
    find_value,
    fold,
    is_same_unit,
    is_unmentioned,
    parse_number,
    quote,
    split_quantity,
)
from alignedfusion.attributes.columns import ColumnOptions

FEW = 8
"""A column with at most this many distinct numbers gets an interval for each of them."""

_CODE = re.compile(r"0\d+")  # leading zeros mark a code, not a number

NUMERIC_SHARE = 0.9
"""A column is numeric if at least this share of its recorded cells are numbers."""


def learn_attribute(
    name: str, cells: Sequence[Any], options: ColumnOptions, *, bins: int, max_values: int
) -> Attribute:
    """Learn an attribute from the cells of a column; see `AttributeSchema.from_table`."""
    rows = [
        (row, cell)
        for row, cell in enumerate(cells)
        if not is_unmentioned(cell) and (not options.missing or find_value(cell, options.missing) is None)
    ]
    if options.values:
        return Attribute(name, values=options.values, missing=options.missing)
    if options.edges:
        return _numeric(name, options.edges, options.units, options.decimal, options.missing)
    if not rows:
        raise ValueError(f"attribute {name!r} has no value in any of these rows; leave the column out")
    if options.kind != "categorical":
        texts = [cell for _, cell in rows if isinstance(cell, str)]
        units, decimal = options.units or _common_unit(texts, len(rows)), options.decimal or _common_decimal(texts)
        numbers = [parse_number(cell, units=units, decimal=decimal) for _, cell in rows]
        if _is_numeric(name, rows, numbers, options):
            found = np.array([number for number in numbers if number is not None])
            return _numeric(name, find_edges(found, bins), units, decimal, options.missing)
    distinct = _spellings(cell for _, cell in rows)
    if len(distinct) > max_values:
        raise ValueError(
            f"attribute {name!r} has {len(distinct)} distinct values in {len(rows)} rows, more than max_values={max_values}: "
            f"it looks like an identifier or free text; leave it out, or group its values first"
        )
    order = {text: parse_number(text) for text in distinct}
    by_number = all(number is not None for number in order.values())
    values = sorted(distinct, key=lambda text: (order[text] if by_number else 0.0, text))
    return Attribute(name, values=tuple(values), missing=options.missing)


def find_edges(numbers: np.ndarray, bins: int) -> tuple[float, ...]:
    """Edges of intervals that all hold some of the numbers (n,).

    Up to `FEW` distinct numbers get an interval each. More are divided at their quantiles, but a number that fills more than
    one interval's share of the rows gets an interval of its own, and the quantiles are those of the rest.
    """
    distinct, counts = np.unique(numbers, return_counts=True)
    if len(distinct) <= FEW:
        return tuple(distinct[1:].tolist())
    is_pile = counts > len(numbers) / bins
    rest = numbers[~np.isin(numbers, distinct[is_pile])]
    edges = np.quantile(rest, np.linspace(0, 1, max(bins - int(is_pile.sum()), 1) + 1)[1:-1])
    piles = np.flatnonzero(is_pile)
    edges = np.concatenate([edges, distinct[piles], distinct[piles[piles + 1 < len(distinct)] + 1]])
    # Two edges between neighbouring numbers would enclose an empty interval; so would one at or below the smallest.
    edges = np.unique(edges)
    first, keep = np.unique(np.searchsorted(distinct, edges), return_index=True)
    return tuple(edges[keep[first > 0]].tolist())


def _numeric(name: str, edges: tuple[float, ...], units: str, decimal: str, missing: tuple[str, ...]) -> Attribute:
    return Attribute(name, kind="numeric", units=units, edges=edges, decimal=decimal, missing=missing)


def _is_numeric(
    name: str, rows: Sequence[tuple[int, Any]], numbers: Sequence[float | None], options: ColumnOptions
) -> bool:
    odd = [(row, cell) for (row, cell), number in zip(rows, numbers, strict=True) if number is None]
    named = (
        f"{len(odd)} of its {len(rows)} recorded cells are not, such as {quote(odd[0][1])} (row {odd[0][0]})"
        if odd
        else ""
    )
    if options.kind == "numeric":
        if len(odd) == len(rows):
            raise ValueError(f"attribute {name!r} must be numeric, but none of its cells is a number: {named}")
        return True
    is_code = any(isinstance(cell, str) and _CODE.fullmatch(cell.strip()) for _, cell in rows)
    if is_code:
        return False
    if len(rows) - len(odd) >= NUMERIC_SHARE * len(rows):
        return True
    if 2 * len(odd) < len(rows) and len({number for number in numbers if number is not None}) > FEW:
        raise ValueError(
            f"attribute {name!r} has numbers, but {named}; give its kind, the cells that mean 'not recorded', or its decimal "
            f"sign"
        )
    return False


def _spellings(cells: Iterable[Any]) -> list[str]:
    """The distinct texts, of those that differ in case and spaces only the most frequent one."""
    counts = Counter(map(as_text, cells))
    best: dict[str, str] = {}
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        best.setdefault(fold(text), text)
    return list(best.values())


def _common_unit(texts: Sequence[str], count: int) -> str:
    """The unit of a column: one that follows the number in at least half of the cells, if no other does. Else empty."""
    found = [quantity for text in texts if (quantity := split_quantity(text)) and quantity[1]]
    units = [unit for _, unit, has_space in found if has_space or len(unit) > 1 or unit in "%°"]
    if not units or 2 * len(units) < count or not all(is_same_unit(unit, units[0]) for unit in units):
        return ""
    return max(set(units), key=lambda unit: (units.count(unit), unit))


def _common_decimal(texts: Sequence[str]) -> str:
    """The decimal sign of a column: a comma if some texts can only be read so and none is written with a point."""
    quantities = [quantity[0] for text in texts if (quantity := split_quantity(text))]
    signs = {decimal_sign(digits) for digits in quantities if "," in digits}
    if "," in signs and "." not in signs and not any("." in digits for digits in quantities if "," not in digits):
        return ","
    return "." if "." in signs and "," not in signs else ""
