"""Tables as files, CSV or parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MISSING_VALUES = ("", "NA", "N/A", "NaN", "nan", "<NA>", "UN", "UNK")
"""Cells of a CSV that mean "not recorded"."""


def read_table(path: str | Path, *, missing_values: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV or parquet file; only the cells of `MISSING_VALUES` and `missing_values` count as not recorded."""
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {str(path)!r}")
    unrecorded = [*MISSING_VALUES, *missing_values]
    if path.suffix != ".parquet":
        # pandas would also take the words "None" and "null" for empty, which are answers in a clinical table.
        return pd.read_csv(path, keep_default_na=False, na_values=unrecorded)
    frame = pd.read_parquet(path)
    for name in frame.columns:
        if pd.api.types.is_string_dtype(frame[name]):
            frame[name] = frame[name].where(~frame[name].isin(unrecorded))
    return frame


def check_columns(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Refuse a table without one of the columns."""
    if absent := [name for name in names if name not in frame.columns]:
        raise ValueError(f"the table has no column {absent}; it has {list(frame.columns)}")


def check_name(path: str | Path) -> Path:
    """Refuse a name that `write_table` cannot write, before any work is done for it."""
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"the table must be a .csv or .parquet file, got {path.name!r}")
    return path


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    draft = path.with_name(path.name + ".part")
    if path.suffix == ".parquet":
        frame.to_parquet(draft)
    else:
        frame.to_csv(draft, index=False)
    draft.replace(path)
