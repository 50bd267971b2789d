"""Arguments shared by the commands that read a table of cases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """Add the table as a positional argument."""
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV or parquet file, one row per case")


def add_table_options(parser: Any) -> None:
    """Add the options for reading the table."""
    parser.add_argument(
        "--image-root",
        metavar="FOLDER",
        help="folder that relative image paths start from (default: the table's folder)",
    )
    parser.add_argument(
        "--missing-values", nargs="+", default=[], metavar="TEXT", help="additional texts that mean 'not recorded'"
    )


def add_max_unreadable(parser: Any) -> None:
    """Add the limit on cells that cannot be read."""
    parser.add_argument(
        "--max-unreadable",
        type=float,
        default=0.5,
        metavar="S",
        help="refuse a column if more than this share of its recorded cells cannot be read (default: 0.5)",
    )


def read_cases(path: str, options: argparse.Namespace) -> tuple[pd.DataFrame, Path]:
    """The table, and the folder that its relative image paths start from."""
    from alignedfusion.tables.files import read_table

    return read_table(path, missing_values=options.missing_values), Path(options.image_root or Path(path).parent)


def read_attributes(text: str | None) -> dict[str, Any]:
    """The attributes of one case from the text of `--attributes`."""
    try:
        attributes = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"--attributes is not JSON ({error}): write it like '{{\"age\": 54}}'") from error
    if not isinstance(attributes, dict):
        raise ValueError(f"--attributes must be a JSON object of names and values, got {text}")
    return attributes
