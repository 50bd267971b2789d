"""DeepLesion (Yan et al. 2018): CT slices with 1 to 3 lesions each, the slices around them, and what the patient is like."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.deeplesion.key_slices import SPLITS, KeySlice, read_key_slices
from alignedfusion.datasets.deeplesion.planes import check_planes, read_planes

ATTRIBUTES = {"patient": ("age", "gender"), "annotation": ("age", "gender", "location", "size")}
"""Attributes by source: what is known of the patient, and that with what was computed from the lesion's own box."""

LEAKS = {
    "location": "it is where on the body the lesion was marked",
    "size": "it is measured on the very lesion that is to be found",
}
"""Attributes that nobody knows before the lesion is found; a source that has them warns."""

_UNITS = {"age": "years", "size": "mm"}


@dataclass(frozen=True)
class DeepLesion:
    """The key slices of a tree; `load` makes it.

    Attributes:
        images: The folder `Images_png`.
        slices: All key slices.
        attributes: Names of the attributes.
    """

    images: Path
    slices: tuple[KeySlice, ...]
    attributes: tuple[str, ...]

    def split(self, name: str, *, fraction: float = 1.0, seed: int = 0) -> list[KeySlice]:
        """The key slices of "train", "valid" or "test", or of a fraction of its patients.

        Of one seed, a smaller fraction's patients are all among a larger one's.
        """
        if name not in SPLITS.values():
            raise ValueError(f"a split is one of {list(SPLITS.values())}, got {name!r}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
        slices = [each for each in self.slices if each.split == name]
        patients = np.random.default_rng(seed).permutation(sorted({each.patient for each in slices}))
        chosen = set(patients[: max(1, round(fraction * len(patients)))].tolist())
        return [each for each in slices if each.patient in chosen]

    def schema(self, training: Sequence[KeySlice] | None = None, *, bins: int = 4) -> AttributeSchema:
        """The attributes, learned from the training slices or from some of them.

        Args:
            training: Key slices of training patients; all of them by default.
            bins: Intervals of age, location and size.
        """
        training = self.split("train") if training is None else training
        if others := [each.file for each in training if each.split != "train"]:
            raise ValueError(f"a schema is learned from training patients only; {others[0]!r} is none of theirs")
        rows = [each.attributes for each in training]
        # Of a handful of patients there may be too few different numbers to divide into intervals.
        counts = {name: len({row[name] for row in rows} - {None}) for name in self.attributes}
        units = {name: unit for name, unit in _UNITS.items() if counts.get(name, 0) > 8}
        return AttributeSchema.from_table(rows, self.attributes, bins=bins, units=units)


def load(folder: str | Path, *, source: str = "patient", only_with_image: bool = False) -> DeepLesion:
    """Read the public layout: `DL_info.csv` and `Images_png/000091_03_01/093.png`. No pixel is read.

    Unmentioned, never a value: an age that is empty, NaN or 0, an empty gender, a type of -1, a distance between slices that is
    NaN or negative.

    Args:
        folder: Where both are.
        source: "patient" for age and gender; "annotation" for location and size too, which are leaks: report results with and
            without them.
        only_with_image: Leave out key slices whose file is not there, instead of refusing.

    Raises:
        FileNotFoundError: If it is not that layout, or files of key slices are not there.
        ValueError: For a missing column, a cell that cannot be read, or a patient in two splits.
    """
    if source not in ATTRIBUTES:
        raise ValueError(f"source must be one of {list(ATTRIBUTES)}, got {source!r}")
    for name in sorted(set(LEAKS) & set(ATTRIBUTES[source])):
        warnings.warn(f"{name!r} is a leak: {LEAKS[name]}", stacklevel=2)
    folder = Path(folder)
    images = folder / "Images_png"
    if not (folder / "DL_info.csv").is_file() or not images.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is not DeepLesion's layout: it needs DL_info.csv and Images_png/")
    slices = read_key_slices(folder / "DL_info.csv", ATTRIBUTES[source])
    splits: dict[int, str] = {}
    for each in slices:
        if splits.setdefault(each.patient, each.split) != each.split:
            raise ValueError(f"patient {each.patient} is in two splits, {splits[each.patient]} and {each.split}")
    absent = {each.file for each in slices if not (images / each.path).is_file()}
    if absent and (not only_with_image or len(absent) == len(slices)):
        raise FileNotFoundError(
            f"the files of {len(absent)} of {len(slices)} key slices are not in {str(images)!r}, {min(absent)!r} for one; "
            f"only_with_image=True leaves them out"
        )
    return DeepLesion(images, tuple(each for each in slices if each.file not in absent), ATTRIBUTES[source])


class LesionCases(Dataset[dict[str, Any]]):
    """Key slices with their neighbours, boxes and codes, read when they are needed.

    A case has "image" (D, H, W), or (1, D, H, W) with `channel`; "boxes" (m, 4), "labels" int64 (m,) of ones, "codes" int64
    (A,), "patient". Values that the schema has not seen count as unmentioned.

    Args:
        data: What `load` read.
        slices: The key slices, such as `data.split("train", fraction=0.25)`.
        schema: The schema of `data.schema()`.
        num_slices: D, odd: the key slice is in the middle.
        spacing_mm: Distance of the D planes.
        window: Hounsfield units that become 0 and 255; beyond them the image is flat.
        image_size: Longer side in pixels, the other one is filled with 0; None leaves images as they are.
        channel: Whether the image has a channel axis in front, as 3-D networks expect it.
    """

    def __init__(
        self,
        data: DeepLesion,
        slices: Sequence[KeySlice],
        schema: AttributeSchema,
        *,
        num_slices: int = 7,
        spacing_mm: float = 2.0,
        window: tuple[float, float] = (-1024.0, 2050.0),
        image_size: int | None = 512,
        channel: bool = False,
    ) -> None:
        check_planes(num_slices, spacing_mm)
        if not window[0] < window[1]:
            raise ValueError(f"window must rise, got {window}")
        self.images = data.images
        self.slices = list(slices)
        self.codes = schema.encode([each.attributes for each in self.slices], unseen="unknown")  # (n, A)
        self.num_slices = num_slices
        self.spacing_mm = spacing_mm
        self.window = window
        self.image_size = image_size
        self.channel = channel

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.slices[index]
        planes = read_planes(
            self.images,
            key,
            num_slices=self.num_slices,
            spacing_mm=self.spacing_mm,
        )
        low, high = self.window
        image = ((planes - low) / (high - low)).clamp(0, 1) * 255  # (D, H, W)
        height, width = image.shape[1:]
        edge = torch.tensor([width - 1, height - 1] * 2, dtype=torch.float32)
        boxes = torch.tensor(key.boxes, dtype=torch.float32).clamp(min=torch.zeros(4), max=edge)  # (m, 4)
        if self.image_size is not None:
            image, scale = _resize(image, self.image_size)
            boxes = boxes * scale
        return {
            "image": image[None] if self.channel else image,
            "boxes": boxes,
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "codes": self.codes[index],
            "patient": key.patient,
        }


def collate(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: "image" and "codes" stacked, "targets" a list of boxes and labels as torchvision's detectors take it."""
    return {
        "image": torch.stack([case["image"] for case in cases]),  # (B, D, H, W) or (B, 1, D, H, W)
        "targets": [{"boxes": case["boxes"], "labels": case["labels"]} for case in cases],
        "codes": torch.stack([case["codes"] for case in cases]),  # (B, A)
        "patient": torch.tensor([case["patient"] for case in cases]),  # (B,)
    }


def _resize(image: Tensor, size: int) -> tuple[Tensor, float]:
    height, width = image.shape[1:]
    scale = size / max(height, width)
    if scale != 1:
        shape = (round(scale * height), round(scale * width))
        image = torch.nn.functional.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]
    padding = (0, size - image.shape[2], 0, size - image.shape[1])  # right and below, so that boxes stay where they are
    return torch.nn.functional.pad(image, padding), scale
