"""Predictions of a saved model for one case, or for every row of a table."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.cases import make_cases
from alignedfusion.datasets.images import check_images, image_paths, read_ahead
from alignedfusion.datasets.reading import MAX_UNREAD, name_unread, read_cells
from alignedfusion.deployment.naming import name_output, prediction_cells, prediction_columns
from alignedfusion.evaluation.inference import answer, prepare_images
from alignedfusion.modules.checkpoint import WEIGHTS
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.download import is_repository
from alignedfusion.tables.cluster import map_on_ray
from alignedfusion.tables.files import check_columns, check_name, free_name, lock_output, write_table
from alignedfusion.tables.journal import Journal, read_journal

if TYPE_CHECKING:
    import pandas as pd

STEP = 64
"""Cases per forward pass of the model, within a larger batch."""


def predict_case(folder: str | Path, images: Sequence[str | Path], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Predict one case.

    Args:
        folder: Folder of a saved model.
        images: One path for each image modality of the model, in its order.
        attributes: Values of the mentioned attributes by name; all others are unmentioned.

    Returns:
        A mapping as `naming.name_output` returns it.
    """
    model = AlignedFusionClassifier.from_pretrained(folder)
    if len(images) != len(model.image_modalities):
        raise ValueError(
            f"this model takes one image each of {list(model.image_modalities)}, got {len(images)}; a case that lacks one is a "
            f"row of a table, with an empty cell"
        )
    codes = model.schema.encode([dict(attributes)])
    paths = {m: [Path(path)] for m, path in zip(model.image_modalities, images, strict=True)}
    if absent := [str(column[0]) for column in paths.values() if not column[0].is_file()]:
        raise FileNotFoundError(f"there is no image at {absent}")
    output = answer(model, [make_cases(paths, codes, None, **prepare_images(model))[0]])
    return name_output(model, codes, output)


