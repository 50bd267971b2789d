"""Any table of cases: one row per case, with columns for images, label, attributes, and maybe patient and split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.datasets.cases import Cases, Shapes, Transforms, make_cases
from alignedfusion.datasets.images import check_images, image_modalities, image_paths
from alignedfusion.datasets.splits import check_groups, draw_splits, read_splits, refuse
from alignedfusion.tables.files import FAILED, check_columns, read_table

if TYPE_CHECKING:
    import pandas as pd

    from alignedfusion.datasets.token_cache import TokenCache


@dataclass(frozen=True)
class Manifest:
    """A checked table of cases; `from_frame` or `read` make it.

    Attributes:
        frame: The rows.
        splits: "train", "valid" or "test" for each row of `frame`.
        images: The image columns. One alone is the modality "image", several go by their column names.
        label: The label column.
        attributes: The attribute columns.
        class_names: The labels of the training rows, sorted.
        root: Folder that relative image paths start from.
        units: Units of numeric attributes by name.
        tokens: Tokens of the images, to be read in their place; None reads the images.
        source: Name of the file that the table came from, without its folder; empty if it came from none.
    """

    frame: pd.DataFrame
    splits: np.ndarray
    images: tuple[str, ...]
    label: str
    attributes: tuple[str, ...]
    class_names: tuple[str, ...]
    root: Path
    units: Mapping[str, str]
    tokens: TokenCache | None = None
    source: str = ""

    @classmethod
    def read(cls, path: str | Path, *, missing_values: Sequence[str] = (), **columns: Any) -> Manifest:
        """Read a CSV or parquet file; other arguments as in `from_frame`. Relative image paths start from its folder.

        Args:
            path: The file.
            missing_values: Further cells of a CSV that mean "not recorded", beside `tables.MISSING_VALUES`.
            **columns: See `from_frame`.
        """
        frame = read_table(path, missing_values=missing_values)
        columns["root"] = Path(path).parent if columns.get("root") is None else columns["root"]
        return replace(cls.from_frame(frame, **columns), source=Path(path).name)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        images: str | Sequence[str],
        label: str,
        attributes: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        group: str | None = None,
        split: str | None = None,
        root: str | Path = ".",
        units: Mapping[str, str] | None = None,
        seed: int = 0,
        tokens: TokenCache | None = None,
    ) -> Manifest:
        """Check a table of cases and divide it into training, validation and test rows.

        Args:
            frame: One row per case. An image cell may be empty: the case then lacks that image.
            images: One or more columns of image paths.
            label: The column to predict.
            attributes: The attribute columns; by default every other column that can be one (see `usable_attributes`).
            exclude: Columns that are no attributes: those that follow from the label, above all.
            group: Patient column: no patient is in two splits.
            split: A column of "train", "valid" and "test"; without it `draw_splits` draws 64 %, 16 % and 20 % of the cases.
            root: Folder that relative image paths start from.
            units: Units of numeric attributes by name, such as `{"age": "years"}`.
            seed: Seed of the drawn splits.
            tokens: Tokens of the images, computed before: cases bring them instead of images.

        Raises:
            ValueError: For a missing column, file or label, an unreadable image, a label seen only outside the training
                rows, a patient in two splits, the label among the attributes, or an image whose tokens are not in `tokens`;
                the first few offenders are listed.
        """
        images = (images,) if isinstance(images, str) else tuple(images)
        _check_columns(frame, images, label, attributes, group, split)
        frame = frame.reset_index(drop=True)
        refuse("rows have no label", frame.index[frame[label].isna()])
        if split is not None:
            splits = read_splits(frame, split)
        else:
            splits = draw_splits(frame[label].astype(str).to_numpy(), None if group is None else frame[group], seed)
        if group is not None:
            check_groups(splits, frame[group])
        class_names = _class_names(frame[label], splits)
        reserved = {*images, label, group, split, *exclude}
        if attributes is None:
            training = frame[splits == "train"]
            attributes = usable_attributes(training, [c for c in frame.columns if c not in reserved])[0]
            if not attributes:
                raise ValueError(
                    f"none of the columns {list(frame.columns)} can be an attribute; name them with attributes"
                )
        failed = frame.index[(frame[list(attributes)].astype(object) == FAILED).any(axis=1)]
        refuse(
            f"rows hold the cell {FAILED!r}: their reports could not be read; extract again, or leave them out", failed
        )
        manifest = cls(
            frame, splits, images, label, tuple(attributes), class_names, Path(root), dict(units or {}), tokens
        )
        if tokens is None:
            check_images(manifest._all_paths())
        else:
            command = tokens.command(images, Path(root))
            refuse(
                f"images have no tokens that can be used; `{command}` computes them",
                tokens.faults(manifest._all_paths()),
            )
        return manifest

    @classmethod
    def for_evaluation(
        cls,
        frame: pd.DataFrame,
        *,
        images: Sequence[str],
        label: str,
        attributes: Sequence[str],
        class_names: Sequence[str],
        root: str | Path = ".",
    ) -> Manifest:
        """Check a table whose rows all are test rows of a model that is trained already.

        Args:
            frame: One row per case.
            images: As in training.
            label: As in training.
            attributes: As in training.
            class_names: The classes of the model.
            root: Folder that relative image paths start from.

        Raises:
            ValueError: As in `from_frame`, and for a label that the model does not know.
        """
        _check_columns(frame, tuple(images), label, attributes, None, None)
        frame = frame.reset_index(drop=True)
        refuse("rows have no label", frame.index[frame[label].isna()])
        unknown = frame[~frame[label].astype(str).isin(class_names)]
        refuse(f"rows have a label that the model does not know (it knows {list(class_names)})", unknown[label].items())
        splits = np.full(len(frame), "test", dtype=object)
        manifest = cls(frame, splits, tuple(images), label, tuple(attributes), tuple(class_names), Path(root), {})
        check_images(manifest._all_paths())
        return manifest

    def schema(self) -> AttributeSchema:
        """The schema of the attribute columns, learned from the training rows."""
        return AttributeSchema.from_table(self.rows("train"), self.attributes, units=self.units)

    def rows(self, split: str) -> pd.DataFrame:
        """The rows of "train", "valid" or "test"."""
        return self.frame[self.splits == split]

    def fingerprint(self) -> str:
        """A hash of all cells and splits."""
        content = self.frame.to_csv(index=False) + "\n" + ",".join(self.splits)
        return hashlib.sha256(content.encode()).hexdigest()

    def cases(
        self, rows: pd.DataFrame, schema: AttributeSchema, transform: Transforms, *, shape: Shapes | None = None
    ) -> Cases:
        """A dataset of some rows; values that the schema does not have count as unmentioned. See `make_cases`."""
        index = {name: i for i, name in enumerate(self.class_names)}
        labels = torch.tensor([index[str(label)] for label in rows[self.label]], dtype=torch.int64)
        codes = schema.encode(rows, unseen="unknown")
        return make_cases(self.paths(rows), codes, labels, transform, tokens=self.tokens, shape=shape)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the images of a case."""
        return image_modalities(self.images)

    def paths(self, rows: pd.DataFrame) -> dict[str, list[Path | None]]:
        """The image paths of some rows by modality; None where a case lacks the image."""
        return image_paths(rows, self.images, self.root)

    def _all_paths(self) -> list[Path]:
        columns = self.paths(self.frame)
        if empty := [m for m, column in columns.items() if not any(column)]:
            raise ValueError(f"no case has an image of {empty}; leave the column out")
        return [path for column in columns.values() for path in column if path is not None]


