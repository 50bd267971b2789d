"""Any table of cases: one row per case, with columns for images, label, attributes, and maybe patient and split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.datasets.cases import CachedCases, FileCases
from alignedfusion.datasets.images import check_images, image_modalities, image_paths
from alignedfusion.reports.types import FAILED
from alignedfusion.tables.files import check_columns, read_table

if TYPE_CHECKING:
    import pandas as pd

    from alignedfusion.datasets.token_cache import TokenCache

PARTS = ("train", "valid", "test")
_PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Manifest:
    """A checked table of cases; `from_frame` or `read` make it.

    Attributes:
        frame: The rows, with a column `part` that says "train", "valid" or "test".
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
            group: Patient column: no patient is in two parts.
            split: A column of "train", "valid" and "test"; without it 64 %, 16 % and 20 % of the cases are drawn, alike in
                class shares, patients kept together.
            root: Folder that relative image paths start from.
            units: Units of numeric attributes by name, such as `{"age": "years"}`.
            seed: Of the drawn parts.
            tokens: Tokens of the images, computed before: cases bring them instead of images.

        Raises:
            ValueError: For a missing column, file or label, an unreadable image, a label seen only outside the training
                rows, a patient in two parts, the label among the attributes, or an image whose tokens are not in `tokens`;
                the first few offenders are listed.
        """
        images = (images,) if isinstance(images, str) else tuple(images)
        _check_columns(frame, images, label, attributes, group, split)
        frame = frame.reset_index(drop=True)
        frame = frame.assign(
            part=_draw_parts(frame, label, group, seed) if split is None else _read_parts(frame, split)
        )
        _refuse("patients are in more than one part; split by patient", _torn(frame, group))
        _refuse("rows have no label", frame.index[frame[label].isna()])
        class_names = _class_names(frame, label)
        reserved = {*images, label, group, split, "part", *exclude}
        if attributes is None:
            training = frame[frame["part"] == "train"]
            attributes = usable_attributes(training, [c for c in frame.columns if c not in reserved])[0]
            if not attributes:
                raise ValueError(
                    f"none of the columns {list(frame.columns)} can be an attribute; name them with attributes"
                )
        failed = frame.index[(frame[list(attributes)].astype(object) == FAILED).any(axis=1)]
        _refuse(
            f"rows hold the cell {FAILED!r}: their reports could not be read; extract again, or leave them out", failed
        )
        manifest = cls(frame, images, label, tuple(attributes), class_names, Path(root), dict(units or {}), tokens)
        if tokens is None:
            check_images(manifest._all_paths())
        else:
            command = tokens.command(images, Path(root))
            _refuse(
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
        frame = frame.reset_index(drop=True).assign(part="test")
        _refuse("rows have no label", frame.index[frame[label].isna()])
        unknown = frame[~frame[label].astype(str).isin(class_names)]
        _refuse(
            f"rows have a label that the model does not know (it knows {list(class_names)})", unknown[label].items()
        )
        manifest = cls(frame, tuple(images), label, tuple(attributes), tuple(class_names), Path(root), {})
        check_images(manifest._all_paths())
        return manifest

    def schema(self) -> AttributeSchema:
        """The schema of the attribute columns, learned from the training rows."""
        return AttributeSchema.from_table(self.rows("train"), self.attributes, units=self.units)

    def rows(self, part: str) -> pd.DataFrame:
        """The rows of "train", "valid" or "test"."""
        return self.frame[self.frame["part"] == part]

    def cases(
        self, rows: pd.DataFrame, schema: AttributeSchema, transform: Callable[[Any], Tensor] | None
    ) -> FileCases | CachedCases:
        """A dataset of some rows; values that the schema has not seen count as unmentioned. Tokens need no transform."""
        index = {name: i for i, name in enumerate(self.class_names)}
        labels = torch.tensor([index[str(label)] for label in rows[self.label]], dtype=torch.int64)
        codes = schema.encode(rows, unseen="unknown")
        if self.tokens is None:
            return FileCases(self.paths(rows), codes, labels, transform)
        rows_of = {modality: self.tokens.rows(column) for modality, column in self.paths(rows).items()}
        return CachedCases(rows_of, codes, labels, self.tokens.file)

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


def _read_parts(frame: pd.DataFrame, split: str) -> list[str]:
    named = [str(cell).strip().lower() for cell in frame[split]]
    _refuse(
        f"rows of column {split!r} say neither train, valid nor test",
        [f"{row} ({frame[split].iloc[row]!r})" for row, name in enumerate(named) if name not in _PART_NAMES],
    )
    parts = [_PART_NAMES[name] for name in named]
    if absent := [part for part in PARTS if part not in parts]:
        raise ValueError(f"column {split!r} names no {' and no '.join(absent)} rows; all of {list(PARTS)} are needed")
    return parts


def _draw_parts(frame: pd.DataFrame, label: str, group: str | None, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    labels = frame[label].astype(str).to_numpy()
    # A row without a patient is a patient of its own.
    own = np.array([f"row {row}" for row in range(len(frame))], dtype=object)
    groups = own if group is None else np.where(frame[group].isna(), own, frame[group].astype(str))
    for name in np.unique(labels):
        if (count := len(np.unique(groups[labels == name]))) < 5:
            raise ValueError(
                f"class {name!r} has {count} {'cases' if group is None else 'patients'}, too few to draw training, validation "
                f"and test rows (5 at least); leave it out, join it with another, or give a split column"
            )
    parts = np.full(len(frame), "train", dtype=object)
    for part in ("test", "valid"):
        rest = np.flatnonzero(parts == "train")
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(rest, labels[rest], groups[rest])
        parts[rest[next(folds)[1]]] = part
    return parts


def _class_names(frame: pd.DataFrame, label: str) -> tuple[str, ...]:
    seen = frame[frame["part"] == "train"][label].astype(str)
    names = tuple(sorted(seen.unique()))
    others = frame[(frame["part"] != "train") & ~frame[label].astype(str).isin(names)]
    _refuse(
        "labels are seen only outside the training rows",
        [f"{name!r} (row {row})" for row, name in others[label].drop_duplicates().items()],
    )
    if len(names) < 2:
        raise ValueError(f"the training rows have one label only, {list(names)}: there is nothing to learn")
    return names


def _torn(frame: pd.DataFrame, group: str | None) -> list[str]:
    if group is None:
        return []
    parts = frame.groupby(group)["part"].agg(lambda column: sorted(set(column)))
    return [f"{name} in {' and '.join(found)}" for name, found in parts.items() if len(found) > 1]


def _refuse(what: str, offenders: Iterable[Any]) -> None:
    offenders = list(offenders)
    if offenders:
        more = f" ... and {len(offenders) - 5} more" if len(offenders) > 5 else ""
        raise ValueError(f"{len(offenders)} {what}: {'; '.join(map(str, offenders[:5]))}{more}")
