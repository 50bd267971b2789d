"""Options for single columns of a table: units, kinds, edges, decimal signs and missing codes."""

from __future__ import annotations

import argparse
from typing import Any


def add_column_options(parser: Any) -> None:
    """Add the options for columns."""
    parser.add_argument(
        "--units", nargs="+", default=[], metavar="COL=UNIT", help="units of numeric columns, such as age=years"
    )
    parser.add_argument(
        "--kind", nargs="+", default=[], metavar="COL=KIND", help="numeric or categorical (default: from the cells)"
    )
    parser.add_argument(
        "--edges", nargs="+", default=[], metavar="COL=N,N", help="edges between the intervals of a number"
    )
    parser.add_argument(
        "--decimal", nargs="+", default=[], metavar="COL=SIGN", help="decimal sign of numbers (default: from the cells)"
    )
    parser.add_argument(
        "--missing-codes", nargs="+", default=[], metavar="COL=N,N", help="cells of a column that mean 'not recorded'"
    )


def read_column_changes(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The options for columns, as arguments of `ColumnOptions` by column."""
    changes: dict[str, dict[str, Any]] = {}
    for option, field, form, convert in (
        ("units", "units", "UNIT", str),
        ("kind", "kind", "KIND", str),
        ("edges", "edges", "NUMBER,NUMBER", _numbers),
        ("decimal", "decimal", "SIGN", str),
        ("missing_codes", "missing", "CODE,CODE", lambda text: tuple(text.split(","))),
    ):
        flag = "--" + option.replace("_", "-")
        for pair in getattr(options, option):
            name, sign, value = pair.rpartition("=")
            if not sign or not name:
                raise ValueError(f"{flag} takes COL={form}, got {pair!r}")
            changes.setdefault(name, {})[field] = convert(value)
    return changes


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"--edges takes COL=NUMBER,NUMBER, got {text!r}") from error
