"""DeepLesion's table `DL_info.csv`: one row per lesion becomes one record per key slice."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = (
    "File_name",
    "Patient_index",
    "Study_index",
    "Series_ID",
    "Key_slice_index",
    "Measurement_coordinates",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Normalized_lesion_location",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
)
"""The columns of `DL_info.csv`, one row per lesion."""

LESION_TYPES = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
"""Names of Coarse_lesion_type 1 to 8. It is not an attribute, because it is -1 (unknown) in all training slices."""

SPLITS = {1: "train", 2: "valid", 3: "test"}
"""The values of Train_Val_Test."""

_GENDERS = {"M": "male", "F": "female", "O": "other"}


@dataclass(frozen=True)
class KeySlice:
    """A slice with marked lesions.

    Attributes:
        file: File name in `DL_info.csv`, such as "000091_03_01_093.png".
        patient: Number of the patient.
        split: "train", "valid" or "test".
        boxes: x1 y1 x2 y2 per lesion, in pixels of the file; the first pixel is 0.
        diameters_mm: Long and short diameter per lesion; None where unknown.
        lesion_types: One of `LESION_TYPES` per lesion; None where unknown.
        pixel_mm: Side length of a pixel; None where unknown.
        slice_mm: Distance between slices; None where unknown.
        is_noisy: Whether an annotation is marked as possibly noisy.
        attributes: Values by name; None where unmentioned. With several lesions, `size` is the longest diameter and
            `location` the mean height (relative z of a body-part regressor).
    """

    file: str
    patient: int
    split: str
    boxes: tuple[tuple[float, ...], ...]
    diameters_mm: tuple[tuple[float, float] | None, ...]
    lesion_types: tuple[str | None, ...]
    pixel_mm: float | None
    slice_mm: float | None
    is_noisy: bool
    attributes: Mapping[str, Any]

    @property
    def series(self) -> str:
        """Name of the folder with the slices."""
        return self.file.rsplit("_", 1)[0]

    @property
    def index(self) -> int:
        """Number of the slice within the series."""
        return int(self.file.rsplit("_", 1)[1].removesuffix(".png"))

    @property
    def path(self) -> str:
        """Path of the file in the folder `Images_png`."""
        return f"{self.series}/{self.index:03d}.png"


def read_key_slices(path: Path, attributes: Sequence[str]) -> list[KeySlice]:
    """Read the key slices of the table, with their lesions and these attributes.

    Raises:
        ValueError: For a missing column or a cell that cannot be read; the message names line and column.
    """
    groups: dict[str, list[_Row]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if absent := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{str(path)!r} has no column {absent}; it has {list(reader.fieldnames or ())}")
        for cells in reader:
            row = _Row(reader.line_num, cells)
            groups.setdefault(row.text("File_name"), []).append(row)
    return [_key_slice(rows, attributes) for rows in groups.values()]


@dataclass(frozen=True)
class _Row:
    """A line of the table; its errors name the line."""

    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        return (self.cells[column] or "").strip()

    def numbers(self, column: str, count: int) -> list[float]:
        """Return `count` numbers, all NaN if the cell is empty."""
        texts = self.text(column).split(",") if self.text(column) else ["nan"] * count
        try:
            numbers = [float(text.strip() or "nan") for text in texts]
        except ValueError:
            numbers = []
        if len(numbers) != count:
            raise self.error(column, f"{count} number{'s' if count > 1 else ''}")
        return numbers

    def number(self, column: str) -> float:
        return self.numbers(column, 1)[0]

    def error(self, column: str, wanted: str) -> ValueError:
        return ValueError(f"DL_info.csv, line {self.line}: {column} must be {wanted}, got {self.text(column)!r}")


def _key_slice(rows: Sequence[_Row], names: Sequence[str]) -> KeySlice:
    first = rows[0]
    file = first.text("File_name")
    if not file.endswith(".png") or not file.removesuffix(".png").rpartition("_")[2].isdigit():
        raise first.error("File_name", "like 000091_03_01_093.png")
    split, patient = first.number("Train_Val_Test"), first.number("Patient_index")
    if split not in SPLITS:
        raise first.error("Train_Val_Test", "1, 2 or 3")
    if math.isnan(patient):
        raise first.error("Patient_index", "a number")
    gender = first.text("Patient_gender").upper()
    if gender not in (*_GENDERS, "", "NAN"):
        raise first.error("Patient_gender", "M, F, O or empty")

    across, down, between = (_positive(number) for number in first.numbers("Spacing_mm_px_", 3))
    pixel_mm = across if across is not None else down
    diameters = [_diameters(row, pixel_mm) for row in rows]
    known_sizes = [each[0] for each in diameters if each is not None]
    heights = [row.numbers("Normalized_lesion_location", 3)[2] for row in rows]
    known_heights = [height for height in heights if height >= 0]
    values = {
        "age": _positive(first.number("Patient_age")),
        "gender": _GENDERS.get(gender),
        "location": sum(known_heights) / len(known_heights) if known_heights else None,
        "size": max(known_sizes) if known_sizes else None,
    }
    return KeySlice(
        file,
        int(patient),
        SPLITS[int(split)],
        tuple(_box(row) for row in rows),
        tuple(diameters),
        tuple(_type(row) for row in rows),
        pixel_mm,
        between,
        any(row.number("Possibly_noisy") == 1 for row in rows),
        {name: values[name] for name in names},
    )


def _positive(number: float) -> float | None:
    return number if 0 < number < math.inf else None


def _box(row: _Row) -> tuple[float, ...]:
    x1, y1, x2, y2 = numbers = row.numbers("Bounding_boxes", 4)
    if not (x1 <= x2 and y1 <= y2):
        raise row.error("Bounding_boxes", "x1, y1, x2, y2 with the second corner not before the first")
    return tuple(number - 1 for number in numbers)  # the file counts pixels from 1


def _diameters(row: _Row, pixel_mm: float | None) -> tuple[float, float] | None:
    long, short = row.numbers("Lesion_diameters_Pixel_", 2)
    is_known = pixel_mm is not None and long > 0 and short > 0
    return (long * pixel_mm, short * pixel_mm) if is_known and pixel_mm is not None else None


def _type(row: _Row) -> str | None:
    number = row.number("Coarse_lesion_type")
    if math.isnan(number) or number == -1:
        return None
    if number not in range(1, 9):
        raise row.error("Coarse_lesion_type", "1 to 8, or -1 where it is unknown")
    return LESION_TYPES[int(number) - 1]
