"""An attribute learned from the cells of a training column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

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

NUMERIC_SHARE = 0.9
"""A column is numeric if at least this share of its recorded cells are numbers."""

CODE_SHARE = 0.05
"""A column of texts of one length holds codes if at least this share of its numbers, and two, have leading zeros."""


class _Cell(NamedTuple):
    """A distinct cell of a column."""

    value: Any
    times: int
    row: int  # the first one


def learn_attribute(
    name: str, cells: Iterable[Any], options: ColumnOptions, *, bins: int, max_values: int
) -> Attribute:
    """Learn an attribute from the cells of a column; see `AttributeSchema.from_table`."""
    if options.values:
        return Attribute(name, values=options.values, missing=options.missing)
    if options.edges:
        return _numeric(name, options.edges, options.units, options.decimal, options.missing)
    distinct = _count(name, cells, options.missing)
    if not distinct:
        raise ValueError(f"attribute {name!r} has no value in any of these rows; leave the column out")
    total = sum(cell.times for cell in distinct)
    if options.kind != "categorical":
        units, decimal = options.units or _common_unit(distinct), options.decimal or _common_decimal(distinct)
        numbers = [parse_number(cell.value, units=units, decimal=decimal) for cell in distinct]
        odd = [cell for cell, number in zip(distinct, numbers, strict=True) if number is None]
        if _is_numeric(name, distinct, odd, options, units, decimal):
            found = [(n, cell.times) for n, cell in zip(numbers, distinct, strict=True) if n is not None]
            array = np.repeat([number for number, _ in found], [count for _, count in found])
            return _numeric(name, find_edges(array, bins), units, decimal, options.missing)
    texts = _merge_spellings(distinct)
    if len(texts) > max_values:
        raise ValueError(
            f"attribute {name!r} has {len(texts)} distinct values in {total} rows, more than max_values={max_values}: "
            f"it looks like an identifier or free text; leave it out, or group its values first"
        )
    order = {text: parse_number(text) for text in texts}
    by_number = all(number is not None for number in order.values())
    values = sorted(texts, key=lambda text: (order[text] if by_number else 0.0, text))
    return Attribute(name, values=tuple(values), missing=options.missing)


def _count(name: str, cells: Iterable[Any], missing: tuple[str, ...]) -> list[_Cell]:
    """The distinct recorded cells; a long column has few."""
    found: dict[Any, list[int]] = {}
    for row, cell in enumerate(cells):
        if cell.__hash__ is None:
            raise ValueError(f"attribute {name!r}, row {row}: a cell is one value, got {type(cell).__name__}")
        key = (type(cell), cell)
        if key in found:
            found[key][0] += 1
        elif not is_unmentioned(cell) and (not missing or find_value(cell, missing) is None):
            found[key] = [1, row]
    return [_Cell(cell, count, row) for (_, cell), (count, row) in found.items()]


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
    name: str, cells: Sequence[_Cell], odd: Sequence[_Cell], options: ColumnOptions, units: str, decimal: str
) -> bool:
    total, wrong = sum(cell.times for cell in cells), sum(cell.times for cell in odd)
    named = (
        f"{wrong} of its {total} recorded cells are not, such as {quote(odd[0].value)} (row {odd[0].row})"
        if odd
        else ""
    )
    if options.kind == "numeric":
        if wrong == total:
            raise ValueError(f"attribute {name!r} must be numeric, but none of its cells is a number: {named}")
        return True
    if _are_codes(cells):
        return False
    if total - wrong >= NUMERIC_SHARE * total:
        return True
    # A comma before three digits separates thousands or decimals: 1,250 is one number or the other.
    readable = [parse_number(cell.value, units=units, decimal=decimal or ",") is not None for cell in odd]
    unclear = [cell for cell, is_number in zip(odd, readable, strict=True) if is_number]
    if total - wrong + sum(cell.times for cell in unclear) >= NUMERIC_SHARE * total:
        raise ValueError(
            f"attribute {name!r}: the comma in {quote(unclear[0].value)} (row {unclear[0].row}) may separate thousands or "
            f"decimals; give the column's decimal sign"
        )
    if 2 * wrong < total and len(cells) - len(odd) > FEW:
        raise ValueError(
            f"attribute {name!r} has numbers, but {named}; give its kind, or the cells that mean 'not recorded'"
        )
    return False


def _are_codes(cells: Sequence[_Cell]) -> bool:
    """Whether numbers are codes, such as 01 to 12: texts of one length, of which several have leading zeros."""
    texts = [(cell.value.strip(), cell.times) for cell in cells if isinstance(cell.value, str)]
    numbers = [(text, count) for text, count in texts if text.isdigit()]
    zeros = sum(count for text, count in numbers if text.startswith("0") and len(text) > 1)
    is_frequent = zeros > 1 and zeros >= CODE_SHARE * sum(count for _, count in numbers)
    return is_frequent and len({len(text) for text, _ in numbers}) == 1


def _merge_spellings(cells: Sequence[_Cell]) -> list[str]:
    """The distinct texts; of those that differ in case and spaces only, the most frequent one."""
    counts: Counter[str] = Counter()
    for cell in cells:
        counts[as_text(cell.value)] += cell.times
    best: dict[str, str] = {}
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        best.setdefault(fold(text), text)
    return list(best.values())


def _common_unit(cells: Sequence[_Cell]) -> str:
    """The unit of a column: one that follows the number in at least half of the cells, if no other does. Else empty."""
    units: Counter[str] = Counter()
    for cell in cells:
        if isinstance(cell.value, str) and (quantity := split_quantity(cell.value)) and quantity[1]:
            _, unit, has_space = quantity
            if has_space or len(unit) > 1 or unit in "%°":
                units[unit] += cell.times
    first = next(iter(units), "")
    if 2 * sum(units.values()) < sum(cell.times for cell in cells) or not all(
        is_same_unit(unit, first) for unit in units
    ):
        return ""
    return max(units, key=lambda unit: (units[unit], unit), default="")


def _common_decimal(cells: Sequence[_Cell]) -> str:
    """The decimal sign of a column: a comma if some texts can only be read so and none is written with a point."""
    texts = [cell.value for cell in cells if isinstance(cell.value, str)]
    quantities = [quantity[0] for text in texts if (quantity := split_quantity(text))]
    signs = {decimal_sign(digits) for digits in quantities if "," in digits}
    if "," in signs and "." not in signs and not any("." in digits for digits in quantities if "," not in digits):
        return ","
    return "." if "." in signs and "," not in signs else ""
