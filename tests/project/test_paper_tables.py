import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from alignedfusion import Attribute, AttributeSchema
from alignedfusion.datasets import derm7pt, pad_ufes_20

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
paper_tables = pytest.importorskip("paper_tables")
results = pytest.importorskip("results")
OURS = results.OURS

DIAGNOSES = ("clark nevus", "melanoma", "seborrheic keratosis", "basal cell carcinoma", "lentigo")
ARGUMENTS = ("--table", "1b", "--source", "derm7pt_tokens", "--seeds", "2", "--epochs", "1", "--dim", "8")


def said(rows, right, confidence=0.7):
    """Predictions of two classes: the truth is class 0, and `right` says which cases were named so."""
    first = np.where(right, confidence, 1 - confidence)
    labels, prior = np.zeros(len(rows), dtype=int), np.array([0.64, 0.36])
    return {"rows": np.array(rows), "labels": labels, "prior": prior, "cell 0": np.stack([first, 1 - first], 1)}


def test_means_deviations_and_the_paired_test_by_hand():
    one, two = (paper_tables.Unit("split", 0, seed, 0.0) for seed in (0, 1))
    predictions = {
        "other": {one: said(range(4), [1, 0, 0, 0]), two: said(range(4), [1, 1, 0, 0])},
        OURS: {one: said(range(4), [1, 1, 1, 0]), two: said(range(4), [1, 1, 1, 0])},
    }
    other, ours = results.summarise(predictions, [results.Column("0%", None, "cell 0")])
    assert other["accuracy"] == pytest.approx(0.375)
    assert other["accuracy_deviation"] == pytest.approx(np.std([0.25, 0.5], ddof=1))
    assert (ours["accuracy"], ours["accuracy_deviation"], ours["p_accuracy"]) == (0.75, 0.0, 1.0)
    # Per case, over the seeds: 0, 1/2, 1 and 0 more often right than the other.
    assert other["ours_minus_row_accuracy"] == pytest.approx(0.375)
    difference = np.array([0.0, 0.5, 1.0, 0.0])
    t = difference.mean() / (difference.std(ddof=1) / 2)
    from scipy.stats import t as student

    assert other["p_accuracy"] == pytest.approx(2 * student.sf(t, 3))


def test_folds_of_a_seed_are_one_test_set_whatever_their_order():
    units = {
        paper_tables.Unit("cv", fold, 0, 0.0): said(rows, right)
        for fold, rows, right in ((1, [3, 1], [1, 0]), (0, [2, 0], [0, 1]))
    }
    rows, probabilities, _, _ = results.Column("0%", None, "cell 0").select(units)[0]
    assert rows.tolist() == [0, 1, 2, 3]
    assert (probabilities.argmax(1) == 0).tolist() == [True, False, False, True]


@pytest.fixture
def tokens(tmp_path):
    draw = np.random.default_rng(0)
    for part, count in (("train", 40), ("valid", 20)):
        arrays = {m: draw.normal(size=(count, 4, 6)).astype(np.float16) for m in derm7pt.IMAGES}
        if part == "train":
            arrays |= {f"{m}_augmented": draw.normal(size=(count, 3, 4, 6)).astype(np.float16) for m in derm7pt.IMAGES}
        np.savez(tmp_path / f"{part}.npz", **arrays)
        columns = {name: draw.choice(["absent", "present"], count) for name in derm7pt.ATTRIBUTES["seven_plus5"]}
        diagnosis = [DIAGNOSES[i % 5] for i in range(count)]
        pd.DataFrame({"diagnosis": diagnosis, "split": part, **columns}).to_csv(tmp_path / f"{part}.csv", index=False)
    return tmp_path


