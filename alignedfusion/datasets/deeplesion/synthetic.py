"""A small synthetic data folder in DeepLesion's layout: bright balls in noise, with the irregularities of the real table."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from alignedfusion.datasets.deeplesion.key_slices import COLUMNS

_SPACINGS = (1.0, 2.5, 5.0, 1.25, 4.0)  # mm between slices; the two series of a patient differ
_REACH = 8.0  # mm stored on either side of a key slice
_KEY = 40
_IRREGULARITIES = 8


def make_synthetic(folder: str | Path, *, patients: int = 24, seed: int = 0, image_size: int = 128) -> Path:
    """Write `DL_info.csv` and `Images_png/`, two series with one key slice each per patient.

    Five of seven patients are in the training split, one in the validation and one in the test split. Of eight consecutive
    patients, the first is regular, and each other has one irregularity: an age of NaN; an age of 0; no gender; a distance
    between slices of NaN; a negative distance; slices missing at both ends of the range; a location of NaN with a noisy
    annotation. Every third key slice has two lesions, every ninth has three. The type is -1 in training and for every eighth
    patient.

    Args:
        folder: Folder to write to; it is created if needed.
        patients: Number of patients, at least 8.
        seed: Seed of everything that is drawn.
        image_size: Side length of the images in pixels, at least 64.

    Returns:
        The folder, for `deeplesion.load`.

    Raises:
        ValueError: For fewer patients or smaller images.
        FileExistsError: If the folder already has a DL_info.csv, which may be the real one.
    """
    if patients < _IRREGULARITIES:
        raise ValueError(f"patients must be at least {_IRREGULARITIES}, one per irregularity; got {patients}")
    if image_size < 64:
        raise ValueError(f"image_size must be at least 64, got {image_size}")
    folder = Path(folder)
    table = folder / "DL_info.csv"
    if table.exists():
        raise FileExistsError(f"{str(table)!r} already exists; name an empty folder")
    (folder / "Images_png").mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(1, patients + 1):
        rng = np.random.default_rng([seed, patient])
        age, gender = round(float(rng.uniform(20, 85))), "MF"[int(rng.integers(2))]
        for series in (1, 2):
            rows += _draw_series(folder / "Images_png", rng, patient, series, age, gender, image_size)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _draw_series(
    images: Path, rng: np.random.Generator, patient: int, series: int, age: int, gender: str, size: int
) -> list[dict[str, Any]]:
    kind = (patient - 1) % _IRREGULARITIES
    spacing = _SPACINGS[(patient + 2 * series) % len(_SPACINGS)]
    reach = math.ceil(_REACH / spacing)
    indices = range(_KEY, _KEY + reach) if kind == 6 else range(_KEY - reach, _KEY + reach + 1)
    number = 2 * patient + series
    count = 3 if number % 9 == 0 else 2 if number % 3 == 0 else 1
    # Lesions lie in different quarters of the image, so that none covers another.
    quarters = rng.permutation([(0.34, 0.34), (0.66, 0.34), (0.34, 0.66), (0.66, 0.66)])[:count]
    centres = np.round(size * (quarters + rng.uniform(-0.03, 0.03, quarters.shape))).astype(int)
    radii = rng.integers(size // 24, size // 10 + 1, count)
    pixel = 0.8

    name = f"{patient:06d}_01_{series:02d}"
    (images / name).mkdir(exist_ok=True)
    for index in indices:
        height = (index - _KEY) * spacing / pixel  # from the key slice, in pixels
        _write_slice(images / name / f"{index:03d}.png", rng, size, centres, radii, height)

    split = (1, 1, 1, 2, 3, 1, 1)[patient % 7]
    # In the real table this is a share of the body's height; here it depends on the series only.
    place = "NaN, NaN, NaN" if kind == 7 else f"0.5, 0.5, {0.2 + 0.06 * (number % 10):.2f}"
    common = {
        "File_name": f"{name}_{_KEY:03d}.png",
        "Patient_index": patient,
        "Study_index": 1,
        "Series_ID": series,
        "Key_slice_index": _KEY,
        "Normalized_lesion_location": place,
        "Coarse_lesion_type": -1 if split == 1 or kind == 0 else patient % 8 + 1,
        "Possibly_noisy": int(kind == 7),
        "Slice_range": f"{_KEY - reach}, {_KEY + reach}",
        "Spacing_mm_px_": f"{pixel}, {pixel}, {'NaN' if kind == 4 else -spacing if kind == 5 else spacing}",
        "Image_size": f"{size}, {size}",
        "DICOM_windows": "-175, 275",
        "Patient_gender": "" if kind == 3 else gender,
        "Patient_age": "NaN" if kind == 1 else 0 if kind == 2 else age,
        "Train_Val_Test": split,
    }
    lesions = zip(centres.tolist(), radii.tolist(), strict=True)
    return [common | _measures(x, y, radius) for (x, y), radius in lesions]


def _measures(x: int, y: int, radius: int) -> dict[str, str]:
    x, y = x + 1, y + 1  # the real table counts pixels from 1
    ends = (x - radius, y, x + radius, y, x, y - radius, x, y + radius)
    return {
        "Measurement_coordinates": ", ".join(map(str, ends)),
        "Bounding_boxes": f"{x - radius}, {y - radius}, {x + radius}, {y + radius}",
        "Lesion_diameters_Pixel_": f"{2 * radius}, {2 * radius}",
    }


def _write_slice(
    path: Path, rng: np.random.Generator, size: int, centres: np.ndarray, radii: np.ndarray, height: float
) -> None:
    from PIL import Image

    y, x = np.mgrid[:size, :size]
    is_body = np.hypot(x / size - 0.5, y / size - 0.5) < 0.47
    hounsfield = np.where(is_body, 20.0, -1000.0) + rng.normal(0, 40, (size, size))
    for (centre_x, centre_y), radius in zip(centres, radii, strict=True):
        hounsfield[np.hypot(x - centre_x, y - centre_y) ** 2 + height**2 <= radius**2] += 600
    Image.fromarray((hounsfield.clip(-1024, 3071) + 32768).round().astype(np.uint16)).save(path, compress_level=1)
