"""Commands on tables with the irregularities of real data."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from alignedfusion import AlignedFusionClassifier
from alignedfusion.commands import main as cli
from alignedfusion.tables.files import lock_output

QUICK = ["--dim", "64", "--epochs", "1"]
COLUMNS = ["--image", "file", "--label", "kind"]


def make_table(folder, rows=60, name="cases.csv", first=0, **columns):
    """Cases with a token file each and a column `sign`; the first are numbered from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + rows)
    for i in numbers:
        np.save(folder / f"{i}.npy", np.random.default_rng(i).normal(size=(3, 5)).astype(np.float32))
    frame = pd.DataFrame(
        {
            "file": [f"{i}.npy" for i in numbers],
            "kind": ["wart" if i % 2 else "mole" for i in numbers],
            "sign": [("flat", "raised", "")[i % 3] for i in numbers],
            **columns,
        }
    )
    frame.to_csv(folder / name, index=False)
    return frame


def train(folder, *options, columns=COLUMNS, table="cases.csv"):
    assert cli.main(["train", str(folder / table), *columns, *QUICK, "-o", str(folder / "run"), *options]) == 0
    return folder / "run"


def evaluate(run, table, *options):
    figures = table.parent / "figures.json"
    status = cli.main(["evaluate", str(run), str(table), "--json", str(figures), *options])
    return json.loads(figures.read_text("utf-8")) if status == 0 else status


def predict(run, table, *options):
    output = table.parent / "predicted.csv"
    assert cli.main(["predict", str(run), "--table", str(table), "-o", str(output), *options]) == 0
    return pd.read_csv(output, dtype=str)


def attribute(run, name):
    schema = AlignedFusionClassifier.from_pretrained(run).schema
    return schema.attributes[schema.names.index(name)]


# Which cases were trained on.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 60 cases, of which 48 were trained or chosen on; the last three have no image."""
    folder = tmp_path_factory.mktemp("trained")
    splits = ["test" if i % 5 == 0 else "valid" if i % 5 == 4 else "train" for i in range(60)]
    frame = make_table(folder, number=[f"A{i}" for i in range(60)], of=splits)
    frame.loc[57:, "file"] = ""
    frame.to_csv(folder / "cases.csv", index=False)
    return train(folder, "--exclude", "number", "--split", "of"), frame


@pytest.mark.parametrize("spelling", ["absolute", "dotted", "one folder up"])
def test_a_trained_case_is_recognised_with_any_spelling_of_its_path(spelling, trained):
    run, frame = trained
    folder = run.parent
    root = folder.parent if spelling == "one folder up" else folder
    spell = {"absolute": f"{folder}/", "dotted": "./", "one folder up": f"{folder.name}/"}[spelling]
    frame = frame.assign(file=[spell + name if name else "" for name in frame["file"]])
    frame.to_csv(root / "spelled.csv", index=False)
    figures = evaluate(run, root / "spelled.csv")
    assert (figures["tested"], figures["left_out"]) == (12, 48)


def test_equally_named_files_of_another_folder_are_other_cases(trained, tmp_path):
    run, _ = trained
    make_table(tmp_path, rows=60, first=1000, number="", of="")
    for i in range(60):
        (tmp_path / f"{1000 + i}.npy").rename(tmp_path / f"{i}.npy")
    frame = pd.read_csv(tmp_path / "cases.csv", dtype=str)
    frame["file"] = [f"{i}.npy" for i in range(60)]
    frame.to_csv(tmp_path / "cases.csv", index=False)
    figures = evaluate(run, tmp_path / "cases.csv")
    assert (figures["tested"], figures["left_out"]) == (60, 0)


def test_new_cases_without_an_image_are_kept_and_trained_ones_are_not(trained, tmp_path):
    run, frame = trained
    new = make_table(tmp_path, rows=9, first=60, number=[f"B{i}" for i in range(9)], of="")
    new.loc[3:, "file"] = ""
    new.to_csv(tmp_path / "cases.csv", index=False)
    assert evaluate(run, tmp_path / "cases.csv")["tested"] == 9
    absent = frame[57:].assign(number=[f"B{i}" for i in range(3)], of="")
    pd.concat([new, frame[57:], absent]).to_csv(tmp_path / "cases.csv", index=False)
    figures = evaluate(run, tmp_path / "cases.csv")
    assert (figures["tested"], figures["left_out"]) == (12, 3)
    pd.concat([new, frame[57:]]).drop(columns="number").to_csv(tmp_path / "cases.csv", index=False)
    assert evaluate(run, tmp_path / "cases.csv")["left_out"] >= 3  # without all columns, attributes and label decide


