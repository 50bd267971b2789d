"""Tables as files, CSV or parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd

MISSING_VALUES = ("", "NA", "N/A", "NaN", "nan", "<NA>", "UN", "UNK")
"""Cells of a CSV that mean "not recorded"."""

FAILED = "error"
"""Cell of a report that could not be read. It differs from "UN", because the report may mention the attribute."""


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
    """Write a table atomically, as the file's suffix says."""
    with write_atomically(path) as draft:
        if path.suffix == ".parquet":
            frame.to_parquet(draft)
        else:
            frame.to_csv(draft, index=False, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    with write_atomically(path) as draft:
        draft.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a draft's path, and move the draft to `path` at the end; after an error `path` stays as it was."""
    draft = path.with_name(path.name + ".part")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Hold the lock of an output, so that one job at a time writes it. The lock ends with the process.

    The lock is the file `.NAME.lock` beside the output. It is left there: deleting it would let two jobs hold it.

    Raises:
        ValueError: If another job holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another process is writing {str(path)!r}; wait until it has finished, or choose another output"
        ) from error
    try:
        yield
    finally:
        lock.release()
