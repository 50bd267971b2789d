"""Derm7pt (Kawahara et al. 2019): a dermoscopic and a clinical image per lesion, clinical attributes, five classes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.tables.files import read_table

if TYPE_CHECKING:
    import pandas as pd

IMAGES = ("derm", "clinic")
_PATIENT = ("elevation", "location", "sex")
_SEVEN = (
    "pigment_network",
    "streaks",
    "pigmentation",
    "regression_structures",
    "dots_and_globules",
    "blue_whitish_veil",
    "vascular_structures",
)
ATTRIBUTES = {
    "patient3": _PATIENT,
    "five": ("level_of_diagnostic_difficulty", *_PATIENT, "management"),
    "seven_point7": _SEVEN,
    "seven_plus5": (*_SEVEN, "level_of_diagnostic_difficulty", *_PATIENT, "management"),
}
"""Attribute presets: what the patient shows; FusionM4Net's five metadata columns; the seven-point checklist; both."""

LEAKS = {"management": "it follows from the diagnosis: every melanoma and basal cell carcinoma is 'excision'"}
"""Attributes that tell what nobody knows before the diagnosis; a preset that has one warns of it."""

_CLASSES = ("melanoma", "nevus", "seborrheic keratosis", "basal cell carcinoma")


def load(root: str | Path, *, attributes: str = "patient3") -> Manifest:
    """Read the public layout `release_v0`: `meta/meta.csv`, the three index files beside it, and `images/`.

    Args:
        root: The folder `release_v0`.
        attributes: One of the presets in `ATTRIBUTES`.

    Raises:
        FileNotFoundError: If it is not that layout.
        ValueError: For another preset, or index files that name a case twice or one that is not there.
    """
    names = _preset(attributes)
    root = Path(root)
    files = {"train": "train_indexes.csv", "valid": "valid_indexes.csv", "test": "test_indexes.csv"}
    if absent := [name for name in ("meta.csv", *files.values()) if not (root / "meta" / name).is_file()]:
        raise FileNotFoundError(f"{str(root)!r} is not Derm7pt's release_v0: no {absent} in its folder meta")
    frame = read_table(root / "meta" / "meta.csv")
    part = np.full(len(frame), "", dtype=object)
    for name, file in files.items():
        index = read_table(root / "meta" / file)["indexes"].astype(int).to_numpy()
        if len(index) and (index.min() < 0 or index.max() >= len(frame)):
            raise ValueError(
                f"{file} names row {index.max()}, but meta.csv has {len(frame)} rows: are they of one release?"
            )
        if (part[index] != "").any():
            raise ValueError(f"{file} names a case that is in another part already")
        part[index] = name
    frame = frame.assign(split=part, diagnosis_class=[class_of(text) for text in frame["diagnosis"]])[part != ""]
    return Manifest.from_frame(
        frame,
        images=IMAGES,
        label="diagnosis_class",
        attributes=names,
        split="split",
        root=root / "images",
    )


@dataclass(frozen=True)
class Tokens:
    """Derm7pt as image tokens, for work on fusion alone.

    Attributes:
        frame: One row per case, with the column `split`: "train" or "valid".
        labels: int64 (n,), of `class_names`.
        class_names: The five classes.
        image: (n, N, F) for each of "derm" and "clinic".
        views: (n, 4, N, F) likewise: the image and three augmented views of it; of a validation case four times the image.
    """

    frame: pd.DataFrame
    labels: Tensor
    class_names: tuple[str, ...]
    image: Mapping[str, Tensor]
    views: Mapping[str, Tensor]

    def schema(self, rows: np.ndarray, attributes: str) -> AttributeSchema:
        """The attributes of a preset, learned from these rows."""
        return AttributeSchema.from_table(self.frame.iloc[rows], list(_preset(attributes)))

    def cases(self, rows: np.ndarray, codes: Tensor, *, augmented: bool = False) -> TensorCases:
        """Cases of these rows with these codes (n, A); `augmented` draws one of the four views each time."""
        source = self.views if augmented else self.image
        tokens = {m: each[rows] for m, each in source.items()}
        return (ManyViews if augmented else TensorCases)(tokens, codes, self.labels[rows])


def load_tokens(root: str | Path) -> Tokens:
    """Read `train.npz`, `train.csv`, `valid.npz` and `valid.csv`."""
    import pandas as pd

    root = Path(root)
    arrays = {part: np.load(root / f"{part}.npz") for part in ("train", "valid")}
    frame = pd.concat([read_table(root / f"{part}.csv") for part in arrays], ignore_index=True)
    names = [class_of(text) for text in frame["diagnosis"]]
    class_names = tuple(sorted(set(names)))
    image, views = {}, {}
    for m in IMAGES:
        train, valid = (torch.from_numpy(arrays[part][m]).float() for part in ("train", "valid"))
        augmented = torch.from_numpy(arrays["train"][f"{m}_augmented"]).float()  # (n, 3, N, F)
        image[m] = torch.cat([train, valid])
        views[m] = torch.cat([torch.cat([train[:, None], augmented], 1), valid[:, None].expand(-1, 4, -1, -1)])
    labels = torch.tensor([class_names.index(name) for name in names])
    return Tokens(frame, labels, class_names, image, views)


def class_of(diagnosis: str) -> str:
    """One of the five classes: melanoma, nevus, seborrheic keratosis, basal cell carcinoma or miscellaneous."""
    return next((name for name in _CLASSES if name in diagnosis), "miscellaneous")


class ManyViews(TensorCases):
    """Cases of which each access draws one of several views: tokens (n, views, N, F) per image modality."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = super().__getitem__(index)
        view = int(torch.randint(len(next(iter(case["image"].values()))), ()))  # one view of the lesion for both images
        return {**case, "image": {m: views[view] for m, views in case["image"].items()}}


def _preset(name: str) -> tuple[str, ...]:
    if name not in ATTRIBUTES:
        raise ValueError(f"attributes must be one of {sorted(ATTRIBUTES)}, got {name!r}")
    for attribute in set(LEAKS) & set(ATTRIBUTES[name]):
        warnings.warn(f"{attribute!r} is a leak: {LEAKS[attribute]}", stacklevel=3)
    return ATTRIBUTES[name]