def test_a_key_column_identifies_cases(tmp_path):
    frame = make_table(tmp_path, accession=[f"00{i}" for i in range(60)])
    run = train(tmp_path, "--key", "accession")
    assert "accession" not in AlignedFusionClassifier.from_pretrained(run).schema.names
    frame.assign(file="0.npy").to_csv(tmp_path / "again.csv", index=False)  # other images, the same cases
    assert evaluate(run, tmp_path / "again.csv")["left_out"] == 48
    frame.assign(accession=[""] * 30 + [f"00{i}" for i in range(30, 60)]).to_csv(tmp_path / "again.csv", index=False)
    assert evaluate(run, tmp_path / "again.csv")["left_out"] == 48  # where the key is empty, the images decide
    frame["accession"] = [f"1{i}" for i in range(60)]
    frame.to_csv(tmp_path / "again.csv", index=False)
    assert evaluate(run, tmp_path / "again.csv")["tested"] == 60
    frame.drop(columns="accession").to_csv(tmp_path / "again.csv", index=False)
    assert evaluate(run, tmp_path / "again.csv") == 2


# Names of columns.

ODD = (
    "part",
    "type",
    "keys",
    "values",
    "train",
    "training",
    "img.front",
    "predicted",
    "row",
    "codes",
    "labels",
    "split",
)


