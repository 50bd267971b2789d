"""DeepLesion (Yan et al. 2018): CT slices with 1 to 3 lesions each, the slices around them, and attributes of the patient."""

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
"""Attributes by source: "patient" for those of the patient, "annotation" for these and those computed from the lesion's box."""

LEAKS = {
    "location": "it is computed from the box of the lesion that is to be found",
    "size": "it is measured on the lesion that is to be found",
}
"""Attributes that are unknown before the lesion is found; loading them gives a warning."""

_UNITS = {"age": "years", "size": "mm"}


@dataclass(frozen=True)
class DeepLesion:
    """The key slices of a data folder, as `load` returns them.

    Attributes:
        images: Path of the folder `Images_png`.
        slices: All key slices.
        attributes: Names of the attributes.
    """

    images: Path
    slices: tuple[KeySlice, ...]
    attributes: tuple[str, ...]

    def split(self, name: str, *, fraction: float = 1.0, seed: int = 0) -> list[KeySlice]:
        """Return the key slices of a split, or of a fraction of its patients.

        For the same seed, the patients of a smaller fraction are a subset of those of a larger one.

        Args:
            name: "train", "valid" or "test".
            fraction: Share of the patients, above 0 and at most 1.
            seed: Seed of the draw.
        """
        if name not in SPLITS.values():
            raise ValueError(f"name must be one of {list(SPLITS.values())}, got {name!r}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
        slices = [each for each in self.slices if each.split == name]
        patients = np.random.default_rng(seed).permutation(sorted({each.patient for each in slices}))
        chosen = set(patients[: max(1, round(fraction * len(patients)))].tolist())
        return [each for each in slices if each.patient in chosen]

    def schema(self, training: Sequence[KeySlice] | None = None, *, bins: int = 4) -> AttributeSchema:
        """Learn the schema of the attributes from training slices.

        Args:
            training: Key slices of training patients; the whole training split by default.
            bins: Number of intervals of age, location and size.
        """
        training = self.split("train") if training is None else training
        if others := [each.file for each in training if each.split != "train"]:
            raise ValueError(
                f"a schema must be learned from training patients only; {others[0]!r} is not in the training split"
            )
        rows = [each.attributes for each in training]
        # A few patients may have too few different numbers for intervals.
        counts = {name: len({row[name] for row in rows} - {None}) for name in self.attributes}
        units = {name: unit for name, unit in _UNITS.items() if counts.get(name, 0) > 8}
        return AttributeSchema.from_table(rows, self.attributes, bins=bins, units=units)


def load(folder: str | Path, *, source: str = "patient", only_with_image: bool = False) -> DeepLesion:
    """Read the table of the public layout: `DL_info.csv` and `Images_png/000091_03_01/093.png`. No image is read.

    Unknown values are unmentioned: an age that is empty, NaN or 0, an empty gender, a type of -1, and a distance between slices
    that is NaN or negative.

    Args:
        folder: Folder with both.
        source: "patient" for age and gender; "annotation" adds location and size, which are leaks: report results with and
            without them.
        only_with_image: Leave out key slices without an image file, instead of raising an error.

    Raises:
        FileNotFoundError: If the folder has another layout, or image files of key slices are missing.
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
            f"the files of {len(absent)} of {len(slices)} key slices are not in {str(images)!r}, such as {min(absent)!r}; "
            f"only_with_image=True leaves them out"
        )
    return DeepLesion(images, tuple(each for each in slices if each.file not in absent), ATTRIBUTES[source])


class LesionCases(Dataset[dict[str, Any]]):
    """Data set of key slices with neighbouring planes, boxes and codes. Images are read on access.

    A case has "image" (D, H, W), or (1, D, H, W) with `channel`; "boxes" (m, 4), "labels" int64 (m,) of ones, "codes" int64
    (A,) and "patient". Values that are not in the schema are unmentioned.

    Args:
        data: Result of `load`.
        slices: Key slices, such as `data.split("train", fraction=0.25)`.
        schema: Schema of the attributes, such as `data.schema()`.
        num_slices: Number of planes D, odd; the key slice is in the middle.
        spacing_mm: Distance between planes.
        window: Hounsfield units that become 0 and 255; values outside are clipped.
        image_size: Length of the longer side in pixels; the other side is padded with 0. None keeps the size.
        channel: Whether the image has a leading channel axis, as 3-D networks expect it.
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
            raise ValueError(f"window must have a lower value below a higher one, got {window}")
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
    """Make a batch: stacked "image" and "codes", and "targets", a list of boxes and labels for torchvision's detectors."""
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