def test_a_table_is_written_and_the_same_command_trains_nothing_twice(tokens, monkeypatch, capsys):
    arguments = [*ARGUMENTS, "--data", str(tokens), "-o", str(tokens / "out"), "--methods"]
    rows = ["naive Bayes", "FusionM4Net, Miss Val.", "alignedfusion"]
    paper_tables.main([*arguments, *rows])
    stem = tokens / "out" / "table-1b-derm7pt_tokens-patient3-split"
    text = stem.with_suffix(".md").read_text()
    assert "| *reported: Ours* | 81.52 |" in text
    assert "| **alignedfusion** |" in text
    assert "best other row" in text
    with stem.with_suffix(".csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["row"] for row in table[:3]] == rows
    assert {row["column"] for row in table} == {"0%", "10%", "20%", "30%", "40%", "50%", "75%", "90%", "100%"}
    assert all(row["seeds"] == "2" and row["cases"] == "20" for row in table)
    assert stem.with_suffix(".png").stat().st_size > 10_000

    monkeypatch.setattr(paper_tables, "run_unit", lambda *_: pytest.fail("nothing is left to train"))
    paper_tables.main([*arguments, *rows])
    assert stem.with_suffix(".md").read_text() == text
    assert text in capsys.readouterr().out


def test_other_settings_do_not_mix_with_kept_predictions(tokens):
    arguments = [
        *ARGUMENTS,
        "--data",
        str(tokens),
        "-o",
        str(tokens / "out"),
        "--methods",
        "naive Bayes",
        "alignedfusion",
    ]
    paper_tables.main(arguments)
    with pytest.raises(SystemExit, match=r"made with --epochs 1, but this call has --epochs 2"):
        paper_tables.main([*arguments, "--epochs", "2"])


def test_the_official_split_lends_a_sixth_of_the_training_cases_to_validation(tokens):
    source = paper_tables.open_source("derm7pt_tokens", tokens, "five", tokens, {})
    parts = source.split("split", 0, seed=3)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 34, "valid": 6, "test": 20}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(60))
    tested = np.concatenate([source.split("cv", fold, seed=3)["test"] for fold in range(5)])
    assert sorted(tested) == list(range(60))


