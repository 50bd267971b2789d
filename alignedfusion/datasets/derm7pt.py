"""Derm7pt (Kawahara et al. 2019): a dermoscopic and a clinical image per lesion, clinical attributes, five classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.tables.files import read_table

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
"""Presets: three patient attributes; the five metadata columns of FusionM4Net; the seven-point checklist; the last two."""

LEAKS = {"management": "it follows from the diagnosis: every melanoma and basal cell carcinoma is 'excision'"}
"""Attributes that follow from the diagnosis; a preset that has one gives a warning."""

_CLASSES = ("melanoma", "nevus", "seborrheic keratosis", "basal cell carcinoma")


def load(root: str | Path, *, attributes: str = "patient3") -> Manifest:
    """Read the public layout `release_v0`: `meta/meta.csv`, the three index files beside it, and `images/`.

    Args:
        root: The folder `release_v0`.
        attributes: One of the presets in `ATTRIBUTES`.

    Raises:
        FileNotFoundError: If a file of the layout is absent.
        ValueError: For an unknown preset, or index files that name a case twice or a row that does not exist.
    """
    names = _preset(attributes)
    root = Path(root)
    files = {"train": "train_indexes.csv", "valid": "valid_indexes.csv", "test": "test_indexes.csv"}
    if absent := [name for name in ("meta.csv", *files.values()) if not (root / "meta" / name).is_file()]:
        raise FileNotFoundError(f"{str(root)!r} is not Derm7pt's release_v0: no {absent} in its folder meta")
    frame = read_table(root / "meta" / "meta.csv")
    split_of_row = np.full(len(frame), "", dtype=object)
    for name, file in files.items():
        index = read_table(root / "meta" / file)["indexes"].astype(int).to_numpy()
        if len(index) and (index.min() < 0 or index.max() >= len(frame)):
            raise ValueError(
                f"{file} names row {index.max()}, but meta.csv has {len(frame)} rows: are they of one release?"
            )
        if (split_of_row[index] != "").any():
            raise ValueError(f"{file} names a case that is in another split already")
        split_of_row[index] = name
    classes = [group_diagnosis(text) for text in frame["diagnosis"]]
    frame = frame.assign(split=split_of_row, diagnosis_class=classes)[split_of_row != ""]
    return Manifest.from_frame(
        frame,
        CaseColumns(images=IMAGES, label="diagnosis_class", attributes=names, split="split"),
        root=root / "images",
    )


def group_diagnosis(diagnosis: str) -> str:
    """One of the five classes: melanoma, nevus, seborrheic keratosis, basal cell carcinoma or miscellaneous."""
    return next((name for name in _CLASSES if name in diagnosis), "miscellaneous")


def _preset(name: str) -> tuple[str, ...]:
    if name not in ATTRIBUTES:
        raise ValueError(f"attributes must be one of {sorted(ATTRIBUTES)}, got {name!r}")
    for attribute in set(LEAKS) & set(ATTRIBUTES[name]):
        warnings.warn(f"{attribute!r} is a leak: {LEAKS[attribute]}", stacklevel=3)
    return ATTRIBUTES[name]
