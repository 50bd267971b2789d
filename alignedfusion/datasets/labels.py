"""The label columns of a table of cases: one column of classes, columns of yes and no, or columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.attributes.cells import as_text, decimal_sign, find_value, fold, is_unmentioned, parse_number, quote
from alignedfusion.datasets.splits import refuse

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_YES_NO = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "positive", "present"), 1),
    **dict.fromkeys(("0", "0.0", "no", "false", "negative", "absent"), 0),
}
FEWEST = 2
"""Fewest positive and fewest negative training cases of a label."""
_EMPTY = "leave a cell empty where the label is unknown"
_NEITHER = (
    f"are neither yes nor no (write 1 or 0, yes or no, true or false, positive or negative, present or absent, and {_EMPTY}; "
    f"numbers are the task regression, and classes are one column of the task multiclass)"
)
_NO_NUMBER = (
    f"are no numbers (write a number without a unit, such as 63.5, and {_EMPTY}; yes and no are the task multilabel, and "
    f"classes are one column of the task multiclass)"
)


@dataclass(frozen=True)
class Labels:
    """What a model predicts: the label columns of a table, and how their cells are read.

    Args:
        columns: The label columns.
        task: "multiclass" for one column of classes, "multilabel" for columns of yes and no, "regression" for columns of
            numbers.
        names: The classes; for the other tasks the label columns.
    """

    columns: tuple[str, ...]
    task: str
    names: tuple[str, ...]

    @classmethod
    def learn(cls, frame: pd.DataFrame, columns: Sequence[str], task: str, splits: np.ndarray) -> Labels:
        """The labels of a table, learned from its training rows.

        Raises:
            ValueError: For a class that only occurs outside the training rows, or labels from which nothing can be learned.
        """
        if task == "multiclass":
            return cls((columns[0],), task, _class_names(frame[columns[0]], splits))
        labels = cls(tuple(columns), task, tuple(columns))
        _check_training(labels.read(frame[splits == "train"]), labels)
        labels.read(frame)
        return labels

    def read(self, frame: pd.DataFrame) -> Tensor:
        """The labels of some rows.

        Args:
            frame: A table with the label columns. Empty cells are unknown, except in a column of classes.

        Returns:
            multiclass: int64 (n,), class indices. multilabel: int64 (n, L), 1 for yes, 0 for no, -1 unknown. regression:
            float32 (n, L), nan unknown.

        Raises:
            ValueError: For a cell that the task cannot read; the message names column, rows and values.
        """
        import torch

        if self.task == "multiclass":
            return torch.tensor(_read_classes(frame, self.columns[0], self.names), dtype=torch.int64)
        if self.task == "multilabel":
            rows = [_read_cells(frame, column, _yes_no, -1, _NEITHER) for column in self.columns]
            return torch.tensor(rows, dtype=torch.int64).T
        for column in self.columns:
            _check_decimal_signs(frame, column)
        rows = [_read_cells(frame, column, parse_number, math.nan, _NO_NUMBER) for column in self.columns]
        return torch.tensor(rows, dtype=torch.float32).T

    def count(self, frame: pd.DataFrame) -> dict[str, Any]:
        """What the labels of some rows are, by name, as plain JSON.

        multiclass: the number of cases. multilabel: the numbers of `positive`, `negative` and `unknown` cases. regression: the
        numbers of `known` and `unknown` cases, and the `mean` and standard deviation (`deviation`) of the known ones.
        """
        values = self.read(frame)
        if self.task == "multiclass":
            return dict(zip(self.names, values.bincount(minlength=len(self.names)).tolist(), strict=True))
        columns = zip(self.names, values.T, strict=True)
        return {name: _count_yes_no(c) if self.task == "multilabel" else _count_numbers(c) for name, c in columns}


def read_strata(frame: pd.DataFrame, columns: Sequence[str], task: str) -> np.ndarray:
    """A text (n,) for each row of a table, by which splits are stratified, see `strata_of`."""
    if task == "multiclass":
        return _texts(frame[columns[0]]).to_numpy()
    names = tuple(columns)
    return strata_of(Labels(names, task, names).read(frame).numpy(), task, names)


def strata_of(labels: np.ndarray, task: str, names: Sequence[str]) -> np.ndarray:
    """A text (n,) for each case, by which splits are stratified.

    It is the class; the rarest of the case's answers, such as "effusion" or "no edema"; or the fifth that its first number
    falls into.

    Args:
        labels: (n,) or (n, L), as `Labels.read` returns them.
        task: The task.
        names: Names of the classes, labels or numbers.
    """
    if task == "multiclass":
        return np.array(names, dtype=object)[labels]
    if task == "multilabel":
        answers = np.concatenate([labels == 1, labels == 0], axis=1)  # (n, 2 L)
        order = np.argsort(answers.sum(0), kind="stable")
        texts = np.array([*names, *(f"no {name}" for name in names)], dtype=object)[order]
        is_unknown = ~answers.any(1)
        return np.where(is_unknown, "no label is known", texts[answers[:, order].argmax(1)])
    first = labels[:, 0]
    is_known = ~np.isnan(first)
    edges = np.quantile(first[is_known], (0.2, 0.4, 0.6, 0.8)) if is_known.any() else []
    fifths = [f"fifth {number + 1} of {names[0]}" for number in np.searchsorted(edges, first)]
    return np.where(is_known, np.array(fifths, dtype=object), f"no {names[0]}")


def _texts(labels: pd.Series) -> pd.Series:
    """The cells of a column of classes; none may be empty."""
    refuse("rows have no label", labels.index[labels.isna()])
    return labels.astype(str)


def _class_names(labels: pd.Series, splits: np.ndarray) -> tuple[str, ...]:
    texts = _texts(labels)
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


def _read_classes(frame: pd.DataFrame, column: str, names: Sequence[str]) -> list[int | None]:
    indices = [find_value(text, names) for text in _texts(frame[column])]
    refuse(
        f"rows of column {column!r} have a label that is not among the classes {list(names)}",
        [
            f"row {row} ({quote(cell)})"
            for row, cell, index in zip(frame.index, frame[column], indices, strict=True)
            if index is None
        ],
    )
    return indices


def _read_cells(
    frame: pd.DataFrame, column: str, parse: Callable[[Any], float | None], unknown: float, refusal: str
) -> list[float]:
    """The numbers of a column's cells. Cells that `parse` returns None for are refused, with their number and the first few."""
    cells = list(frame[column])
    values = [unknown if is_unmentioned(cell) else parse(cell) for cell in cells]
    refuse(
        f"cells of the label column {column!r} {refusal}",
        [
            f"{quote(cell)} (row {row})"
            for row, cell, value in zip(frame.index, cells, values, strict=True)
            if value is None
        ],
    )
    return [value for value in values if value is not None]


