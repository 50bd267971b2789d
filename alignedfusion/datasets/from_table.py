"""Cases from a DataFrame or a Hugging Face dataset, for `training.fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.arrow import ArrowCases
from alignedfusion.datasets.cases import Cases, make_cases
from alignedfusion.datasets.images import image_modalities, image_paths, read_image
from alignedfusion.datasets.labels import Labels
from alignedfusion.datasets.reading import MAX_UNREAD, read_cells


def cases_from(
    table: Any,
    schema: AttributeSchema,
    transform: Callable[[Any], Any] | None,
    *,
    image: str | Sequence[str],
    label: str | Labels | None = None,
    class_names: Sequence[Any] = (),
    root: str | Path = ".",
    read: Callable[[Path], Any] = read_image,
    max_unread: float = MAX_UNREAD,
) -> Cases | ArrowCases:
    """Make cases from a table; images are read on access.

    Args:
        table: A pandas DataFrame, or a `datasets.Dataset`. Cells that the schema cannot read count as unmentioned.
        schema: The attributes; each is a column of the table.
        transform: Function from a PIL image to a tensor (channels, H, W), such as `VisualTokenizer.transform` returns; None
            for precomputed tokens.
        image: One or more columns. One column is the modality "image", several are named after their columns. A cell is a
            path; in a `datasets.Dataset` it may also be an `Image` or an array of tokens (N, F). An empty cell means that the
            case lacks the image.
        label: The column of classes, or `Labels` with the columns of another task. None makes every label 0, for cases to
            predict.
        class_names: The labels in the order of the model's classes. They may be left out if the column is a `ClassLabel`.
        root: Folder that relative paths start from.
        read: Function from a path to the input of `transform`. With `read=str` the transform reads the file, as MONAI's
            `LoadImage` does.
        max_unread: Limit on the share of a column's recorded cells that the schema cannot read, see `read_cells`.

    Raises:
        ValueError: For a table without one of the columns, a label that `class_names` does not name, or a dataset without
            random access.
    """
    columns = (image,) if isinstance(image, str) else tuple(image)
    is_arrow = hasattr(table, "select_columns")
    names = _column_names(table, is_arrow)
    label_columns = () if label is None else (label,) if isinstance(label, str) else label.columns
    wanted = [*columns, *schema.names, *label_columns]
    if absent := [name for name in wanted if name not in names]:
        raise ValueError(f"the table has no columns {absent}; it has {names}")

    cells = _arrow_cells(table, schema) if is_arrow else table
    codes = read_cells(cells, schema, max_unread=max_unread).codes
    if label is None:
        labels = torch.zeros(len(table), dtype=torch.int64)
    else:
        frame, known = _label_cells(table, label_columns, is_arrow)
        kind = _one_column(label, class_names or known) if isinstance(label, str) else label
        labels = kind.read(frame)
    if is_arrow:
        return ArrowCases(
            table,
            dict(zip(image_modalities(columns), columns, strict=True)),
            codes,
            labels,
            transform,
            root=root,
            read=read,
        )
    return make_cases(image_paths(table, columns, root), codes, labels, transform, read=read)


def _arrow_cells(table: Any, schema: AttributeSchema) -> Any:
    """The attribute columns as a DataFrame. A `ClassLabel` holds indices: they become its names, as a schema has them."""
    frame = table.select_columns(list(schema.names)).to_pandas()
    for attribute in schema:
        names = getattr(table.features[attribute.name], "names", None)
        if names is not None and attribute.kind == "categorical":
            indices = frame[attribute.name]
            frame[attribute.name] = [names[int(cell)] if cell >= 0 else None for cell in indices.fillna(-1)]
    return frame


def _column_names(table: Any, is_arrow: bool) -> list[str]:
    if isinstance(table, dict):
        raise ValueError(
            f"the table is a mapping with the keys {list(table)}; pass one split of it, such as dataset['train']"
        )
    if is_arrow and not hasattr(table, "__len__"):
        raise ValueError(f"{type(table).__name__} has no random access: load the dataset without streaming=True")
    if not is_arrow and not hasattr(table, "iloc"):
        raise ValueError(f"expected a pandas DataFrame or a datasets.Dataset, got {type(table).__name__}")
    return list(table.column_names if is_arrow else table.columns)


def _label_cells(table: Any, columns: Sequence[str], is_arrow: bool) -> tuple[Any, Sequence[str]]:
    """The label columns as a DataFrame with rows counted from 0, and the names of all classes if one is a `ClassLabel`."""
    if not is_arrow:
        return table[list(columns)].reset_index(drop=True), ()
    frame = table.select_columns(list(columns)).to_pandas()
    known: Sequence[str] = ()
    for column in columns:
        if (names := getattr(table.features[column], "names", None)) is not None:
            known = names
            frame[column] = [names[int(cell)] if cell >= 0 else None for cell in frame[column].fillna(-1)]
    return frame, known


def _one_column(column: str, class_names: Sequence[Any]) -> Labels:
    if not class_names:
        raise ValueError(
            f"class_names must name the classes of {column!r} in the order of the model's: model.class_names; for numbers pass "
            f"label=Labels(({column!r},), 'regression', ({column!r},))"
        )
    return Labels((column,), "multiclass", tuple(str(name) for name in class_names))
