"""Single cells of a table: whether one is recorded, its text, its number, and the value that it spells."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

UNMENTIONED_TEXT = ("", "UN")

_QUANTITY = re.compile(r"([-+]?(?:\d[\d.,]*|\.\d+)(?:[eE][-+]?\d+)?)(\s*)(.*)", re.DOTALL)
_GROUPED = {sign: re.compile(rf"[-+]?\d{{1,3}}(?:\{sign}\d{{3}})+") for sign in ",."}


def is_unmentioned(cell: Any) -> bool:
    """Whether a cell is None, NaN, an empty string or "UN"."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip() in UNMENTIONED_TEXT
    try:
        return bool(cell != cell)  # NaN is the one value that differs from itself
    except TypeError:  # pandas.NA has no truth value
        return True
    except ValueError:  # an array has one per element: not a cell, and refused as such
        return False


def is_number(cell: Any) -> bool:
    """Whether a cell has a numeric type; booleans do not count."""
    return isinstance(cell, (numbers.Real, Decimal)) and not isinstance(cell, (bool, np.bool_))


def as_text(cell: Any) -> str:
    """The text of a cell; 3.0, which a column with gaps holds, is the "3" of a full column."""
    if is_number(cell) and (number := _finite(cell)) is not None and number.is_integer():
        return str(int(cell))
    return str(cell).strip()


def quote(cell: Any) -> str:
    """A cell as error messages show it: quoted if it is short, and never free text."""
    text = as_text(cell)
    if is_number(cell):
        return text
    return repr(text) if len(text) <= 24 else f"a text of {len(text)} characters"


def split_quantity(text: str) -> tuple[str, str, bool] | None:
    """The number of "63 years", its unit, and whether a space stands between; None if the text has no such form."""
    if (match := _QUANTITY.fullmatch(text.strip().replace("\u2212", "-"))) is None:  # a typographic minus sign
        return None
    return match[1], match[3].strip(), bool(match[2])


def parse_number(cell: Any, *, units: str = "", decimal: str = "") -> float | None:
    """The finite number in a cell, or None.

    Args:
        cell: A number or a text, such as "63", "63.5", "63,5" or "1,250.5".
        units: A unit that may follow the number, in singular or plural.
        decimal: The decimal sign, "." or ","; the other one separates thousands. By default it is inferred from each text,
            and an ambiguous one ("1,250") is no number.
    """
    if is_number(cell):
        return _finite(cell)
    if not isinstance(cell, str) or (quantity := split_quantity(cell)) is None:
        return None
    digits, suffix, _ = quantity
    if suffix and not is_same_unit(suffix, units):
        return None
    try:
        return _finite(_with_point(digits, decimal or decimal_sign(digits)))
    except ValueError:
        return None


def _finite(number: Any) -> float | None:
    """The number as a float; None if it is not finite or too large for one."""
    try:
        value = float(number)
    except OverflowError:  # an integer of some 400 digits
        return None
    return value if math.isfinite(value) else None


def is_same_unit(first: str, second: str) -> bool:
    """Whether two units are equal, up to case and a plural s: "year" and "Years" are, "s" and "" are not."""
    short, long = sorted((first.casefold(), second.casefold()), key=len)
    return short == long or (len(short) > 1 and long == short + "s")


def decimal_sign(digits: str) -> str:
    """The decimal sign that a number is written with, "." or ","; empty if the text is ambiguous, as "1,250" is."""
    if "," not in digits:
        return "."
    if "." in digits:
        return max(",.", key=digits.rfind)
    if digits.count(",") > 1:
        return "."
    head, tail = digits.split(",")
    is_group = len(tail) == 3 and head.lstrip("+-") not in ("", "0") and len(head.lstrip("+-")) <= 3
    return "" if is_group else ","


def _with_point(digits: str, decimal: str) -> str:
    """The digits as `float` takes them.

    Raises:
        ValueError: If the text is ambiguous, or its thousands are not grouped by three.
    """
    if not decimal:
        raise ValueError("ambiguous")
    other = "," if decimal == "." else "."
    whole, sign, rest = digits.partition(decimal)
    if other in whole and not _GROUPED[other].fullmatch(whole):
        raise ValueError("not grouped by three")
    return whole.replace(other, "") + ("." + rest if sign else "")


def find_value(cell: Any, values: Sequence[str]) -> int | None:
    """The index of the value that a cell spells, or None.

    The exact text comes first; then the text without regard to case and spaces, and then the number, if just one value has
    it: "TRUE" is "True", and "1" is "01".
    """
    exact, folded, by_number = _spellings(tuple(values))
    if (index := exact.get(text := as_text(cell))) is not None:
        return index
    if (index := folded.get(fold(text))) is not None:
        return index
    number = parse_number(cell)
    return None if number is None else by_number.get(number)


@lru_cache(maxsize=1024)
def _spellings(values: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int], dict[float, int]]:
    exact = {value: i for i, value in enumerate(values)}
    folded, by_number = [fold(value) for value in values], [parse_number(value) for value in values]
    return (
        exact,
        {text: i for i, text in enumerate(folded) if folded.count(text) == 1},
        {number: i for i, number in enumerate(by_number) if number is not None and by_number.count(number) == 1},
    )


def fold(text: str) -> str:
    """A text without regard to case and spaces."""
    return " ".join(text.casefold().split())