class PredictBatch:
    """Adds a model's predictions to a batch of rows. Engines that process tables on many machines can map it over a data set.

    With Ray Data: `dataset.map_batches(PredictBatch, fn_constructor_args=("runs/first",), batch_format="pandas",
    batch_size=256, concurrency=8)`, and `num_gpus=1` on machines with GPUs. For any other engine that maps a function over
    DataFrames, pass an instance as the function.

    Args:
        folder: Folder of a saved model, or the name of its repository on a model hub.
        images: Image columns, one for each image modality of the model, in its order; None if they have the modalities' names.
        root: Folder that relative image paths start from.

    Attributes:
        columns: Names of the added columns: `predicted`, the class that `AlignedFusionClassifier.decide` chooses, or the labels
            separated by semicolons; `most_probable`, if that decision helps rare classes; `set`, the names of the classes in
            the conformal prediction set, separated by semicolons, if the model has such sets; `p(CLASS)` for each class or
            label; for a model of numbers instead of all these `predicted(NAME)` for each; and, if the model reconstructs, for
            each attribute `filled(ATTRIBUTE)` and `p(filled(ATTRIBUTE))`: the most probable value of an unmentioned cell,
            and its probability; both are empty where the cell is mentioned. Last `unreadable`, the attributes whose cells could
            not be read and count as unmentioned, separated by semicolons.
    """

    def __init__(self, folder: str | Path, *, images: Sequence[str] | None = None, root: str | Path = ".") -> None:
        self.model = AlignedFusionClassifier.from_pretrained(folder)
        self.images = list(self.model.image_modalities if images is None else images)
        self.root = Path(root)
        if len(self.images) != len(self.model.image_modalities):
            raise ValueError(
                f"this model takes one image each of {list(self.model.image_modalities)}; got the columns {self.images}"
            )
        filled = self.model.schema.names if self.model.reconstructor is not None else ()
        names = (
            *prediction_columns(self.model),
            *(column for name in filled for column in (f"filled({name})", f"p(filled({name}))")),
            "unreadable",
        )
        self.columns: list[str] = []
        for name in names:  # a class may be called "filled(age)" while an attribute is called "age"
            self.columns.append(free_name(name, self.columns))

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The batch with the new columns."""
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        codes, is_unread = self.model.schema.read(batch)
        columns = image_paths(batch, self.images, self.root).values()
        paths = dict(zip(self.model.image_modalities, columns, strict=True))
        cases = make_cases(paths, codes, None, **prepare_images(self.model))
        steps = read_ahead(cases.__getitem__, range(len(cases)), STEP)
        rows = itertools.chain.from_iterable(map(self._step, steps))
        unread = name_unread(is_unread, self.model.schema)
        table = [[*row, names] for row, names in zip(rows, unread, strict=True)]
        return batch.assign(**dict(zip(self.columns, map(list, zip(*table, strict=True)), strict=True)))

    def _step(self, cases: list[dict[str, Any]]) -> list[list[Any]]:
        """The cells of the new columns, row by row."""
        output = answer(self.model, cases)
        codes = torch.stack([case["codes"] for case in cases])
        outputs = self.model.activate(output["logits"])
        rows = prediction_cells(self.model, outputs.numpy(), codes.numpy())
        if "reconstruction" in output:
            share, best_value = output["reconstruction"].softmax(-1).max(-1)  # (n, A) each
            for row, case, p, code in zip(rows, cases, share.tolist(), best_value.tolist(), strict=True):
                for attribute, mentioned, probability, value in zip(
                    self.model.schema, case["codes"].tolist(), p, code, strict=True
                ):
                    row += [attribute.values[value], round(probability, 6)] if mentioned == UNKNOWN else [None, None]
        return rows


def predict_table(
    folder: str | Path,
    frame: pd.DataFrame,
    output: str | Path,
    *,
    images: Sequence[str] | None = None,
    root: str | Path = ".",
    batch_size: int = 256,
    on_ray: bool = False,
    max_unread: float = MAX_UNREAD,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict every row of a table, and write the table with the added columns of `PredictBatch`.

    Finished rows are stored beside the output, and the same call continues after an interruption. A cell that the model cannot
    read counts as unmentioned; such cells are logged, and named in the column `unreadable`.

    Args:
        folder: Folder of a saved model, or the name of its repository on a model hub.
        frame: Table with one row per case.
        output: Table to write, .csv or .parquet.
        images: Image columns, one for each image modality of the model, in its order; None if they have the modalities' names.
        root: Folder that relative image paths start from.
        batch_size: Rows per batch.
        max_unread: Limit on the share of a column's recorded cells that cannot be read, see `datasets.reading.read_cells`.
        on_ray: Whether to predict on a Ray cluster (see `tables.cluster.map_on_ray`), where every machine needs the images and
            the model.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: For a missing column, a column that has the name of an added one, images that cannot be read, or an
            interrupted output of another model or table.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    output = check_name(output)
    predictor = PredictBatch(folder, images=images, root=root)
    wanted = [*predictor.images, *predictor.model.schema.names]
    check_columns(frame, wanted)
    if twice := [name for name in predictor.columns if name in frame.columns]:
        raise ValueError(f"the table has columns {twice} already; rename or drop them")
    read_cells(frame.reset_index(drop=True), predictor.model.schema, max_unread=max_unread)
    paths = image_paths(frame, predictor.images, root)
    check_images(path for column in paths.values() for path in column if path is not None)

    with lock_output(output):
        where = {"images": predictor.images, "root": os.path.abspath(root)}
        journal = Journal(
            output.with_name(output.name + ".rows.jsonl"),
            {
                "model": _sha256(predictor.model.saved_in),
                "table": hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest(),
                **where,
            },
        )
        number = free_name("row", [*frame.columns, *predictor.columns])
        todo = frame.reset_index(drop=True)[wanted].assign(**{number: range(len(frame))})
        todo = todo[~todo[number].isin(journal.done)]
        if on_ray:
            arguments = {"folder": folder if is_repository(folder) else os.path.abspath(folder), **where}
            batches = map_on_ray(todo, PredictBatch, arguments, batch_size=batch_size)
        else:
            batches = (predictor(todo.iloc[start : start + batch_size]) for start in range(0, len(todo), batch_size))
        done = len(journal.done)
        with tqdm(total=len(frame), initial=done, disable=not progress, desc="predicting", unit="case") as bar:
            for batch in batches:
                journal.add(_lines(batch, predictor.columns, number))
                bar.update(len(batch))

        rows = read_journal(journal.path)[1]
        added = pd.DataFrame(
            [rows[i]["cells"] for i in range(len(frame))], columns=predictor.columns, index=frame.index
        )
        table = pd.concat([frame, added], axis=1)
        write_table(table, output)
        journal.path.unlink()
    return table


def _lines(batch: pd.DataFrame, columns: Sequence[str], number: str) -> list[dict[str, Any]]:
    """Predicted rows in the format of the journal."""
    cells = batch[columns].astype(object)
    cells = cells.where(cells.notna(), None)
    return [
        {"row": position, "cells": row}
        for position, row in zip(batch[number].tolist(), cells.to_numpy().tolist(), strict=True)
    ]


def _sha256(folder: Path | None) -> str:
    assert folder is not None
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
