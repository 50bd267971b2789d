"""Cases to write pages of: rows of a table, or image files with attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from alignedfusion.attributes.cells import as_text, is_unmentioned
from alignedfusion.datasets.cases import make_cases
from alignedfusion.datasets.images import check_images, image_paths
from alignedfusion.evaluation.inference import prepare_images
from alignedfusion.pages.case import Case
from alignedfusion.reports.showing import TableEvidence
from alignedfusion.tables.files import check_columns

if TYPE_CHECKING:
    import pandas as pd

    from alignedfusion.modules.classifier import AlignedFusionClassifier
    from alignedfusion.reports.types import Row


def single_case(
    model: AlignedFusionClassifier, images: Sequence[str | Path], attributes: Mapping[str, Any]
) -> list[Case]:
    """The case of some image files and attributes, as a list of one.

    Args:
        model: The model.
        images: One path for each image modality of the model, in its order.
        attributes: Values of the mentioned attributes by name.
    """
    if len(images) != len(model.image_modalities):
        raise ValueError(
            f"this model takes one image each of {list(model.image_modalities)}, got {len(images)}; a case that lacks one is a "
            f"row of a table, with an empty cell"
        )
    paths = {m: [Path(path)] for m, path in zip(model.image_modalities, images, strict=True)}
    codes = model.schema.encode([dict(attributes)])
    return _cases(model, paths, codes, ["One case"])


def table_cases(
    model: AlignedFusionClassifier,
    frame: pd.DataFrame,
    rows: Sequence[int],
    *,
    images: Sequence[str],
    root: str | Path = ".",
    label: str | None = None,
    key: Sequence[str] = (),
    is_trained: Sequence[bool] | None = None,
    evidence: TableEvidence | None = None,
) -> list[Case]:
    """Cases of some rows of a table.

    Args:
        model: The model.
        frame: The table. Its index holds the numbers of the rows.
        rows: Numbers of the rows.
        images: Image columns, one for each image modality of the model, in its order.
        root: Folder that relative image paths start from.
        label: Label column, if the table has one.
        key: Columns that identify a case; the pages show their cells.
        is_trained: Whether the model was trained on each of the rows; None if that is not known. The pages state it.
        evidence: Evidence of the table's attributes; the pages then show the text of the reports.

    Raises:
        ValueError: For rows or columns that the table does not have, cells or images that cannot be read, or evidence of
            another table.
    """
    if len(images) != len(model.image_modalities):
        raise ValueError(
            f"this model takes one image each of {list(model.image_modalities)}; got the columns {list(images)}"
        )
    check_columns(frame, [*images, *model.schema.names, *key])
    if absent := [row for row in rows if row not in frame.index]:
        raise ValueError(f"there is no row {absent[0]}: the table has rows 0 to {len(frame) - 1}")
    chosen = frame.loc[list(rows)]
    paths = dict(zip(model.image_modalities, image_paths(chosen, images, root).values(), strict=True))
    reading = model.schema.read(chosen)
    has_label = label is not None and label in frame.columns
    reports = [None if evidence is None else _report(evidence, frame, row, model.schema.names) for row in rows]
    return _cases(
        model,
        paths,
        reading.codes,
        [f"Row {row}" for row in rows],
        labels=[None if is_unmentioned(cell) else as_text(cell) for cell in chosen[label]] if has_label else None,
        is_trained=is_trained,
        unread=[
            [name for name, is_unread in zip(model.schema.names, row, strict=True) if is_unread]
            for row in reading.is_unread.tolist()
        ],
        reports=reports,
        identities=[{name: as_text(chosen[name].iloc[i]) for name in key} for i in range(len(rows))],
    )


def _cases(
    model: AlignedFusionClassifier,
    paths: Mapping[str, Sequence[Path | None]],
    codes: Tensor,
    names: Sequence[str],
    *,
    labels: Sequence[str | None] | None = None,
    is_trained: Sequence[bool] | None = None,
    unread: Sequence[Sequence[str]] | None = None,
    reports: Sequence[tuple[str, Row] | None] | None = None,
    identities: Sequence[Mapping[str, str]] | None = None,
) -> list[Case]:
    check_images(path for column in paths.values() for path in column if path is not None)
    cases = make_cases(paths, codes, None, **prepare_images(model))
    return [
        Case(
            name,
            cases[i],
            sizes={m: size for m, column in paths.items() if (size := _size(column[i])) is not None},
            label=None if labels is None else labels[i],
            is_trained=is_trained is not None and bool(is_trained[i]),
            unread=() if unread is None else unread[i],
            report=None if reports is None else reports[i],
            identity={} if identities is None else identities[i],
        )
        for i, name in enumerate(names)
    ]


def _size(path: Path | None) -> tuple[int, int] | None:
    """Width and height of an image, upright; None for tokens."""
    from PIL import Image, ImageOps

    if path is None or path.suffix == ".npy":
        return None
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).size


def _report(evidence: TableEvidence, frame: pd.DataFrame, row: int, names: Sequence[str]) -> tuple[str, Row]:
    """The text of a report and the cells of the model's attributes.

    Raises:
        ValueError: If a cell of the table is another one than its evidence.
    """
    text, found = evidence.report(row)
    cells = {evidence.prefix + name: cell for name, cell in found.items()}
    for name, cell in cells.items():
        shown = frame[name][row] if name in frame.columns else cell.value
        shown = None if is_unmentioned(shown) else as_text(shown)
        if shown != cell.value:
            raise ValueError(
                f"row {row}: {name!r} is {shown!r} in the table and {cell.value!r} in its evidence; give the table that "
                f"`extract` wrote, with its rows in the same order"
            )
    return text, {name: cell for name, cell in cells.items() if name in names}
