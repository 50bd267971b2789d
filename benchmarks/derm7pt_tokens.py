"""Derm7pt as precomputed image tokens: `train.npz`, `train.csv`, `valid.npz` and `valid.csv` in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.derm7pt import IMAGES, group_diagnosis
from alignedfusion.tables.files import read_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Tokens:
    """The official training and validation cases as tokens.

    Attributes:
        frame: One row per case, with the column `split`: "train" or "valid".
        labels: int64 (n,), indices into `class_names`.
        class_names: The five classes.
        image: (n, N, F) for each of "derm" and "clinic".
        views: (n, 4, N, F) for each of "derm" and "clinic": the image and three augmented views of it. A validation case has
            no augmented views, and repeats its image four times.
    """

    frame: pd.DataFrame
    labels: Tensor
    class_names: tuple[str, ...]
    image: Mapping[str, Tensor]
    views: Mapping[str, Tensor]


def load_tokens(root: str | Path) -> Tokens:
    """Read the folder."""
    import pandas as pd

    root = Path(root)
    arrays = {split: np.load(root / f"{split}.npz") for split in ("train", "valid")}
    frame = pd.concat([read_table(root / f"{split}.csv") for split in arrays], ignore_index=True)
    names = [group_diagnosis(text) for text in frame["diagnosis"]]
    class_names = tuple(sorted(set(names)))
    image, views = {}, {}
    for m in IMAGES:
        train, valid = (torch.from_numpy(arrays[split][m]).float() for split in ("train", "valid"))
        augmented = torch.from_numpy(arrays["train"][f"{m}_augmented"]).float()  # (n, 3, N, F)
        image[m] = torch.cat([train, valid])
        views[m] = torch.cat([torch.cat([train[:, None], augmented], 1), valid[:, None].expand(-1, 4, -1, -1)])
    labels = torch.tensor([class_names.index(name) for name in names])
    return Tokens(frame, labels, class_names, image, views)


class ManyViews(TensorCases):
    """Cases with several views (n, views, N, F) per image modality; each access draws one view, the same for all images."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = super().__getitem__(index)
        view = int(torch.randint(len(next(iter(case["image"].values()))), ()))
        return {**case, "image": {m: views[view] for m, views in case["image"].items()}}
