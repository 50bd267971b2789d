import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from alignedfusion.attributes import ColumnOptions
from alignedfusion.datasets.columns import CaseColumns, usable_attributes
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.tables.files import read_table


@pytest.fixture
def table(tmp_path):
    """30 cases of 15 patients, three classes, with a number, a yes/no and a grade that is often not there."""
    rng = np.random.default_rng(0)
    rows = []
    for case in range(30):
        Image.new("L", (4, 4), case).save(tmp_path / f"{case}.png")
        rows.append(
            {
                "file": f"{case}.png",
                "diagnosis": ("nevus", "melanoma", "keratosis")[case // 2 % 3],
                "patient": f"P{case // 2}",
                "age": 20.0 + 2 * case if case % 5 else np.nan,
                "itching": ("yes", "no")[case % 2],
                "grade": [None, "1", "2"][rng.integers(3)],
                "split": ("train", "train", "val", "Test", "training")[case // 2 % 5],
            }
        )
    return pd.DataFrame(rows)


USES = ("images", "label", "attributes", "exclude", "group", "split", "key")


def make(table, *, split="split", seed=0, **settings):
    columns = CaseColumns(**{name: settings.pop(name) for name in USES if name in settings}, split=split)
    return Manifest.from_frame(table, columns, seed=seed, **settings)


@pytest.fixture
def settings(tmp_path):
    return {"images": "file", "label": "diagnosis", "group": "patient", "root": tmp_path}


def test_a_split_column_is_followed(table, settings):
    manifest = make(table, **settings)
    assert {split: len(manifest.rows(split)) for split in ("train", "valid", "test")} == {
        "train": 18,
        "valid": 6,
        "test": 6,
    }
    assert manifest.class_names == ("keratosis", "melanoma", "nevus")
    assert manifest.attributes == ("age", "itching", "grade")


def test_the_schema_is_learned_from_training_rows_only(table, settings):
    table["itching"] = table["itching"].mask(table["split"] == "Test", "unheard of")
    table["age"] = table["age"].mask(table["split"] == "Test", 1e6)
    manifest = make(table, options={"age": ColumnOptions(units="years")}, **settings)
    schema = manifest.schema()
    assert schema.attributes[1].values == ("no", "yes")
    ages = manifest.rows("train")["age"].dropna()
    assert schema.attributes[0].edges == pytest.approx(np.quantile(ages, [0.25, 0.5, 0.75]))
    assert schema.attributes[0].prompts()[0].endswith("years.")
    cases = manifest.cases(manifest.rows("test"), schema, to_tensor)
    assert cases.codes[:, 1].tolist() == [-1] * 6  # a value never seen says nothing


def test_cases_are_rows_in_order(table, settings):
    manifest = make(table, **settings)
    rows = manifest.rows("valid")
    cases = manifest.cases(rows, manifest.schema(), to_tensor)
    for i, (case, (_, row)) in enumerate(zip(cases, rows.iterrows(), strict=False)):
        assert case["image"][0, 0, 0] * 255 == pytest.approx(int(row["file"][:-4]))
        assert manifest.class_names[case["labels"]] == row["diagnosis"]
        assert torch.equal(case["codes"], manifest.schema().encode(rows.iloc[[i]])[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_parts_keep_patients_together_and_classes_alike(table, settings, seed):
    table = pd.concat([table.assign(patient=table["patient"] + f"/{copy}") for copy in range(5)])
    manifest = make(table, split=None, seed=seed, **settings)
    assert manifest.frame.assign(of=manifest.splits).groupby("patient")["of"].nunique().max() == 1
    assert {len(manifest.rows(split)["diagnosis"].unique()) for split in ("train", "valid", "test")} == {3}
    again = make(table, split=None, seed=seed, **settings)
    assert again.splits.tolist() == manifest.splits.tolist()


def test_without_patients_a_fifth_is_for_testing(table, settings):
    table = pd.concat([table] * 10)
    manifest = make(table, split=None, **{**settings, "group": None})
    assert [len(manifest.rows(split)) for split in ("train", "valid", "test")] == [192, 48, 60]


def test_two_images_per_case_and_one_absent(table, settings):
    table["closeup"] = table["file"].where(table.index % 3 > 0)
    manifest = make(table, **{**settings, "images": ["file", "closeup"]})
    assert manifest.modalities == ("file", "closeup")
    case = manifest.cases(manifest.frame, manifest.schema(), to_tensor)[3]
    assert {name: bool(mask) for name, mask in case["is_present"].items()} == {"file": True, "closeup": False}
    assert not case["image"]["closeup"].any()


def test_csv_cells_that_are_answers_stay_answers(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\nNone,NA,1\nnull,UNK,\n-,none,3\n")
    frame = read_table(tmp_path / "t.csv", missing_values=["-"])
    assert frame["a"].tolist()[:2] == ["None", "null"]
    assert frame["a"].isna().tolist() == [False, False, True]
    assert frame["b"].isna().tolist() == [True, True, False]
    assert frame["c"].tolist()[::2] == ["1", "3"]  # text, whatever the other cells are


def test_parquet_is_read_too(table, settings, tmp_path):
    table.to_parquet(tmp_path / "t.parquet")
    columns = CaseColumns(images="file", label="diagnosis", group="patient", split="split")
    manifest = Manifest.read(tmp_path / "t.parquet", columns)
    assert manifest.root == tmp_path
    pd.testing.assert_frame_equal(manifest.frame, table)


def test_columns_that_cannot_be_attributes_are_left_out_with_the_reason():
    notes = [f"x{max(i - 8, 0)}" for i in range(60)]  # 52 distinct texts
    frame = pd.DataFrame(
        {"id": [f"x{i}" for i in range(60)], "note": notes, "empty": [None] * 60, "sex": ["m", "f"] * 30}
    )
    usable, reasons = usable_attributes(frame, frame.columns)
    assert usable == ["sex"]
    assert "named like an identifier" in reasons["id"]
    assert "identifier or free text" in reasons["note"]
    assert "has no value" in reasons["empty"]


def change(table, column, row, value):
    table[column] = table[column].astype(object)
    table.loc[row, column] = value


MISTAKES = [
    (lambda t, s: s.update(label="diagnose"), r"the table has no column ['diagnose']; it has ['file', 'diagnosis'"),
    (lambda t, s: s.update(attributes=["age", "diagnosis"]), "the label column 'diagnosis' is among the attributes"),
    (lambda t, s: s.update(attributes=["age", "file"]), "the image columns ['file'] are among the attributes"),
    (lambda t, s: change(t, "file", 3, "gone.png"), "1 image files cannot be used"),
    (lambda t, s: change(t, "file", 3, "gone.png"), "gone.png does not exist"),
    (lambda t, s: t.update(pd.Series([f"no{i}.png" for i in range(9)], name="file")), "... and 4 more"),
    (lambda t, s: change(t, "split", 1, "test"), "split by patient: rows 0 (train) and 1 (test)"),
    (lambda t, s: change(t, "split", 1, "later"), "'split' name neither train, valid nor test: row 1 ('later')"),
    (lambda t, s: t.update(pd.Series(["train"] * 30, name="split")), "column 'split' names no valid and no test rows"),
    (lambda t, s: change(t, "diagnosis", 2, None), "1 rows have no label: 2"),
    (lambda t, s: change(t, "diagnosis", 6, "new"), "1 labels occur only outside the training rows: 'new' (row 6)"),
    (lambda t, s: change(t, "diagnosis", 0, "Nevus "), "the labels ['Nevus ', 'nevus'] differ in case and spaces only"),
    (lambda t, s: t.update(pd.Series(["same"] * 30, name="diagnosis")), "the training rows have one label only, 'same'"),
    (lambda t, s: s.update(attributes=["age", "grad"]), "the table has no column ['grad']"),
    (lambda t, s: s.update(exclude=["grad"]), "the table has no column ['grad']"),
    (lambda t, s: s.update(attributes=["age"], exclude=["age"]), "the columns ['age'] are among the attributes and among"),
    (lambda t, s: s.update(images=["file", "file"]), "images must name distinct columns, got ['file', 'file']"),
    (lambda t, s: (t.__setitem__("report", t["file"]), s.update(images="report")), "cannot be called 'report'"),
    (lambda t, s: (t.__setitem__("second", None), s.update(images=["file", "second"])), "no case has an image of ['second']"),
    (lambda t, s: (s.update(split=None), change(t, "diagnosis", [0, 1], "a rare one")), "class 'a rare one' has 1 patients"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_mistakes_are_named(mistake, message, table, settings):
    mistake(table, settings)
    with pytest.raises(ValueError, match=re.escape(message)):
        make(table, **settings)


def test_a_truncated_image_file_is_listed(table, settings, tmp_path):
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:30])
    with pytest.raises(ValueError, match=r"5.png cannot be read"):
        make(table, **settings)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no table at '.*t.csv'"):
        read_table(tmp_path / "t.csv")


def test_evaluation_refuses_a_label_that_the_model_does_not_know(table, settings):
    with pytest.raises(ValueError, match=r"10 rows of column 'diagnosis' have a label that is not among .*: row 0 "):
        Manifest.for_evaluation(
            table,
            CaseColumns(images="file", label="diagnosis", attributes=("age",)),
            class_names=("keratosis", "melanoma"),
            root=settings["root"],
        )


def test_unmentioned_cells_of_a_parquet_file_are_not_recorded_either(tmp_path):
    frame = pd.DataFrame(
        {"age": [63.0, np.nan, 41.0], "cough": ["positive", "UN", "negative"], "grade": ["1", "UN", "2"]}
    )
    frame.to_parquet(tmp_path / "table.parquet")
    read = read_table(tmp_path / "table.parquet")
    assert read.isna().to_numpy().tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert read["grade"].tolist()[::2] == ["1", "2"]


def test_rows_whose_report_could_not_be_read_are_refused(table, settings):
    table.loc[[3, 5], "itching"] = "error"
    with pytest.raises(ValueError, match=r"2 rows hold the cell 'error': their reports could not be read.*: 3; 5"):
        make(table, **settings)
