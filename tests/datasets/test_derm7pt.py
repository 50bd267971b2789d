import numpy as np
import pandas as pd
import pytest
import torch
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
    """The public layout with 23 cases, of which one is in no part."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "meta").mkdir()
    frame = table(23)
    for name in (*frame["derm"], *frame["clinic"]):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    frame.to_csv(tmp_path / "meta" / "meta.csv", index=False)
    for part, rows in {"train": range(11), "valid": range(11, 16), "test": range(16, 22)}.items():
        pd.DataFrame({"indexes": list(rows)}).to_csv(tmp_path / "meta" / f"{part}_indexes.csv", index=False)
    return tmp_path


def test_the_public_layout_is_read_with_its_official_parts(release):
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
    assert manifest.frame["part"].value_counts().to_dict() == {"train": 11, "valid": 5, "test": 6}
    assert len(manifest.frame) == 22


def test_leaks_are_named_and_presets_without_them_are_silent(release):
    with pytest.warns(UserWarning, match="'management' is a leak: it follows from the diagnosis"):
        assert derm7pt.load(release, attributes="five").attributes == derm7pt.ATTRIBUTES["five"]
    derm7pt.load(release, attributes="seven_point7")  # warnings are errors here


def test_what_is_not_that_layout_is_refused(release):
    with pytest.raises(ValueError, match="attributes must be one of"):
        derm7pt.load(release, attributes="seven")
    pd.DataFrame({"indexes": [3]}).to_csv(release / "meta" / "valid_indexes.csv", index=False)
    with pytest.raises(ValueError, match=r"valid_indexes\.csv names a case that is in another part"):
        derm7pt.load(release)
    pd.DataFrame({"indexes": [99]}).to_csv(release / "meta" / "valid_indexes.csv", index=False)
    with pytest.raises(ValueError, match=r"names row 99, but meta\.csv has 23 rows"):
        derm7pt.load(release)
    (release / "meta" / "test_indexes.csv").unlink()
    with pytest.raises(FileNotFoundError, match="is not Derm7pt's release_v0"):
        derm7pt.load(release)


@pytest.fixture
def tokens(tmp_path):
    """Token files of 7 training and 3 validation cases: N = 5, F = 11."""
    draw = np.random.default_rng(0)
    for part, rows in (("train", 7), ("valid", 3)):
        arrays = {m: draw.normal(size=(rows, 5, 11)).astype(np.float16) for m in derm7pt.IMAGES}
        if part == "train":
            arrays |= {f"{m}_augmented": draw.normal(size=(rows, 3, 5, 11)).astype(np.float16) for m in derm7pt.IMAGES}
        np.savez(tmp_path / f"{part}.npz", **arrays)
        table(rows).assign(split=part).to_csv(tmp_path / f"{part}.csv", index=False)
    return derm7pt.load_tokens(tmp_path)


def test_token_files_become_cases(tokens):
    schema = tokens.schema(np.arange(7), "patient3")
    codes = schema.encode(tokens.frame)
    case = tokens.cases(np.array([8, 2]), codes[[8, 2]])[1]
    assert case["labels"] == tokens.class_names.index("seborrheic keratosis")
    assert torch.equal(case["image"]["clinic"], tokens.image["clinic"][2])
    assert torch.equal(case["codes"], codes[2])


def test_training_cases_are_seen_from_four_sides_both_images_from_the_same(tokens):
    schema = tokens.schema(np.arange(7), "patient3")
    rows = np.array([2, 9])
    cases = tokens.cases(rows, schema.encode(tokens.frame)[rows], augmented=True)
    seen = set()
    for _ in range(60):
        image = cases[0]["image"]
        view = next(v for v in range(4) if torch.equal(image["derm"], tokens.views["derm"][2, v]))
        assert torch.equal(image["clinic"], tokens.views["clinic"][2, view])
        seen.add(view)
    assert seen == {0, 1, 2, 3}
    assert torch.equal(cases[1]["image"]["derm"], tokens.image["derm"][9])  # a validation case has one side only


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
    assert derm7pt.class_of(diagnosis) == expected