def test_attributes_may_have_any_name(tmp_path):
    values = {name: [("hand", "foot")[i // 2 % 2] for i in range(60)] for name in ODD}
    make_table(tmp_path, **values)
    run = train(tmp_path)
    schema = AlignedFusionClassifier.from_pretrained(run).schema
    assert schema.names == ("sign", *ODD)
    assert all(a.values == ("foot", "hand") for a in schema.attributes[1:])
    shares = json.loads((run / "metrics.json").read_text())["training_data"]["mentioned"]
    assert shares["part"] == 1.0
    assert shares["sign"] < 1.0
    assert evaluate(run, tmp_path / "cases.csv")["tested"] == 12


@pytest.mark.parametrize(
    ("images", "label"), [(("img.front", "type"), "part"), (("keys", "train"), "values"), (("codes", "row"), "split")]
)
def test_images_and_labels_may_have_any_name(images, label, tmp_path):
    frame = make_table(tmp_path).rename(columns={"file": images[0], "kind": label})
    frame.assign(**{images[1]: frame[images[0]]}).to_csv(tmp_path / "cases.csv", index=False)
    run = train(tmp_path, columns=["--image", *images, "--label", label])
    assert evaluate(run, tmp_path / "cases.csv")["tested"] == 12
    assert len(predict(run, tmp_path / "cases.csv")) == 60


def test_a_label_column_called_predicted_stays_the_label(tmp_path):
    frame = make_table(tmp_path)
    frame.rename(columns={"kind": "predicted"}).to_csv(tmp_path / "cases.csv", index=False)
    run = train(tmp_path, columns=["--image", "file", "--label", "predicted"])
    table = pd.read_csv(run / "predictions.csv")
    truth = frame.set_index("file")["kind"]
    assert table["predicted"].tolist() == truth[table["file"]].tolist()
    assert set(table["predicted_"]) <= {"mole", "wart"}


# Cells.


def test_one_odd_cell_changes_no_other(tmp_path):
    flags = {"flag": [("TRUE", "FALSE")[i // 2 % 2] for i in range(60)], "code": [f"0{i % 3 + 1}" for i in range(60)]}
    make_table(tmp_path, **flags)
    run = train(tmp_path)
    assert attribute(run, "code").values == ("01", "02", "03")
    flags = {"flag": ["TRUE", "unclear", "FALSE", "true"], "code": ["01", "02", "unclear", "3"]}
    make_table(tmp_path / "new", rows=4, first=100, **flags)
    table = predict(run, tmp_path / "new" / "cases.csv")
    assert table["unreadable"].fillna("").tolist() == ["", "flag", "code", ""]
    assert table["filled(flag)"].notna().tolist() == [False, True, False, False]  # only what is unmentioned is filled
    assert table["filled(code)"].notna().tolist() == [False, False, True, False]


def test_numbers_with_an_odd_cell_stay_numbers_and_the_cell_is_named(tmp_path, caplog, capsys):
    ages = [str(20 + i) for i in range(60)]
    ages[7] = "NULL"
    make_table(tmp_path, age=ages)
    run = train(tmp_path)
    assert attribute(run, "age").kind == "numeric"
    assert len(attribute(run, "age").edges) == 3
    named = "attribute 'age': 1 of 60 recorded cells cannot be read, such as 'NULL' (row 7)"
    assert sum(named in message for message in caplog.messages) == 1
    unreadable = json.loads((run / "metrics.json").read_text())["unreadable"]
    assert sorted(unreadable) == ["test", "train", "valid"]
    assert sum(split.get("age", 0) for split in unreadable.values()) == 1
    assert "age (numeric)" in capsys.readouterr().out


def test_columns_are_described_in_the_command_and_in_a_file_beside_the_table(tmp_path):
    make_table(
        tmp_path, age=[str(20 + i) if i % 9 else "999" for i in range(60)], stage=[str(i % 4) for i in range(60)]
    )
    (tmp_path / "cases.columns.yaml").write_text(
        "age: {units: years, edges: [40, 50], missing: [999]}\nstage:\n  kind: categorical\n", "utf-8"
    )
    run = train(tmp_path)
    assert attribute(run, "age").values == ("below 40 years", "40 to 50 years", "50 years or more")
    assert attribute(run, "age").code("999") == -1
    assert attribute(run, "stage").values == ("0", "1", "2", "3")
    shares = json.loads((run / "metrics.json").read_text())["training_data"]["mentioned"]
    assert 0.8 < shares["age"] < 1.0  # a ninth is 999

    run.rename(tmp_path / "first")
    make_table(
        tmp_path, age=[str(20 + i) if i % 9 else "999" for i in range(60)], stage=[f"{i % 4},500" for i in range(60)]
    )
    run = train(
        tmp_path, "--edges", "age=30", "--kind", "stage=numeric", "--missing-codes", "sign=flat", "--decimal", "stage=,"
    )
    assert attribute(run, "age").values == ("below 30 years", "30 years or more")
    assert attribute(run, "stage").edges == (1.5, 2.5, 3.5)
    assert attribute(run, "sign").values == ("raised",)


def test_a_run_with_other_column_options_is_another_run(tmp_path, capsys):
    make_table(tmp_path, age=[str(20 + i) for i in range(60)])
    train(tmp_path, "--edges", "age=30")
    train(tmp_path, "--edges", "age=30")
    arguments = [
        "train",
        str(tmp_path / "cases.csv"),
        *COLUMNS,
        *QUICK,
        "-o",
        str(tmp_path / "run"),
        "--edges",
        "age=40",
    ]
    assert cli.main(arguments) == 2
    assert "holds a run with other settings (options.age.edges [30.0] before, [40.0] now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age: {unit: years}", "cases.columns.yaml', column 'age': unknown options ['unit']"),
        ("height: {units: cm}", "describes the columns ['height'], which are not in the table"),
        ("- age", "must map column names to options"),
        ("age: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_of_columns_is_named(text, message, tmp_path, capsys):
    make_table(tmp_path, age=range(60))
    (tmp_path / "cases.columns.yaml").write_text(text, "utf-8")
    assert cli.main(["train", str(tmp_path / "cases.csv"), *COLUMNS, "-o", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_column_that_is_left_out_is_named_with_the_reason(tmp_path, capsys):
    mixed = [str(i) if i % 3 else "adult" for i in range(100)]
    empty = {"fever": [""] * 100, "cough": ["UN"] * 100}
    make_table(tmp_path, rows=100, age=mixed, note=[f"a text {i}" for i in range(100)], **empty)
    train(tmp_path)
    out = capsys.readouterr().out
    assert "left out: columns without a value in the training rows: fever, cough\n" in out
    assert out.count("left out: ") == 3
    assert "left out: column 'age': attribute 'age' has numbers, but" in out
    assert (
        "left out: column 'note': it looks like an identifier or free text: 64 of its 64 recorded cells are distinct"
        in out
    )


def test_zeros_in_most_rows_are_apart_from_the_rest(tmp_path):
    make_table(
        tmp_path, count=[str(i) if i % 4 == 0 else "0" for i in range(60)], beds=[str(i % 4 * 10) for i in range(60)]
    )
    run = train(tmp_path)
    count, beds = attribute(run, "count"), attribute(run, "beds")
    assert count.code("0") == 0
    assert 0 < count.code("40") < len(count.values)
    assert beds.values == ("below 10", "10 to 20", "20 to 30", "30 or more")
    assert beds.code("25") == 2


def test_spellings_are_matched_and_what_cannot_be_read_is_counted(tmp_path, capsys, caplog):
    make_table(tmp_path, sex=[("m", "f")[i // 2 % 2] for i in range(60)], age=[str(20 + i) for i in range(60)])
    run = train(tmp_path)
    new = {"sex": ["M", " f", "x", "F"], "age": ["63", "inf", "63 y", ""]}
    make_table(tmp_path / "new", rows=4, first=100, **new)
    caplog.clear()
    status = evaluate(run, tmp_path / "new" / "cases.csv")
    assert status == 2  # two of three ages
    assert "'age': 2 of 3 recorded cells cannot be read" in capsys.readouterr().err
    figures = evaluate(run, tmp_path / "new" / "cases.csv", "--max-unreadable", "0.7")
    assert figures["unreadable"] == {"sex": 1, "age": 2}
    assert len(caplog.messages) == 1
    table = predict(run, tmp_path / "new" / "cases.csv", "--max-unreadable", "0.7")
    assert table["unreadable"].fillna("").tolist() == ["", "age", "sex; age", ""]
    assert table["filled(sex)"].isna().tolist() == [True, True, False, True]


# Locks and encodings.


def test_two_commands_do_not_write_one_output(trained, tmp_path, capsys):
    run, _ = trained
    output = tmp_path / "out.csv"
    (tmp_path / "reports.csv").write_text("text\nNo effusion.\n", "utf-8")
    predicting = ["predict", str(run), "--table", str(run.parent / "cases.csv"), "-o", str(output)]
    extracting = ["extract", str(tmp_path / "reports.csv"), "--lexicon", "chest_xray", "-o", str(output)]
    training = ["train", str(run.parent / "cases.csv"), *COLUMNS, *QUICK, "-o", str(output)]
    with lock_output(output):
        assert cli.main(training) == 2
    assert f"another process is writing '{output}'" in capsys.readouterr().err
    for arguments in (predicting, extracting):
        with lock_output(output):
            assert cli.main(arguments) == 2
        assert f"another process is writing '{output}'" in capsys.readouterr().err
        assert not output.exists()
        assert cli.main(arguments) == 0
        output.unlink()


def test_a_run_finishes_with_an_ascii_locale(tmp_path):
    frame = make_table(tmp_path, rows=60, größe=[("klein", "groß ≥ 5")[i // 2 % 2] for i in range(60)])
    frame.assign(kind=frame["kind"].map({"mole": "Nävus", "wart": "疣"})).to_csv(tmp_path / "cases.csv", index=False)
    command = ["train", "cases.csv", *COLUMNS, *QUICK, "-o", "run"]
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = subprocess.run(
        [sys.executable, "-m", "alignedfusion", *command], cwd=tmp_path, env=plain, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    model = AlignedFusionClassifier.from_pretrained(tmp_path / "run")
    assert model.class_names == ("Nävus", "疣")
    assert attribute(tmp_path / "run", "größe").values == ("groß ≥ 5", "klein")


def test_a_file_that_cannot_be_used_is_named(trained, tmp_path, capsys):
    run, _ = trained
    table = str(run.parent / "cases.csv")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in (path for path in run.iterdir() if path.is_file()):
        (broken / name.name).write_bytes(name.read_bytes())
    for name, content, command in (
        ("settings.json", "{", ["evaluate", str(broken), table]),
        ("settings.json", "{}", ["evaluate", str(broken), table]),
        ("settings.json", "[1]", ["predict", str(broken), "--table", table, "-o", str(tmp_path / "x.csv")]),
        ("trained_on.json", "{}", ["evaluate", str(broken), table]),
    ):
        before = (broken / name).read_bytes()
        (broken / name).write_text(content, "utf-8")
        assert cli.main(command) == 2
        assert str(broken / name) in capsys.readouterr().err
        (broken / name).write_bytes(before)
    assert cli.main(["predict", str(run), "--table", table, "-o", str(run / "settings.json" / "x.csv")]) == 2
    assert str(run / "settings.json") in capsys.readouterr().err
