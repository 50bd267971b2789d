"""Rows held back from training, to calibrate a model with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def held_back(labels: np.ndarray, groups: pd.Series | None, share: float, seed: int) -> np.ndarray:
    """Which rows (n,) are for calibration: the share of each class, groups whole, no class without a row to train on.

    Args:
        labels: int64 (n,).
        groups: The patient of each row, or None; a row without one is a patient of its own.
        share: 0 to 1 (exclusive), rounded down in each class.
        seed: Of the draw.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"calibration is the share of rows to hold back, 0 to 1 (exclusive); got {share}")
    own = np.arange(len(labels)).astype(str)
    keys = own if groups is None else np.where(groups.isna(), own, "group " + groups.astype(str))
    _, first, group_of_row = np.unique(keys, return_index=True, return_inverse=True)
    generator = np.random.default_rng(seed)
    is_held = np.zeros(len(first), dtype=bool)
    for label in np.unique(labels[first]):
        members = generator.permutation(np.flatnonzero(labels[first] == label))
        is_held[members[: int(share * len(members))]] = True
    for label in np.setdiff1d(labels, labels[~is_held[group_of_row]]):
        is_held[group_of_row[labels == label]] = False
    return is_held[group_of_row]
