"""Any table of cases: one row per case, with columns for images, label, attributes, and maybe patient and split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignedfusion.attributes import AttributeSchema, ColumnOptions
from alignedfusion.attributes.cells import find_value, fold, quote
from alignedfusion.datasets.cases import Cases, Shapes, Transforms, make_cases
from alignedfusion.datasets.columns import (
    CaseColumns,
    merge_options,
    read_column_options,
    sidecar_of,
    usable_attributes,
)
from alignedfusion.datasets.images import check_images, image_modalities, image_paths
from alignedfusion.datasets.reading import MAX_UNREAD, read_cells
from alignedfusion.datasets.splits import check_groups, draw_splits, read_splits, refuse
from alignedfusion.tables.files import FAILED, read_table

if TYPE_CHECKING:
    import pandas as pd

    from alignedfusion.datasets.token_cache import TokenCache


@dataclass(frozen=True)
class Manifest:
    """A checked table of cases; `from_frame` or `read` make it.

    Attributes:
        frame: The rows.
        splits: "train", "valid" or "test" for each row of `frame`.
        columns: The use of the columns; its `attributes` are those that are used.
        class_names: The labels of the training rows, sorted.
        root: Folder that relative image paths start from.
        options: What is known about some of the attribute columns and need not be learned.
        tokens: A token cache that replaces the images; None reads the images.
        source: Name of the file that the table came from, without its folder; empty if it came from none.
        left_out: The columns that cannot be attributes, and the reasons.
    """

    frame: pd.DataFrame
    splits: np.ndarray
    columns: CaseColumns
    class_names: tuple[str, ...]
    root: Path
    options: Mapping[str, ColumnOptions]
    tokens: TokenCache | None = None
    source: str = ""
    left_out: Mapping[str, str] | None = None

    @classmethod
    def read(
        cls,
        path: str | Path,
        columns: CaseColumns,
        *,
        missing_values: Sequence[str] = (),
        root: str | Path | None = None,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> Manifest:
        """Read a CSV or parquet file; other arguments as in `from_frame`.

        Args:
            path: The file. Options of its columns are also read from the file beside it that `sidecar_of` names.
            columns: The use of its columns.
            missing_values: Cells that mean "not recorded", in addition to `tables.files.MISSING_VALUES`.
            root: Folder that relative image paths start from; the folder of the table by default.
            changes: Options of attribute columns that replace those of the file, as arguments of `ColumnOptions` by column.
            **settings: Other arguments of `from_frame`.
        """
        frame = read_table(path, missing_values=missing_values)
        file = sidecar_of(path)
        described = read_column_options(file) if file.is_file() else {}
        if absent := [name for name in described if name not in frame.columns]:
            raise ValueError(f"{str(file)!r} describes the columns {absent}, which are not in the table")
        used = {*frame.columns} - columns.reserved if columns.attributes is None else {*columns.attributes}
        beside = {name: options for name, options in described.items() if name in used}
        manifest = cls.from_frame(
            frame,
            columns,
            root=Path(path).parent if root is None else root,
            options=merge_options(beside, changes or {}),
            **settings,
        )
        return replace(manifest, source=Path(path).name)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        columns: CaseColumns,
        *,
        root: str | Path = ".",
        options: Mapping[str, ColumnOptions] | None = None,
        seed: int = 0,
        tokens: TokenCache | None = None,
        max_unread: float = MAX_UNREAD,
    ) -> Manifest:
        """Check a table of cases and divide it into training, validation and test rows.

        Args:
            frame: One row per case. An image cell may be empty if the case lacks that image.
            columns: The use of its columns. Without a split column, `draw_splits` draws 64 %, 16 % and 20 % of the cases.
            root: Folder that relative image paths start from.
            options: What is known about some of the attribute columns and need not be learned, by name.
            seed: Seed of the drawn splits.
            tokens: A token cache that holds every image; its tokens replace the images.
            max_unread: Limit on the share of a column's recorded cells that cannot be read, see `read_cells`.

        Raises:
            ValueError: For a missing column, file or label, an unreadable image, a label that only occurs outside the
                training rows, a patient in two splits, the label among the attributes, or an image whose tokens are not in
                `tokens`. The message lists the first few rows.
        """
        columns.check(frame)
        frame = frame.reset_index(drop=True)
        labels, groups = frame[columns.label], None if columns.group is None else frame[columns.group]
        refuse("rows have no label", frame.index[labels.isna()])
        if columns.split is not None:
            splits = read_splits(frame, columns.split)
        else:
            splits = draw_splits(labels.astype(str).to_numpy(), groups, seed)
        if groups is not None:
            check_groups(splits, groups)
        class_names = _class_names(labels, splits)
        options = dict(options or {})
        left_out: dict[str, str] = {}
        if columns.attributes is None:
            others = [name for name in frame.columns if name not in columns.reserved]
            usable, left_out = usable_attributes(frame[splits == "train"], others, options=options)
            if stated := [name for name in options if name in left_out]:
                raise ValueError(left_out[stated[0]])
            if not usable:
                raise ValueError(
                    f"none of the columns {list(frame.columns)} can be an attribute; name them with attributes"
                )
            columns = replace(columns, attributes=tuple(usable))
        manifest = cls(
            frame,
            splits,
            columns,
            class_names,
            Path(root),
            options,
            tokens,
            left_out=left_out,
        )
        manifest._check()
        if manifest.attributes:
            read_cells(frame, manifest.schema(), max_unread=max_unread)
        return manifest

    @classmethod
    def for_evaluation(
        cls,
        frame: pd.DataFrame,
        columns: CaseColumns,
        *,
        class_names: Sequence[str],
        root: str | Path = ".",
        tokens: TokenCache | None = None,
    ) -> Manifest:
        """Check a table whose rows are all test rows of a trained model.

        Args:
            frame: One row per case.
            columns: The use of its columns, as in training; the attributes must be named.
            class_names: The classes of the model.
            root: Folder that relative image paths start from.
            tokens: A token cache that holds every image; its tokens replace the images.

        Raises:
            ValueError: As in `from_frame`, and for a label that is not among the classes of the model.
        """
        columns.check(frame)
        labels = frame[columns.label]
        refuse("rows have no label", frame.index[labels.isna()])
        refuse(
            f"rows have a label that is not among the model's classes {list(class_names)}",
            [f"row {row}" for row, label in labels.items() if find_value(label, class_names) is None],
        )
        splits = np.full(len(frame), "test", dtype=object)
        manifest = cls(frame, splits, columns, tuple(class_names), Path(root), {}, tokens)
        manifest._check()
        return manifest

    @property
    def images(self) -> tuple[str, ...]:
        """The image columns."""
        return tuple(self.columns.images)

    @property
    def label(self) -> str:
        """The label column."""
        return self.columns.label

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attribute columns."""
        return self.columns.attributes or ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the images of a case."""
        return image_modalities(self.images)

    def schema(self) -> AttributeSchema:
        """The schema of the attribute columns, learned from the training rows."""
        return AttributeSchema.from_table(self.rows("train"), self.attributes, options=self.options)

    def rows(self, split: str) -> pd.DataFrame:
        """The rows of "train", "valid" or "test"."""
        return self.frame[self.splits == split]

    def fingerprint(self) -> str:
        """A hash of all cells and splits."""
        content = self.frame.to_csv(index=False) + "\n" + ",".join(self.splits)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def cases(
        self, rows: pd.DataFrame, schema: AttributeSchema, transform: Transforms, *, shape: Shapes | None = None
    ) -> Cases:
        """A dataset of some rows, as `make_cases` makes it. Cells that cannot be read count as unmentioned."""
        labels = [find_value(label, self.class_names) for label in rows[self.label]]
        codes = schema.encode(rows, unseen="unknown")
        return make_cases(
            self.paths(rows),
            codes,
            torch.tensor(labels, dtype=torch.int64),
            transform,
            tokens=self.tokens,
            shape=shape,
        )

    def paths(self, rows: pd.DataFrame) -> dict[str, list[Path | None]]:
        """The image paths of some rows by modality; None where a case lacks the image."""
        return image_paths(rows, self.images, self.root)

    def _check(self) -> None:
        """Refuse cells of reports that could not be read, and images that cannot be used."""
        failed = (self.frame[list(self.attributes)].astype(object) == FAILED).any(axis=1)
        refuse(
            f"rows hold the cell {FAILED!r}: their reports could not be read; extract again, or leave them out",
            self.frame.index[failed],
        )
        columns = self.paths(self.frame)
        if empty := [m for m, column in columns.items() if not any(column)]:
            raise ValueError(f"no case has an image of {empty}; leave the column out")
        paths = [path for column in columns.values() for path in column if path is not None]
        if self.tokens is None:
            check_images(paths)
        else:
            command = self.tokens.command(self.images, self.root)
            refuse(f"images have no tokens that can be used; `{command}` computes them", self.tokens.faults(paths))


def _class_names(labels: pd.Series, splits: np.ndarray) -> tuple[str, ...]:
    texts = labels.astype(str)
    is_training = splits == "train"
    names = tuple(sorted(texts[is_training].unique()))
    folded = [fold(name) for name in names]
    if alike := [name for name, text in zip(names, folded, strict=True) if folded.count(text) > 1]:
        raise ValueError(f"the labels {alike[:5]} differ in case and spaces only; spell each class in one way")
    others = texts[~is_training & ~texts.isin(names)].drop_duplicates()
    refuse(
        "labels occur only outside the training rows", [f"{quote(name)} (row {row})" for row, name in others.items()]
    )
    if len(names) < 2:
        raise ValueError(f"the training rows have one label only, {quote(names[0])}: there is nothing to learn")
    return names