def test_a_table_without_images_compares_uses_of_the_reconstruction(tmp_path):
    draw = np.random.default_rng(0)
    cells = {name: draw.choice(["True", "False", "UNK"], 60) for name in pad_ufes_20.ATTRIBUTES}
    cells |= {name: draw.integers(1, 90, 60) for name in pad_ufes_20.OPTIONS}
    pd.DataFrame({"diagnostic": ["BCC", "NEV", "ACK"] * 20, "patient_id": range(60), **cells}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    arguments = ["--table", "reconstruction", "--source", "pad_ufes_20_table", "--data", str(tmp_path), "--seeds", "1"]
    settings = ["-o", str(tmp_path / "out"), "--epochs", "1", "--dim", "8"]
    rows = ["--methods", "ours, no reconstruction", "most probable values filled in", OURS]
    paper_tables.main([*arguments, *settings, "--protocol", "cv", *rows])
    text = (tmp_path / "out" / "table-reconstruction-pad_ufes_20_table-cv.md").read_text()
    assert "60 test cases, 21 attributes" in text
    assert "| most probable values filled in | " in text
    with pytest.raises(SystemExit, match="no official split: --protocol cv"):
        paper_tables.main([*arguments, *settings, *rows])
    with pytest.raises(SystemExit):
        paper_tables.main([*arguments, *settings, "--omission", "own value"])


def test_columns_follow_the_table():
    assert [column.training_rate for column in results.list_columns("1a", "cell")] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    keys = [column.key for column in results.list_columns("1b", "denials kept")]
    assert (keys[0], keys[1], keys[-1]) == ("cell 0", "denials kept 0.1", "denials kept 1")
    assert [column.key for column in results.list_columns("1b", "without derm")] == [
        "without derm 0",
        "without derm 0.5",
        "without derm 1",
    ]


def test_losses_and_the_balanced_decision_by_hand():
    unit = paper_tables.Unit("split", 0, 0, 0.0)
    labels = np.array([0, 0, 1, 1])
    stored = {"rows": np.arange(4), "labels": labels, "prior": np.array([0.81, 0.09])}

    def row(first):
        first = np.array(first)
        return {unit: {**stored, "cell 0": np.stack([first, 1 - first], 1)}}

    predictions = {"other": row([0.5, 0.5, 0.5, 0.5]), OURS: row([0.9, 0.8, 0.6, 0.7])}
    other, ours = results.summarise(predictions, [results.Column("0%", None, "cell 0")])
    logs = -np.log([0.9, 0.8, 0.4, 0.3])
    assert ours["cross_entropy"] == pytest.approx(logs.mean())
    assert other["ours_minus_row_cross_entropy"] == pytest.approx(logs.mean() - np.log(2))
    assert ours["brier"] == pytest.approx(np.mean([2 * 0.01, 2 * 0.04, 2 * 0.36, 2 * 0.49]))
    # The largest probability names the first class everywhere. Divided by 0.9 and 0.3, the square roots of the prior, the
    # last two cases become 0.67 against 1.33 and 0.78 against 1.
    assert ours["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert (ours["macro_f1_balanced_decision"], ours["accuracy_balanced_decision"]) == (1.0, 1.0)


def test_components_are_fitted_to_the_training_cases_alone(tokens):
    source = paper_tables.open_source("derm7pt_tokens", tokens, "five", tokens, {})
    source.components = 3
    rows = np.arange(30)
    reduced = source.reduced(rows)
    assert {m: tuple(x.shape) for m, x in reduced.image.items()} == dict.fromkeys(derm7pt.IMAGES, (60, 4, 3))
    pool = torch.cat([source.image[m][rows].flatten(0, 1) for m in derm7pt.IMAGES])
    found = torch.cat([reduced.image[m][rows].flatten(0, 1) for m in derm7pt.IMAGES])
    values = torch.linalg.eigvalsh((pool - pool.mean(0)).T @ (pool - pool.mean(0)))
    torch.testing.assert_close(found.square().sum(0), values[-3:], rtol=1e-4, atol=1e-3)
    source.image = {m: x.clone() for m, x in source.image.items()}
    for x in source.image.values():
        x[30:] = 7.0
    assert all(torch.equal(source.reduced(rows).image[m][:30], reduced.image[m][:30]) for m in derm7pt.IMAGES)


def test_cells_go_missing_by_their_own_value_by_hand():
    schema = AttributeSchema([Attribute("a", values=("x", "y", "z")), Attribute("b", values=("only",))])
    codes = torch.tensor([[0, 0], [1, 0], [2, -1]])
    expected = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.6, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(paper_tables.by_own_value(codes, 0.3, schema), expected)


def test_a_picture_names_every_curve(tmp_path):
    entries = [
        {"row": row, "column": column, "accuracy": 0.5, "accuracy_deviation": 0.1}
        for row in ("one", OURS)
        for column in ("0%", "50%")
    ]
    columns = [SimpleNamespace(name="0%"), SimpleNamespace(name="50%")]
    results._draw(entries, columns, tmp_path / "p.png", "1b", "x")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_any_manifest_of_images_makes_a_table(tmp_path):
    draw = np.random.default_rng(0)
    weights = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    rows = []
    for i in range(40):
        Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        part = "train" if i < 20 else ("valid", "test")[i % 2]
        rows.append(
            {"file": f"{i}.png", "kind": "ab"[i // 2 % 2], "age": i, "sex": "fm"[i % 2], "who": i, "part_": part}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "cases.csv", index=False)
    arguments = [
        "--table",
        "1c",
        "--source",
        "manifest",
        "--data",
        str(tmp_path / "cases.csv"),
        "-o",
        str(tmp_path / "out"),
    ]
    columns = ["--images", "file", "--label", "kind", "--group", "who", "--split", "part_", "--columns", "age", "sex"]
    backbone = ["--backbone", "test_vit", "--weights", str(weights), "--epochs", "1", "--dim", "8", "--seeds", "1"]
    paper_tables.main([*arguments, *columns, *backbone, "--methods", "image only", "alignedfusion"])
    text = (tmp_path / "out" / "table-1c-manifest-split.md").read_text()
    assert "1 seeds, 10 test cases, 2 attributes: age, sex" in text
