"""Planes of equal distance around a key slice of DeepLesion, read from 16-bit files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignedfusion.datasets.deeplesion.key_slices import KeySlice

_ZERO_HU = 32768  # this value in a file is 0 Hounsfield units


def read_planes(images: str | Path, key: KeySlice, *, num_slices: int = 7, spacing_mm: float = 2.0) -> Tensor:
    """Read planes around a key slice, in the order of slice numbers, in Hounsfield units.

    Each plane is interpolated between its two neighbouring slices. A slice that is not stored is replaced by the nearest
    stored one towards the key slice. Where the distance between slices is unknown, every plane is the key slice.

    Args:
        images: Path of the folder `Images_png`.
        key: Key slice.
        num_slices: Number of planes D, odd.
        spacing_mm: Distance between planes.

    Returns:
        float32 (D, H, W).

    Raises:
        ValueError: If a file cannot be read, is not a 16-bit image, or has another size than the key slice.
    """
    check_planes(num_slices, spacing_mm)
    folder = Path(images) / key.series
    middle = _read_slice(_file(folder, key.index))
    read = {key.index: middle}  # each file is decoded once

    def stored(index: int) -> np.ndarray:
        while index not in read and not (path := _file(folder, index)).is_file():
            index += 1 if index < key.index else -1
        if index not in read:
            read[index] = _read_slice(path)
            if read[index].shape != middle.shape:
                raise ValueError(f"{str(path)!r} has another size than its key slice {key.index:03d}.png")
        return read[index]

    planes = []
    for number in range(-(num_slices // 2), num_slices // 2 + 1):
        step = 0.0 if key.slice_mm is None else spacing_mm / key.slice_mm
        low, high, weight = _neighbours(number, step)
        plane = stored(key.index + low).astype(np.float64)
        if weight:
            plane = plane + weight * (stored(key.index + high) - plane)
        planes.append(plane - _ZERO_HU)
    return torch.from_numpy(np.stack(planes)).float()  # (D, H, W)


def _neighbours(number: int, step: float) -> tuple[int, int, float]:
    """Return the two slices around a plane, counted from the key slice, and the weight of the second."""
    position = round(abs(number) * step, 9)  # 2 mm over 0.4 mm are 5 slices, not 5.000000001
    near, far = math.floor(position), math.ceil(position)
    side = 1 if number > 0 else -1
    return side * near, side * far, position - near


def check_planes(num_slices: int, spacing_mm: float) -> None:
    """Refuse invalid settings of `read_planes`."""
    if num_slices < 1 or num_slices % 2 == 0:
        raise ValueError(
            f"num_slices must be odd and positive, so that the key slice is in the middle; got {num_slices}"
        )
    if not 0 < spacing_mm < math.inf:
        raise ValueError(f"spacing_mm must be above 0, got {spacing_mm}")


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:03d}.png"


def _read_slice(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the slice {str(path)!r}: {error}") from error
    if not image.mode.startswith("I"):
        raise ValueError(f"{str(path)!r} must be a 16-bit grey image, as NIH publishes it; its mode is {image.mode!r}")
    return np.asarray(image)
