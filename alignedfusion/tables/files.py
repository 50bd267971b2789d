"""Tables and JSON as files: read with errors that name the file, written whole, by one job at a time."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd

MISSING_VALUES = ("", "NA", "N/A", "NaN", "nan", "<NA>", "UN", "UNK")
"""Cells of a CSV that mean "not recorded"."""

MAX_UNZIPPED = 1 << 30
"""Limit on the bytes of an unzipped table."""

FAILED = "error"
"""Cell of a report that could not be read. It differs from "UN", because the report may mention the attribute."""


def read_table(path: str | Path, *, missing_values: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table as `read_cells_of` does, and replace the cells that mean "not recorded" by NaN.

    Only the cells of `MISSING_VALUES` and `missing_values` count as not recorded.

    Args:
        path: The file.
        missing_values: Further cells that mean "not recorded".
    """
    import pandas as pd

    frame = read_cells_of(path)
    unrecorded = [*MISSING_VALUES, *missing_values]
    numbers = [float(text) for text in missing_values if re.fullmatch(r"[-+]?\d+(\.\d+)?", text)]
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object)
        if pd.api.types.is_string_dtype(column) or column.dtype == object:
            texts = column.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
            frame[name] = column.where(~texts.isin([*unrecorded, *numbers]))
        elif numbers and pd.api.types.is_numeric_dtype(column):  # of a parquet file, whose columns have types
            frame[name] = column.where(~column.isin(numbers))
    return frame


def read_cells_of(path: str | Path) -> pd.DataFrame:
    """Read a CSV file, plain or gzipped, or a parquet file.

    The cells of a CSV file are read as text, so that one cell never changes how the others of its column are read.

    Args:
        path: The file; anything but `.parquet` is read as CSV in UTF-8.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it cannot be read; the message names the file and the likely fix.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {str(path)!r}")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the table {str(path)!r} is not in UTF-8 (byte {error.start}): save it as CSV in UTF-8"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"cannot read the table {str(path)!r}: {str(error).strip()}; it must be a .csv, .csv.gz or .parquet file"
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    source = io.BytesIO(_unzip(path)) if path.suffix == ".gz" else io.BytesIO(path.read_bytes())
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    names = next(csv.reader(text), [])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"its header has more than one column {twice}; rename all but one")
    source.seek(0)
    # pandas would also take the words "None" and "null" for empty, which are answers in a clinical table.
    frame = pd.read_csv(source, encoding="utf-8-sig", dtype=str, na_filter=False)
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"its rows have more cells than the header has columns {names}")
    return frame


def _unzip(path: Path) -> bytes:
    with gzip.open(path) as file:
        data = file.read(MAX_UNZIPPED + 1)
    if len(data) > MAX_UNZIPPED:
        raise ValueError(f"it holds more than {MAX_UNZIPPED:,} bytes (tables.files.MAX_UNZIPPED); unzip it first")
    return data


def read_json(path: Path, fix: str, *, keys: Iterable[str] = ()) -> Any:
    """Read a JSON file that this library wrote.

    Args:
        path: The file.
        fix: What to do if it is damaged, for the error message.
        keys: Names that it must have.

    Raises:
        ValueError: If it holds no JSON, or lacks a name; the message names the file and the fix.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON ({error}): {fix}") from error
    if absent := [key for key in keys if not isinstance(data, dict) or key not in data]:
        raise ValueError(f"{str(path)!r} has no {absent}: {fix}")
    return data


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name, with as many underscores appended as it takes to differ from all names that are taken."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


def check_columns(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise a ValueError for a table without one of the columns."""
    if absent := [name for name in names if name not in frame.columns]:
        found = [str(name) for name in frame.columns]
        hint = " (cells of a CSV file are separated by commas)" if len(found) == 1 and {*";\t"} & {*found[0]} else ""
        raise ValueError(f"the table has no column {absent}; it has {found}{hint}")


def check_name(path: str | Path) -> Path:
    """Raise a ValueError for a name that `write_table` cannot write, before any work is done."""
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"the table must be a .csv or .parquet file, got {path.name!r}")
    return path


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table atomically, in the format of the file's suffix."""
    with write_atomically(path) as draft:
        if path.suffix == ".parquet":
            frame.to_parquet(draft)
        else:
            frame.to_csv(draft, index=False, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically. NaN, which JSON does not have, becomes null."""
    with write_atomically(path) as draft:
        draft.write_text(json.dumps(_null_for_nan(data), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _null_for_nan(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _null_for_nan(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_null_for_nan(value) for value in data]
    return None if isinstance(data, float) and data != data else data


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

    The lock is the file `.NAME.lock` beside the output. It is not deleted, because two jobs could then hold it.

    Raises:
        ValueError: If another job holds the lock, or the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another process is writing {str(path)!r}; wait until it has finished, or choose another output"
        ) from error
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error}") from error
    try:
        yield
    finally:
        lock.release()
