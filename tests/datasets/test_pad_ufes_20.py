import pytest
from PIL import Image

from alignedfusion import UNKNOWN
from alignedfusion.datasets import pad_ufes_20

HEAD = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,skin_cancer_history,"
    "cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,diagnostic,itch,grew,hurt,"
    "changed,bleed,elevation,img_id,biopsed\n"
)


@pytest.fixture
def root(tmp_path):
    """The public layout with 60 patients, two diagnoses; a third of the clinical columns empty together."""
    (tmp_path / "images").mkdir()
    lines = []
    for i in range(60):
        history = "False,True,POMERANIA,GERMANY" if i % 3 else ",,,"
        rest = f"{20 + i},False,FEMALE,True,False,True,True,{i % 4 + 1}.0" if i % 3 else f"{20 + i},,,,,,,"
        size = f"{3 + i / 7:.1f},{2 + i / 5:.1f}" if i % 3 else ","
        diagnosis = ("BCC", "NEV")[i % 2]
        lines.append(
            f"PAT_{i},{i},{history},{rest},ARM,{size},{diagnosis},True,UNK,False,UNK,False,True,{i}.png,{not i % 2}\n"
        )
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "metadata.csv").write_text(HEAD + "".join(lines))
    return tmp_path


def test_unk_is_unmentioned_and_false_is_a_value(root):
    frame = (root / "metadata.csv").read_text().replace("True,UNK,False,UNK", "True,UNK,False,True", 20)
    (root / "metadata.csv").write_text(frame.replace("True,UNK,False,True", "True,True,False,True", 10))
    manifest = pad_ufes_20.load(root)
    schema = manifest.schema()
    codes = schema.encode(manifest.frame, unseen="unknown")
    grew, hurt = schema.names.index("grew"), schema.names.index("hurt")
    assert (codes[:, grew] == UNKNOWN).sum() == 50
    assert schema.attributes[hurt].values == ("False",)
    assert (codes[:, hurt] == 0).all()
    assert "Unit" not in str(schema)
    assert schema.attributes[schema.names.index("age")].units == "years"
    assert schema.attributes[schema.names.index("fitspatrick")].edges == (2.0, 3.0, 4.0)
    assert not {"biopsed", "diagnostic", "patient_id"} & set(schema.names)


def test_malignancy_is_derived_from_the_diagnosis(root):
    text = (root / "metadata.csv").read_text().replace(",UNK,", ",True,")
    (root / "metadata.csv").write_text(text)
    manifest = pad_ufes_20.load(root, task="malignancy")
    assert manifest.class_names == ("benign", "malignant")
    assert set(zip(manifest.frame["diagnostic"], manifest.frame["malignancy"], strict=True)) == {
        ("BCC", "malignant"),
        ("NEV", "benign"),
    }
    with pytest.raises(ValueError, match="task must be 'diagnosis' or 'malignancy', got 'cancer'"):
        pad_ufes_20.load(root, task="cancer")


def test_images_that_are_not_there_are_refused_or_left_out(root):
    (root / "metadata.csv").write_text((root / "metadata.csv").read_text().replace(",UNK,", ",True,"))
    (root / "images" / "7.png").unlink()
    with pytest.raises(ValueError, match=r"7.png does not exist"):
        pad_ufes_20.load(root)
    assert len(pad_ufes_20.load(root, only_with_image=True).frame) == 59
