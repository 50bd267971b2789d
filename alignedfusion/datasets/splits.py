"""Training, validation and test rows of a table, and rows held back for calibration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.attributes.cells import quote

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")
FEWEST = 5
"""Fewest cases or patients of a class."""
_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_splits(frame: pd.DataFrame, column: str) -> np.ndarray:
    """The split of each row (n,) as a column of the table gives it.

    Raises:
        ValueError: For a cell that names no split, or a split without rows.
    """
    names = [str(cell).strip().lower() for cell in frame[column]]
    refuse(
        f"rows of column {column!r} name neither train, valid nor test",
        [f"row {row} ({quote(frame[column].iloc[row])})" for row, name in enumerate(names) if name not in _SPELLINGS],
    )
    splits = np.array([_SPELLINGS[name] for name in names], dtype=object)
    if absent := [split for split in SPLITS if split not in splits]:
        raise ValueError(f"column {column!r} names no {' and no '.join(absent)} rows; all of {list(SPLITS)} are needed")
    return splits


def draw_splits(labels: np.ndarray, groups: pd.Series | None, seed: int) -> np.ndarray:
    """Draw the split of each row (n,): 20 % test, 16 % validation and 64 % training rows, with similar class shares.

    Args:
        labels: (n,), the class names, or other texts to stratify by.
        groups: The patient of each row, or None; the rows of a patient stay together. A row without a patient counts as a
            patient of its own.
        seed: Seed of the draw.

    Raises:
        ValueError: For a class with fewer than five cases or patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    keys = _group_keys(groups, len(labels))
    sizes = {str(name): len(np.unique(keys[labels == name])) for name in np.unique(labels)}
    for name, size in sizes.items():
        if size < FEWEST:
            raise ValueError(
                f"class {quote(name)} has {size} {'cases' if groups is None else 'patients'}, too few to draw training, "
                f"validation and test rows ({FEWEST} at least); leave it out, join it with another, give a split column, or "
                f"set the task to regression if the labels are numbers"
            )
    splits = np.full(len(labels), "train", dtype=object)
    for split in ("test", "valid"):
        rest = np.flatnonzero(splits == "train")
        # A class of five leaves four for training and validation: a fold must not be smaller than one of them.
        smallest = min(len(np.unique(keys[rest][labels[rest] == name])) for name in sizes)
        folds = StratifiedGroupKFold(max(2, min(5, smallest)))
        splits[rest[next(folds.split(rest, labels[rest], shuffle_groups(keys[rest], seed)))[1]]] = split
    return splits


def join_small(strata: np.ndarray, groups: pd.Series | None) -> np.ndarray:
    """Strata (n,) of which those with fewer than five cases or patients are joined, so that `draw_splits` can divide each."""
    keys = _group_keys(groups, len(strata))
    names, places = np.unique(strata.astype(str), return_inverse=True)
    sizes = np.array([len(np.unique(keys[places == i])) for i in range(len(names))])
    if not (is_small := sizes < FEWEST).any():
        return strata
    joined = np.where(is_small[places], "others", names[places]).astype(object)
    if len(np.unique(keys[joined == "others"])) < FEWEST and not is_small.all():
        joined[joined == "others"] = names[sizes.argmax()]
    return joined


def check_groups(splits: np.ndarray, groups: pd.Series) -> None:
    """Raise a ValueError if a patient has rows in more than one split. The message gives row numbers, not patient numbers."""
    first: dict[Any, int] = {}
    torn: dict[Any, str] = {}
    for row, (group, is_empty) in enumerate(zip(groups, groups.isna(), strict=True)):
        start = row if is_empty else first.setdefault(group, row)
        if splits[start] != splits[row] and group not in torn:
            torn[group] = f"rows {start} ({splits[start]}) and {row} ({splits[row]})"
    refuse("patients are in more than one split; split by patient", torn.values())


def hold_back(labels: np.ndarray, groups: pd.Series | None, share: float, seed: int) -> np.ndarray:
    """Draw the rows (n,) for calibration: a share of each class, groups whole, leaving every class rows to train on.

    Args:
        labels: int64 (n,).
        groups: The patient of each row, or None; a row without one is a patient of its own.
        share: 0 to 1 (exclusive), rounded down in each class.
        seed: Seed of the draw.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"calibration is the share of rows to hold back, 0 to 1 (exclusive); got {share}")
    _, first, group_of_row = np.unique(_group_keys(groups, len(labels)), return_index=True, return_inverse=True)
    generator = np.random.default_rng(seed)
    is_held = np.zeros(len(first), dtype=bool)
    for label in np.unique(labels[first]):
        members = generator.permutation(np.flatnonzero(labels[first] == label))
        is_held[members[: int(share * len(members))]] = True
    for label in np.setdiff1d(labels, labels[~is_held[group_of_row]]):
        is_held[group_of_row[labels == label]] = False
    return is_held[group_of_row]


def shuffle_groups(keys: np.ndarray, seed: int) -> np.ndarray:
    """A number per row (n,), equal within a group, in random order of the groups.

    This is what StratifiedGroupKFold(shuffle=True) does from scikit-learn 1.8 on. Before, it shuffled the counts of the classes
    without the groups, so that its folds were the same for every seed and not stratified.
    """
    names, places = np.unique(keys, return_inverse=True)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    return order.argsort()[places]


def refuse(what: str, offenders: Iterable[Any]) -> None:
    """Raise a ValueError with the number of offenders and the first five of them, if there are any."""
    offenders = list(offenders)
    if offenders:
        more = f" ... and {len(offenders) - 5} more" if len(offenders) > 5 else ""
        raise ValueError(f"{len(offenders)} {what}: {'; '.join(map(str, offenders[:5]))}{more}")


def _group_keys(groups: pd.Series | None, count: int) -> np.ndarray:
    """A text per row (count,), equal within a group."""
    own = np.array([f"row {row}" for row in range(count)], dtype=object)
    return own if groups is None else np.where(groups.isna(), own, "group " + groups.astype(str))
