import pandas as pd
import pytest
from PIL import Image

from alignedfusion import UNKNOWN
from alignedfusion.datasets import milk10k

CONCEPTS = [name.removeprefix("derm_") for name in milk10k.ATTRIBUTES["derm7"]]
LESIONS = 40


def write_public(root, nested=True):
    """Public files of 40 lesions of two classes. Lesion i has the scores i / 100 (clinical) and 2 i / 100 (dermoscopic)."""
    rows, truth = [], []
    for i in range(LESIONS):
        lesion = f"IL_{i:07d}"
        truth.append({"lesion_id": lesion, **{name: float(name == ("BCC", "NV")[i % 2]) for name in milk10k.CLASSES}})
        for kind, letter, factor in (("clinical: close-up", "C", 1), ("dermoscopic", "D", 2)):
            image = f"ISIC_{letter}{i}"
            scores = {f"MONET_{concept}": factor * i / 100 for concept in CONCEPTS}
            patient = {"age_approx": 5.0 * (i % 18), "sex": ("male", "female", None)[i % 3], "skin_tone_class": i % 6}
            leaks = {"diagnosis_1": "Malignant", "melanocytic": i % 2 == 1}
            rows.append(
                {
                    "lesion_id": lesion,
                    "image_type": kind,
                    "isic_id": image,
                    "site": "trunk",
                    **patient,
                    **scores,
                    **leaks,
                }
            )
            folder = root / "MILK10k_Training_Input" / (lesion if nested else ".")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i, i, i)).save(folder / f"{image}.jpg")
    pd.DataFrame(rows).to_csv(root / "MILK10k_Training_Metadata.csv", index=False)
    pd.DataFrame(truth).to_csv(root / "MILK10k_Training_GroundTruth.csv", index=False)
    return root


@pytest.mark.parametrize("nested", [True, False])
def test_the_public_files_become_one_row_per_lesion(tmp_path, nested):
    manifest = milk10k.load(write_public(tmp_path, nested), attributes="patient4+derm7+clin7")
    assert len(manifest.frame) == LESIONS
    row = manifest.frame.iloc[3]
    assert (row["lesion_id"], row["label"]) == ("IL_0000003", "NV")
    assert (float(row["clin_hair"]), float(row["derm_hair"])) == (0.03, 0.06)
    assert row["clinical"].endswith("ISIC_C3.jpg")
    assert row["dermoscopic"].endswith("ISIC_D3.jpg")
    assert manifest.class_names == ("BCC", "NV")
    schema = manifest.schema()
    assert list(schema.names) == list(milk10k.ATTRIBUTES["patient4+derm7+clin7"])
    codes = schema.encode(manifest.frame, unseen="unknown")
    assert codes[2, schema.names.index("sex")] == UNKNOWN
    age = schema.attributes[schema.names.index("age_approx")]
    # Case 4 is 20 years old, the first value of the second interval.
    assert age.values[int(codes[4, schema.names.index("age_approx")])] == "20 to 30 years"
    assert schema.attributes[schema.names.index("skin_tone_class")].values == ("0", "1", "2", "3", "4", "5")


def test_a_prepared_table_gives_the_same_cases(tmp_path):
    public = milk10k.load(write_public(tmp_path), attributes="patient4+derm7")
    public.frame.to_csv(tmp_path / "cases.csv", index=False)
    (tmp_path / "MILK10k_Training_Metadata.csv").unlink()
    prepared = milk10k.load(tmp_path, attributes="patient4+derm7")
    assert prepared.class_names == public.class_names
    assert (prepared.splits == public.splits).all()
    assert prepared.schema() == public.schema()
    assert prepared.paths(prepared.frame) == public.paths(public.frame)


def test_no_attribute_leaks_the_diagnosis(tmp_path):
    for names in milk10k.ATTRIBUTES.values():
        assert not set(names) & set(milk10k.LEAKS)
    assert {"diagnosis_1", "melanocytic"} <= set(milk10k.LEAKS)
    manifest = milk10k.load(write_public(tmp_path))
    assert manifest.attributes == ("age_approx", "sex", "skin_tone_class", "site")


def change(root, file, edit):
    path = root / f"MILK10k_Training_{file}.csv"
    edit(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("Metadata", lambda t: t.drop(index=0), "1 lesions have no clinical image, such as .*IL_0000000"),
        ("GroundTruth", lambda t: t.drop(index=5), "1 lesions have no label, such as .*IL_0000005"),
        (
            "GroundTruth",
            lambda t: t.assign(NV=1.0),
            "each lesion must have one class; 20 have none or several, such as IL_0000000",
        ),
        ("Metadata", lambda t: t.assign(image_type="dermoscopic"), "lesion IL_0000000 has two images of one kind"),
        ("Metadata", lambda t: t.assign(image_type="overview"), r"image_type must be one of .* got \['overview'\]"),
    ],
)
def test_incomplete_files_are_an_error_that_names_a_lesion(tmp_path, file, edit, message):
    change(write_public(tmp_path), file, edit)
    with pytest.raises(ValueError, match=message):
        milk10k.load(tmp_path)


def test_another_folder_or_preset_is_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"is not MILK10k: it has neither cases.csv nor MILK10k_Training_Metadata.csv"
    ):
        milk10k.load(tmp_path)
    with pytest.raises(ValueError, match=r"attributes must be one of .*'patient4'.* got 'five'"):
        milk10k.load(write_public(tmp_path), attributes="five")
