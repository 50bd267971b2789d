"""What every command on a table of cases takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """Add the table as an argument by its place."""
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV or parquet file, one row per case")


def add_table_options(parser: Any) -> None:
    """Add how to read the table."""
    parser.add_argument("--image-root", metavar="FOLDER", help="where image paths start (default: the table's folder)")
    parser.add_argument(
        "--missing-values", nargs="+", default=[], metavar="TEXT", help="more cells that mean 'not recorded'"
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
    """The table, and the folder where its image paths start."""
    from alignedfusion.tables.files import read_table

    return read_table(path, missing_values=options.missing_values), Path(options.image_root or Path(path).parent)
