from collections import Counter

import pandas as pd
import pytest
from PIL import Image

from alignedfusion.datasets import derm7pt

DIAGNOSES = ("clark nevus", "melanoma (in situ)", "seborrheic keratosis", "basal cell carcinoma", "lentigo")


def table(rows):
    return pd.DataFrame(
        {
            "diagnosis": [DIAGNOSES[i % 5] for i in range(rows)],
            **{name: [("absent", "present")[i % 2] for i in range(rows)] for name in derm7pt.ATTRIBUTES["seven_plus5"]},
            "derm": [f"a/{i}-d.png" for i in range(rows)],
            "clinic": [f"a/{i}-c.png" for i in range(rows)],
        }
    )


@pytest.fixture
def release(tmp_path):
    """The public layout with 23 cases, of which one is in no split."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "meta").mkdir()
    frame = table(23)
    for name in (*frame["derm"], *frame["clinic"]):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    frame.to_csv(tmp_path / "meta" / "meta.csv", index=False)
    for split, rows in {"train": range(11), "valid": range(11, 16), "test": range(16, 22)}.items():
        pd.DataFrame({"indexes": list(rows)}).to_csv(tmp_path / "meta" / f"{split}_indexes.csv", index=False)
    return tmp_path


def test_the_public_layout_is_read_with_its_official_splits(release):
    manifest = derm7pt.load(release)
    assert manifest.images == ("derm", "clinic")
    assert manifest.attributes == ("elevation", "location", "sex")
    assert manifest.class_names == (
        "basal cell carcinoma",
        "melanoma",
        "miscellaneous",
        "nevus",
        "seborrheic keratosis",
    )
    assert dict(Counter(manifest.splits)) == {"train": 11, "valid": 5, "test": 6}
    assert len(manifest.frame) == 22


def test_leaks_are_named_and_presets_without_them_are_silent(release):
    with pytest.warns(UserWarning, match="'management' is a leak: it follows from the diagnosis"):
        assert derm7pt.load(release, attributes="five").attributes == derm7pt.ATTRIBUTES["five"]
    derm7pt.load(release, attributes="seven_point7")  # warnings are errors here


def test_what_is_not_that_layout_is_refused(release):
    with pytest.raises(ValueError, match="attributes must be one of"):
        derm7pt.load(release, attributes="seven")
    pd.DataFrame({"indexes": [3]}).to_csv(release / "meta" / "valid_indexes.csv", index=False)
    with pytest.raises(ValueError, match=r"valid_indexes\.csv names a case that is in another split"):
        derm7pt.load(release)
    pd.DataFrame({"indexes": [99]}).to_csv(release / "meta" / "valid_indexes.csv", index=False)
    with pytest.raises(ValueError, match=r"names row 99, but meta\.csv has 23 rows"):
        derm7pt.load(release)
    (release / "meta" / "test_indexes.csv").unlink()
    with pytest.raises(FileNotFoundError, match="is not Derm7pt's release_v0"):
        derm7pt.load(release)


@pytest.mark.parametrize(
    ("diagnosis", "expected"),
    [
        ("melanoma (less than 0.76 mm)", "melanoma"),
        ("reed or spitz nevus", "nevus"),
        ("melanosis", "miscellaneous"),
        ("lentigo", "miscellaneous"),
    ],
)
def test_diagnoses_are_grouped(diagnosis, expected):
    assert derm7pt.group_diagnosis(diagnosis) == expected
