"""What the columns of a table of cases are, as the user states it in a call, a command or a file beside the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.attributes import REPORT, AttributeSchema, ColumnOptions
from alignedfusion.datasets.suspects import identifier_reason
from alignedfusion.datasets.tasks import resolve_task
from alignedfusion.tables.files import check_columns

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".columns.yaml"


@dataclass(frozen=True)
class CaseColumns:
    """The columns of a table of cases.

    Args:
        images: One or more columns of image paths. One alone is the modality "image", several go by their column names.
        label: The column to predict, or several columns.
        attributes: The attribute columns; None takes every other column that can be one (see `usable_attributes`).
        exclude: Columns that are no attributes, above all those that follow from the label.
        group: Column of patients; no patient is in two splits.
        split: Column of "train", "valid" and "test"; None draws the splits.
        key: Column that identifies a case, such as an accession number. None identifies a case by the content of its images.
        subgroups: Columns by which the metrics of the test cases are also reported. They may be attributes, too.
        task: "multiclass" for one label column of classes, "multilabel" for columns of yes and no, "regression" for columns of
            numbers. By default, one column has classes and several columns have yes and no.
    """

    images: str | tuple[str, ...]
    label: str | tuple[str, ...]
    attributes: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    group: str | None = None
    split: str | None = None
    key: str | None = None
    subgroups: tuple[str, ...] = ()
    task: str = ""

    def __post_init__(self) -> None:
        for name in ("images", "attributes", "exclude", "subgroups"):
            value = getattr(self, name)
            columns = (value,) if isinstance(value, str) else value
            object.__setattr__(self, name, None if columns is None else tuple(columns))
        if not self.labels or len({*self.labels}) < len(self.labels):
            raise ValueError(f"label must name one or more distinct columns, got {self.label!r}")
        for name in ("images", "attributes"):
            columns = getattr(self, name) or ()
            if len({*columns}) < len(columns):
                raise ValueError(f"{name} must name distinct columns, got {list(columns)}")
        object.__setattr__(self, "task", resolve_task(self.labels, self.task))

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def reserved(self) -> set[str]:
        """The columns that cannot be attributes by default."""
        others = (self.group, self.split, self.key)
        return {*self.images, *self.labels, *self.exclude, *(name for name in others if name is not None)}

    def check(self, frame: pd.DataFrame) -> None:
        """Raise a ValueError for a column that is not in the table, or one with two uses that exclude each other."""
        others = (self.group, self.split, self.key)
        attributes = self.attributes or ()
        named = (name for name in others if name is not None)
        check_columns(frame, [*self.images, *self.labels, *attributes, *self.exclude, *named, *self.subgroups])
        if both := [name for name in self.labels if name in attributes]:
            columns = f"column {both[0]!r} is" if len(both) == 1 else f"columns {both} are"
            raise ValueError(f"the label {columns} among the attributes: the model would be given the answer")
        if both := sorted({*self.images} & {*attributes}):
            raise ValueError(f"the image columns {both} are among the attributes")
        if both := sorted({*self.exclude} & {*attributes}):
            raise ValueError(f"the columns {both} are among the attributes and among the excluded ones: name them once")
        if REPORT in self.images:
            raise ValueError(
                f"an image column cannot be called {REPORT!r}, which is the name of the attributes' modality: rename it"
            )


def sidecar_of(table: str | Path) -> Path:
    """The file of column options beside a table: `cases.columns.yaml` for `cases.csv`."""
    path = Path(table)
    return path.with_name(path.name.removesuffix(".gz").rpartition(".")[0] + SUFFIX)


def read_column_options(path: str | Path) -> dict[str, ColumnOptions]:
    """Read the options of columns from a YAML file: a mapping of column names to the arguments of `ColumnOptions`.

    Raises:
        ValueError: If the file is no such mapping; the message names the file and the column.
    """
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{str(path)!r} must map column names to options, such as 'age: {{units: years, missing: [999]}}'; got "
            f"{type(data).__name__}"
        )
    options: dict[str, ColumnOptions] = {}
    for name, values in data.items():
        try:
            options[str(name)] = ColumnOptions.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{str(path)!r}, column {str(name)!r}: {error}") from error
    return options


def merge_options(
    first: Mapping[str, ColumnOptions], changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, ColumnOptions]:
    """Column options with some of them changed, such as those of a file by those of a command.

    Raises:
        ValueError: For options that contradict each other; the message names the column.
    """
    merged = dict(first)
    for name, values in changes.items():
        before = merged.get(name, ColumnOptions())
        kept = {field: getattr(before, field) for field in ("units", "edges", "values", "decimal", "missing")}
        if "kind" not in values:
            kept["kind"] = before.kind
        elif values["kind"] != before.kind:  # what belongs to the other kind does not count any more
            kept = {"missing": before.missing}
        try:
            merged[name] = ColumnOptions(**{**kept, **values})
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from error
    return merged


def usable_attributes(
    frame: pd.DataFrame, columns: Iterable[str], *, options: Mapping[str, ColumnOptions] | None = None
) -> tuple[list[str], dict[str, str]]:
    """The columns that can be attributes, and for each of the others the reason why not; identifiers are among the others.

    Args:
        frame: The training rows.
        columns: The columns to try.
        options: Options of some of the columns.
    """
    usable, reasons = [], {}
    for column in columns:
        try:
            known = {column: options[column]} if options and column in options else None
            if known is None and (reason := identifier_reason(column, frame[column])):
                raise ValueError(f"{reason}; name it in --attributes (attributes=) to use it")
            AttributeSchema.from_table(frame, [column], options=known)
            usable.append(column)
        except ValueError as error:
            reasons[column] = str(error)
    return usable, reasons
