"""Reports as a table: from a CSV or parquet file, or from a folder of text files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignedfusion.tables.files import check_columns, read_cells_of

if TYPE_CHECKING:
    import pandas as pd


def read_reports(path: str | Path) -> pd.DataFrame:
    """Read reports: a CSV or parquet file, or a folder of text files (columns `file` and `text`).

    A folder is read with its subfolders. Files of other kinds are left out with a warning.

    Raises:
        FileNotFoundError: If nothing exists at this path.
        ValueError: If the file cannot be read, or the folder holds no text file.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no reports at {str(path)!r}")
    return read_cells_of(path)  # cells pass through as they are written


def _read_folder(folder: Path) -> pd.DataFrame:
    import pandas as pd

    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    if not texts:
        found = f"; it holds {len(files)} files of other kinds, such as {files[0].name!r}" if files else ""
        raise ValueError(f"there is no .txt file in {str(folder)!r} or its subfolders{found}")
    if others := [file for file in files if file.suffix.lower() != ".txt"]:
        warnings.warn(
            f"{len(others)} files in {str(folder)!r} are not .txt files and were left out, such as {others[0].name!r}",
            stacklevel=4,
        )
    return pd.DataFrame(
        {"file": [file.relative_to(folder).as_posix() for file in texts], "text": [_read_text(file) for file in texts]}
    )


def _read_text(file: Path) -> str:
    """The text of a file in UTF-8, or in the Windows code page of Western Europe, which most other files are in."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def join_texts(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The text of each row: its columns one after the other, empty ones left out.

    Raises:
        ValueError: If a column is missing.
    """
    check_columns(frame, columns)
    cells = (frame[column].fillna("").astype(str).tolist() for column in columns)
    return ["\n".join(cell for cell in row if cell.strip()) for row in zip(*cells, strict=True)]
