"""Which cases of a table were used in training: identity by a key column or by content, never by the spelling of a path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence, Set
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

    With a key column, a case is identified by its key. Without one, or where the key is empty, it is identified by the content
    of its image files, in the order of the columns. A case without any image is identified by the text of its other cells, and
    an image that was deleted, which a token cache allows, by its path.

    Args:
        path: The file to write.
        frame: The training and validation rows.
        columns: The use of the columns.
        root: Folder that relative image paths start from.
    """
    others = [name for name in frame.columns if name not in (*columns.images, columns.split)]
    uses = (*(columns.attributes or ()), *columns.labels, columns.group)
    core = [name for name in others if name in uses]
    images = _hash_images(frame, columns, root)
    # Of a case with a key also its content: a later table may leave the key empty.
    keys = [_hash("key", key) for key in _keys(frame, columns.key) if key is not None]
    write_json(
        path,
        {
            "key": columns.key,
            "columns": others,
            "core": core,
            "cases": sorted({*keys, *_contents(frame, images, others)}),
            "cores": sorted({*keys, *_contents(frame, images, core)}),
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
    keys = _keys(frame, key)
    contents = _contents(frame, _hash_images(frame, columns, root), names)
    return [
        (content if key is None else _hash("key", key)) in known for key, content in zip(keys, contents, strict=True)
    ]


def identify_images(frame: pd.DataFrame, columns: CaseColumns, root: str | Path) -> set[str]:
    """The identities of the images of some rows, as hashes: of each file its content and its path."""
    files = _hash_files(image_paths(frame, tuple(columns.images), root).values())
    return {*files.values(), *map(_hash_path, files)}


def find_images(known: Set[str], frame: pd.DataFrame, columns: CaseColumns, root: str | Path) -> list[bool]:
    """Whether each row has an image among those that `identify_images` returned: by content or by path, in any column."""
    paths = image_paths(frame, tuple(columns.images), root)
    files = _hash_files(paths.values())
    is_known = {image: identity in known or _hash_path(image) in known for image, identity in files.items()}
    return [any(is_known.get(image, False) for image in row) for row in zip(*paths.values(), strict=True)]


def read_images(path: Path) -> set[str]:
    """The identities of images in a file that `training.tuned_weights` wrote."""
    return set(read_json(path, "copy the file again, or tune the backbone again", keys=("images",))["images"])


def _keys(frame: pd.DataFrame, column: str | None) -> list[str | None]:
    """The key of each row; None where it is empty."""
    if column is None:
        return [None] * len(frame)
    return [None if is_unmentioned(cell) else as_text(cell) for cell in frame[column]]


def _hash_images(frame: pd.DataFrame, columns: CaseColumns, root: str | Path) -> list[str | None]:
    """The content of each row's images, as one hash; None for a row without any."""
    paths = image_paths(frame, tuple(columns.images), root)
    files = _hash_files(paths.values())
    return [
        None
        if all(path is None for path in row)
        else _hash("images", *("" if path is None else files[path] for path in row))
        for row in zip(*paths.values(), strict=True)
    ]


def _contents(frame: pd.DataFrame, images: Sequence[str | None], names: Sequence[str]) -> list[str]:
    """The identity of each row by content: its images, or its cells in these columns if it has none."""
    cells = [[f"{name}={_cell(cell)}" for cell in frame[name]] for name in names]
    return [
        image if image is not None else _hash("cells", *(column[row] for column in cells))
        for row, image in enumerate(images)
    ]


def _cell(cell: Any) -> str:
    return "" if is_unmentioned(cell) else as_text(cell).casefold()


def _hash_files(columns: Iterable[Sequence[Path | None]]) -> dict[Path | None, str]:
    """The identity of each distinct file in some columns of paths."""
    distinct = list(dict.fromkeys(path for column in columns for path in column if path is not None))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(distinct, pool.map(_hash_file, distinct), strict=True))


def _hash_path(path: Path | None) -> str:
    return _hash("path", os.path.abspath(str(path)))


def _hash_file(path: Path) -> str:
    if not path.is_file():
        return _hash_path(path)
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
