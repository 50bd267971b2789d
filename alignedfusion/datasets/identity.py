"""Which cases of a table were used in training: identity by a key column or by content, never by the spelling of a path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.attributes.cells import as_text, is_unmentioned
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.images import image_paths
from alignedfusion.tables.files import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd


def write_trained_cases(path: Path, frame: pd.DataFrame, columns: CaseColumns, root: str | Path) -> None:
    """Write the identities of the cases that a model was trained on, as hashes.

    With a key column, a case is its key. Otherwise it is the content of its image files, in the order of the columns. A case
    without any image is the text of all its other cells. An image that was deleted, which a token cache allows, is its path.

    Args:
        path: The file to write.
        frame: The training and validation rows.
        columns: The use of the columns.
        root: Folder that relative image paths start from.
    """
    others = [name for name in frame.columns if name not in columns.images]
    core = [name for name in _core(columns) if name in others]
    write_json(
        path,
        {
            "key": columns.key,
            "columns": others,
            "core": core,
            "cases": sorted(set(_identities(frame, columns, root, others))),
            "cores": sorted(set(_identities(frame, columns, root, core))),
        },
    )


def find_trained_cases(path: Path, frame: pd.DataFrame, columns: CaseColumns, root: str | Path) -> list[bool]:
    """Whether each row of a table is a case of the file that `write_trained_cases` wrote.

    A case without any image is compared by all its cells if the table has all columns of the training table, otherwise by
    its attributes, label and patient.

    Raises:
        ValueError: If the table lacks the run's key column.
    """
    trained = read_json(
        path, "copy the run again, or train it again", keys=("key", "columns", "core", "cases", "cores")
    )
    if (key := trained["key"]) is not None and key not in frame.columns:
        raise ValueError(f"the run identifies its cases by the column {key!r}, which the table does not have; add it")
    has_all = all(name in frame.columns for name in trained["columns"])
    names = trained["columns"] if has_all else [name for name in trained["core"] if name in frame.columns]
    known = set(trained["cases"] if has_all else trained["cores"])
    uses = CaseColumns(images=columns.images, label=columns.label, attributes=columns.attributes, key=key)
    return [identity in known for identity in _identities(frame, uses, root, names)]


def _core(columns: CaseColumns) -> Iterable[str]:
    return dict.fromkeys((*(columns.attributes or ()), columns.label, *([columns.group] if columns.group else [])))


def _identities(frame: pd.DataFrame, columns: CaseColumns, root: str | Path, others: Sequence[str]) -> list[str]:
    if columns.key is not None:
        return [_hash("key", as_text(cell)) for cell in frame[columns.key]]
    paths = image_paths(frame, tuple(columns.images), root)
    files = _hash_files(path for column in paths.values() for path in column if path is not None)
    cells = [[_cell(cell) for cell in frame[name]] for name in others]
    identities = []
    for row, images in enumerate(zip(*paths.values(), strict=True)):
        if any(path is not None for path in images):
            identities.append(_hash("images", *("" if path is None else files[path] for path in images)))
        else:
            identities.append(
                _hash("cells", *(f"{name}={column[row]}" for name, column in zip(others, cells, strict=True)))
            )
    return identities


def _cell(cell: Any) -> str:
    return "" if is_unmentioned(cell) else as_text(cell).casefold()


def _hash_files(paths: Iterable[Path]) -> Mapping[Path, str]:
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(distinct, pool.map(_hash_file, distinct), strict=True))


def _hash_file(path: Path) -> str:
    if not path.is_file():
        return _hash("path", os.path.abspath(path))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hash(*words: str) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update(f"{len(word)}:{word}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