def _check_decimal_signs(frame: pd.DataFrame, column: str) -> None:
    """Refuse a column with both decimal signs: beside "63,5", "1.250" may be a thousand."""
    first: dict[str, str] = {}
    for row, cell in zip(frame.index, frame[column], strict=True):
        if isinstance(cell, str) and {*",."} & {*cell} and parse_number(cell) is not None:
            first.setdefault(decimal_sign(cell.strip()), f"{quote(cell)} (row {row})")
    if len(first) > 1:
        raise ValueError(
            f"the label column {column!r} has numbers with both decimal signs, {first['.']} and {first[',']}; write all of "
            f"them with a point, and thousands without a sign"
        )


def _yes_no(cell: Any) -> int | None:
    return _YES_NO.get(as_text(cell).casefold())


def _check_training(values: Tensor, labels: Labels) -> None:
    """Refuse label columns from which nothing can be learned."""
    counts = [_count_yes_no(c) if labels.task == "multilabel" else _count_numbers(c) for c in values.T]
    if labels.task == "multilabel":
        faults = [
            f"{name!r} ({count['positive']} positive, {count['negative']} negative)"
            for name, count in zip(labels.names, counts, strict=True)
            if min(count["positive"], count["negative"]) < FEWEST
        ]
        least = f"{FEWEST} positive and {FEWEST} negative training cases"
    else:
        faults = [
            f"{name!r} ({count['known']} known)"
            for name, count in zip(labels.names, counts, strict=True)
            if count["known"] < FEWEST or not count["deviation"]
        ]
        least = "two different numbers among the training cases"
    if faults:
        raise ValueError(f"label columns need at least {least}; leave out {'; '.join(faults)}")


def _count_yes_no(column: Tensor) -> dict[str, int]:
    return {name: int((column == value).sum()) for name, value in (("positive", 1), ("negative", 0), ("unknown", -1))}


def _count_numbers(column: Tensor) -> dict[str, Any]:
    known = column[~column.isnan()].double()
    mean, deviation = (float(known.mean()), float(known.std(correction=0))) if len(known) else (None, None)
    return {"known": len(known), "unknown": len(column) - len(known), "mean": mean, "deviation": deviation}
