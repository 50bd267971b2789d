"""Cases of a DataFrame or a Hugging Face dataset, as `training.fit` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.arrow import ArrowCases
from alignedfusion.datasets.cases import Cases, make_cases
from alignedfusion.datasets.images import image_modalities, image_paths, read_image


def cases_from(
    table: Any,
    schema: AttributeSchema,
    transform: Callable[[Any], Any] | None,
    *,
    image: str | Sequence[str],
    label: str | None = None,
    class_names: Sequence[Any] = (),
    root: str | Path = ".",
    read: Callable[[Path], Any] = read_image,
) -> Cases | ArrowCases:
    """Cases of a table, images read when they are needed.

    Args:
        table: A pandas DataFrame, or a `datasets.Dataset`. Values that the schema has not seen count as unmentioned.
        schema: The attributes; each is a column of the table.
        transform: From a PIL image to a tensor (channels, H, W), as `VisualTokenizer.transform` gives it; None for
            precomputed tokens.
        image: One or more columns. One alone is the modality "image", several go by their column names. A cell is a path; in
            a `datasets.Dataset` it may be an `Image` or an array of tokens (N, F), too. An empty cell: the case lacks it.
        label: The label column. None makes every label 0: for cases to predict.
        class_names: The labels in the order of the model's classes. May be left out where the column is a `ClassLabel`.
        root: Folder that relative paths start from.
        read: From a path to what `transform` takes. `read=str` lets the transform read the file, as MONAI's `LoadImage` does.

    Raises:
        ValueError: For a table without one of the columns, a label that `class_names` does not name, or a dataset without
            random access.
    """
    columns = (image,) if isinstance(image, str) else tuple(image)
    is_arrow = hasattr(table, "select_columns")
    names = _column_names(table, is_arrow)
    wanted = [*columns, *schema.names, *(() if label is None else (label,))]
    if absent := [name for name in wanted if name not in names]:
        raise ValueError(f"the table has no columns {absent}; it has {names}")

    cells = table.select_columns(list(schema.names)).to_pandas() if is_arrow else table
    codes = schema.encode(cells, unseen="unknown")
    if label is None:
        labels = torch.zeros(len(table), dtype=torch.int64)
    else:
        said, named = _labels(table, label, is_arrow)
        labels = _indices(said, class_names or named, label)
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


def _column_names(table: Any, is_arrow: bool) -> list[str]:
    if isinstance(table, dict):
        raise ValueError(
            f"this is a mapping with the keys {list(table)}; give one split of it, such as dataset['train']"
        )
    if is_arrow and not hasattr(table, "__len__"):
        raise ValueError(f"{type(table).__name__} has no random access: load the dataset without streaming=True")
    if not is_arrow and not hasattr(table, "iloc"):
        raise ValueError(f"expected a pandas DataFrame or a datasets.Dataset, got {type(table).__name__}")
    return list(table.column_names if is_arrow else table.columns)


def _labels(table: Any, label: str, is_arrow: bool) -> tuple[list[str], Sequence[str]]:
    """The labels as text, and the names of all classes if the table knows them."""
    names = getattr(table.features[label], "names", None) if is_arrow else None
    if names is None:
        return [str(cell) for cell in table[label]], ()
    return [names[cell] if cell is not None and cell >= 0 else str(cell) for cell in table[label]], names


def _indices(said: Sequence[str], class_names: Sequence[Any], label: str) -> Tensor:
    if not class_names:
        raise ValueError(
            f"class_names must name the classes of {label!r} in the order of the model's: model.class_names"
        )
    index = {str(name): i for i, name in enumerate(class_names)}
    if strange := [(row, text) for row, text in enumerate(said) if text not in index]:
        row, text = strange[0]
        raise ValueError(
            f"{len(strange)} rows have a label that class_names does not have: column {label!r} says {text!r} in row {row}, "
            f"known are {list(index)}"
        )
    return torch.tensor([index[text] for text in said], dtype=torch.int64)
