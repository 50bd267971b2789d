"""MILK10k (MILK study team, doi 10.34970/648456): a clinical and a dermoscopic image per skin lesion, eleven classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignedfusion.attributes import ColumnOptions
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.tables.files import read_table

if TYPE_CHECKING:
    import pandas as pd

IMAGES = ("clinical", "dermoscopic")
CLASSES = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")
_CONCEPTS = (
    "ulceration_crust",
    "hair",
    "vasculature_vessels",
    "erythema",
    "pigmented",
    "gel_water_drop_fluid_dermoscopy_liquid",
    "skin_markings_pen_ink_purple_pen",
)
_PATIENT = ("age_approx", "sex", "skin_tone_class", "site")
_DERM, _CLIN = (tuple(f"{prefix}_{concept}" for concept in _CONCEPTS) for prefix in ("derm", "clin"))
ATTRIBUTES = {
    "patient4": _PATIENT,
    "derm7": _DERM,
    "clin7": _CLIN,
    "patient4+derm7": (*_PATIENT, *_DERM),
    "patient4+derm7+clin7": (*_PATIENT, *_DERM, *_CLIN),
}
"""Presets: four patient attributes; seven concepts that MONET, a foundation model, scored in the dermoscopic or in the
clinical image; and combinations. The scores look like findings of a report but are computed from the image. The gel, skin
markings and hair scores may describe how the image was taken."""

OPTIONS = {
    "age_approx": ColumnOptions(kind="numeric", units="years", edges=tuple(float(age) for age in range(20, 90, 10))),
    "skin_tone_class": ColumnOptions(kind="categorical"),
}

LEAKS = {
    **{f"diagnosis_{level}": "it is a level of the diagnosis" for level in (1, 2, 3, 4)},
    "diagnosis_full": "it is the diagnosis",
    "melanocytic": "it follows from the diagnosis",
    "diagnosis_confirm_type": "lesions that look benign are not biopsied",
    "concomitant_biopsy": "lesions that look benign are not biopsied",
    "invasion_thickness_interval": "it is measured in excised melanomas",
}
"""Columns of the public files that follow from the diagnosis or from the decision for a biopsy: none is an attribute."""

_KINDS = {"clinical: close-up": "clinical", "dermoscopic": "dermoscopic"}


def load(root: str | Path, *, attributes: str = "patient4", seed: int = 0) -> Manifest:
    """Read the public layout or a prepared table.

    The public layout has `MILK10k_Training_Metadata.csv`, `MILK10k_Training_GroundTruth.csv` and the images, in the folder
    `MILK10k_Training_Input` with or without a folder per lesion. A prepared table `cases.csv` has one row per lesion with the
    columns `label`, `clinical`, `dermoscopic` and the attributes; it is used if it exists. The data have no patient
    identifier, so rows are split by lesion.

    Args:
        root: The folder.
        attributes: One of the presets in `ATTRIBUTES`.
        seed: Seed of the drawn splits.

    Raises:
        FileNotFoundError: If the folder has neither layout.
        ValueError: For an unknown preset, or a lesion without exactly one image of each kind and one label.
    """
    root = Path(root)
    if attributes not in ATTRIBUTES:
        raise ValueError(f"attributes must be one of {sorted(ATTRIBUTES)}, got {attributes!r}")
    frame = read_table(root / "cases.csv") if (root / "cases.csv").is_file() else _public(root)
    columns = CaseColumns(images=IMAGES, label="label", attributes=ATTRIBUTES[attributes])
    options = {name: option for name, option in OPTIONS.items() if name in ATTRIBUTES[attributes]}
    return Manifest.from_frame(frame, columns, root=root, options=options, seed=seed)


def _public(root: Path) -> pd.DataFrame:
    """One row per lesion from the public files, which have one row per image."""
    files = {name: root / f"MILK10k_Training_{name}.csv" for name in ("Metadata", "GroundTruth")}
    if absent := [file.name for file in files.values() if not file.is_file()]:
        raise FileNotFoundError(f"{str(root)!r} is not MILK10k: it has neither cases.csv nor {' and '.join(absent)}")
    metadata, truth = (read_table(file) for file in files.values())
    lesions = _pair_images(metadata).join(_labels(truth), how="outer").reset_index(names="lesion_id")
    for column, what in (("label", "label"), ("clinical", "clinical image"), ("dermoscopic", "dermoscopic image")):
        if (without := lesions["lesion_id"][lesions[column].isna()]).size:
            raise ValueError(
                f"{without.size} lesions have no {what}, such as {list(without[:3])}: are the files complete?"
            )
    for kind in IMAGES:
        pairs = zip(lesions["lesion_id"], lesions[kind], strict=True)
        lesions[kind] = [_image_path(root, lesion, image) for lesion, image in pairs]
    return lesions


def _pair_images(metadata: pd.DataFrame) -> pd.DataFrame:
    """One row per lesion: the names of both images, the patient's attributes, and the concepts of both images."""
    unknown = sorted(set(metadata["image_type"]) - set(_KINDS))
    if unknown:
        raise ValueError(f"image_type must be one of {list(_KINDS)}, got {unknown}")
    kinds = metadata["image_type"].map(_KINDS)
    if (doubled := metadata[metadata.assign(kind=kinds).duplicated(["lesion_id", "kind"])]).size:
        raise ValueError(f"lesion {doubled['lesion_id'].iloc[0]} has two images of one kind")
    halves = {}
    for kind, prefix in (("clinical", "clin"), ("dermoscopic", "derm")):
        names = {"isic_id": kind} | {f"MONET_{concept}": f"{prefix}_{concept}" for concept in _CONCEPTS}
        half = metadata[kinds == kind].set_index("lesion_id").rename(columns=names)
        halves[kind] = half[[*names.values(), *_PATIENT]]
    # The patient's attributes are the same in both rows.
    return halves["clinical"].join(halves["dermoscopic"].drop(columns=list(_PATIENT)), how="outer")


def _labels(truth: pd.DataFrame) -> pd.Series:
    """The class of each lesion, from one column of zeros and ones per class."""
    shares = truth.set_index("lesion_id")[list(CLASSES)].astype(float)
    if (several := shares.index[shares.sum(axis=1) != 1]).size:
        raise ValueError(f"each lesion must have one class; {several.size} have none or several, such as {several[0]}")
    return shares.idxmax(axis=1).rename("label")


def _image_path(root: Path, lesion: str, image: str) -> str:
    folder = Path("MILK10k_Training_Input")
    nested = folder / lesion / f"{image}.jpg"
    return str(nested if (root / nested).is_file() else folder / f"{image}.jpg")