def usable_attributes(frame: pd.DataFrame, columns: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The columns that can be attributes, and for each of the others the reason why not."""
    usable, reasons = [], {}
    for column in columns:
        try:
            AttributeSchema.from_table(frame, [column])
            usable.append(column)
        except ValueError as error:
            reasons[column] = str(error)
    return usable, reasons


def _check_columns(
    frame: pd.DataFrame,
    images: tuple[str, ...],
    label: str,
    attributes: Sequence[str] | None,
    group: str | None,
    split: str | None,
) -> None:
    named = [*images, label, *(attributes or ()), *(c for c in (group, split) if c is not None)]
    check_columns(frame, named)
    if label in (attributes or ()):
        raise ValueError(f"the label column {label!r} is among the attributes: the model would be told the answer")
    if both := sorted({*images} & {*(attributes or ())}):
        raise ValueError(f"the image columns {both} are among the attributes")
    if REPORT in images:
        raise ValueError(f"an image column cannot be called {REPORT!r}: that is the name of the attributes' modality")


def _class_names(labels: pd.Series, splits: np.ndarray) -> tuple[str, ...]:
    texts = labels.astype(str)
    is_training = splits == "train"
    names = tuple(sorted(texts[is_training].unique()))
    others = texts[~is_training & ~texts.isin(names)].drop_duplicates()
    refuse("labels are seen only outside the training rows", [f"{name!r} (row {row})" for row, name in others.items()])
    if len(names) < 2:
        raise ValueError(f"the training rows have one label only, {list(names)}: there is nothing to learn")
    return names
