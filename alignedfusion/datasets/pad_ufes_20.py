"""PAD-UFES-20 (Pacheco et al. 2020, doi 10.17632/zr7vgbcyr2.1): skin lesions with clinical attributes, six classes."""

from __future__ import annotations

from pathlib import Path

from alignedfusion.attributes import ColumnOptions
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.tables.files import read_table

ATTRIBUTES = (
    "smoke",
    "drink",
    "background_father",
    "background_mother",
    "age",
    "pesticide",
    "gender",
    "skin_cancer_history",
    "cancer_history",
    "has_piped_water",
    "has_sewage_system",
    "fitspatrick",
    "region",
    "diameter_1",
    "diameter_2",
    "itch",
    "grew",
    "hurt",
    "changed",
    "bleed",
    "elevation",
)
"""The attributes that a clinician records. `biopsed` is not among them: all cancers are biopsy-proven, so it follows from the
diagnosis."""

OPTIONS = {
    "age": ColumnOptions(units="years"),
    "diameter_1": ColumnOptions(units="mm"),
    "diameter_2": ColumnOptions(units="mm"),
}

MALIGNANT = ("BCC", "MEL", "SCC")
"""The cancers among the six diagnoses; ACK, NEV and SEK are not."""


def load(root: str | Path, *, task: str = "diagnosis", only_with_image: bool = False, seed: int = 0) -> Manifest:
    """Read the public layout: `metadata.csv` and `images/`.

    An empty cell and `UNK` mean "not recorded"; `False` is a recorded negative. Rows are split by patient.

    Args:
        root: The folder.
        task: "diagnosis" has the six classes; "malignancy" has two, benign and malignant.
        only_with_image: Leave out rows without an image file instead of raising an error.
        seed: Seed of the drawn splits.
    """
    if task not in ("diagnosis", "malignancy"):
        raise ValueError(f"task must be 'diagnosis' or 'malignancy', got {task!r}")
    root = Path(root)
    frame = read_table(root / "metadata.csv", missing_values=("UNK",))
    if only_with_image:
        frame = frame[[(root / "images" / name).is_file() for name in frame["img_id"]]].copy()
    if task == "malignancy":
        frame["malignancy"] = frame["diagnostic"].isin(MALIGNANT).map({False: "benign", True: "malignant"})
    return Manifest.from_frame(
        frame,
        CaseColumns(
            images="img_id",
            label="diagnostic" if task == "diagnosis" else task,
            attributes=ATTRIBUTES,
            group="patient_id",
        ),
        root=root / "images",
        options=OPTIONS,
        seed=seed,
    )
