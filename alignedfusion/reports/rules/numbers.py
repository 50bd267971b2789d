"""Numbers in reports: decimal points and commas, thousands, and the two or three extents of a lesion."""

from __future__ import annotations

import re

_DIGITS = (
    r"(?:[1-9]\d{0,2}(?:,\d{3}){1,3}(?![\d,])(?:\.\d{1,4})?|[1-9]\d{0,2}(?:\s000){1,2}|\d{1,7}(?:[.,]\d{1,4})?)(?!\d)"
)
_UNIT = r"(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)"
_AXIS = (
    r"(?:trans(?:verse)?|tr[av]?|ap|cc|si|ml|lr|craniocaudal|anteroposterior|long|length|wide|width|deep|depth|high|height"
    r"|tall|[lwhd])"
)
_LABEL = rf"(?:[\s\-]{{0,3}}{_UNIT}\b)?(?:\s{{0,2}}(?:\({_AXIS}\)|{_AXIS}\b))?"
_TIMES = r"\s{0,2}(?:x|by|\*|\u00d7)\s{0,2}"
NUMBER_PATTERN = (
    rf"(?<![\d.,])(?P<number>{_DIGITS}"
    rf"(?:(?:{_LABEL}{_TIMES}{_DIGITS}){{1,3}}(?=[\s\-]{{0,3}}(?:\({_AXIS}\)\s{{0,2}})?{_UNIT})(?:\s{{0,2}}\({_AXIS}\))?)?)"
)
"""A number, or extents such as "12 x 10 x 8", which must be followed by a unit of length: "7.5 x 10^9/L" is one number."""

_EXTENT = re.compile(rf"(?P<digits>{_DIGITS})(?:[\s\-]{{0,3}}(?P<unit>[mc])(?:m\b|illimet|entimet))?", re.IGNORECASE)
_LAST_UNIT = re.compile(r"[\s\-]{0,3}(?P<unit>[mc])(?:m\b|illimet|entimet)", re.IGNORECASE)
_MILLIMETERS = {"m": 1.0, "c": 10.0}


def read_number(text: str, match: re.Match[str]) -> float | None:
    """The number in a match of a term; of extents the largest, in the unit of the last one."""
    if match["number"] is None:
        return None
    start, end = match.span("number")
    extents = [*_EXTENT.finditer(text, start, end)]
    if len(extents) == 1:
        return parse_number(extents[0]["digits"])
    last = _LAST_UNIT.match(text, end)
    unit = last["unit"].lower() if last else "m"
    return max(
        parse_number(extent["digits"]) * _MILLIMETERS[(extent["unit"] or unit).lower()] / _MILLIMETERS[unit]
        for extent in extents
    )


def parse_number(digits: str) -> float:
    """A number as reports write it: "12,000" and "12 000" are thousands, "1,5" is one and a half."""
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    return float(re.sub(r"\s", "", digits).replace(",", "."))
