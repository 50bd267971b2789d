import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from alignedfusion import AlignedFusionClassifier
from alignedfusion.commands import main as cli
from alignedfusion.datasets import phantom
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.deployment.prediction import predict_case
from alignedfusion.evaluation import Metrics
from alignedfusion.training import TrainingSettings, runs

SMALL = ["--backbone", "test_vit", "--no-pretrained", "--image-size", "32", "--dim", "64", "--epochs", "2"]
COLUMNS = ["--image", "file", "--label", "kind", "--group", "patient"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 drawn lesions of 60 patients as PNG files, and `cases.csv`; a fifth of its attribute cells is empty."""
    folder = tmp_path_factory.mktemp("cases")
    drawn = phantom.make(120, seed=5, image_size=32, missing=0.2)
    frame = pd.DataFrame(phantom.SCHEMA.decode(drawn.codes)).drop(columns=["age", "size"])
    frame["age"] = [row["age"] for row in drawn.rows]
    frame.insert(0, "file", [f"{i}.png" for i in range(120)])
    frame["kind"] = [phantom.CLASS_NAMES[label] for label in drawn.labels]
    frame["patient"] = [f"P{i // 2}" for i in range(120)]
    frame.to_csv(folder / "cases.csv", index=False)
    for i, pixels in enumerate(drawn.images):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A finished run of the command."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert cli.main(["train", str(folder / "cases.csv"), *COLUMNS, *SMALL, "-o", str(out), "--units", "age=years"]) == 0
    return out


def test_a_run_has_all_files_that_the_help_names(run, folder):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "README.md",
        "report.html",
        "config.json",
        "metrics.json",
        "missing.png",
        "model.safetensors",
        "predictions.csv",
        "settings.json",
        "trained_on.json",
    }
    report = json.loads((run / "metrics.json").read_text())
    assert [row["missing"] for row in report["missing"]] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    test = Metrics.from_dict(report["test"])
    cells = pd.read_csv(folder / "cases.csv", index_col="file").loc[pd.read_csv(run / "predictions.csv")["file"]]
    unmentioned = cells.drop(columns=["kind", "patient"]).isna().to_numpy().mean()
    overall = {name: interval.value for name, interval in test.overall.items()}
    assert report["missing"][0] == pytest.approx({"missing": 0.0, "unmentioned": unmentioned, **overall})
    assert test.groups == cells["patient"].nunique()  # patients are drawn whole
    with Image.open(run / "missing.png") as picture:
        assert picture.width > 500


def test_predictions_are_those_of_the_saved_model(run, folder):
    predictions = pd.read_csv(run / "predictions.csv")
    table = pd.read_csv(folder / "cases.csv").set_index("file").loc[predictions["file"]]
    assert (table["kind"].to_numpy() == predictions["kind"].to_numpy()).all()
    row = table.iloc[0]
    mentioned = {name: row[name] for name in ("border", "colour", "growth", "age", "site") if pd.notna(row[name])}
    others = {name: row[name] for name in ("pattern", "itching", "family_history") if pd.notna(row[name])}
    found = predict_case(run, [folder / predictions["file"][0]], {**mentioned, **others})
    for name, probability in found["classes"].items():
        assert probability == pytest.approx(predictions[f"p({name})"][0], abs=6e-5)


def test_the_same_command_on_a_finished_run_repeats_its_metrics(run, folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert cli.main(["train", str(folder / "cases.csv"), *COLUMNS, *SMALL, "-o", str(run), "--units", "age=years"]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert "test cases; most frequent class" in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused(run, folder, capsys):
    changed = [*SMALL[:-1], "3", "--units", "age=years", "-o", str(run)]
    assert cli.main(["train", str(folder / "cases.csv"), *COLUMNS, *changed]) == 2
    assert "holds a run with other settings (training.epochs 2 before, 3 now)" in capsys.readouterr().err


def test_the_same_command_continues_an_interrupted_run(run, folder, tmp_path, monkeypatch, capsys):
    arguments = [
        "train",
        str(folder / "cases.csv"),
        *COLUMNS,
        *SMALL,
        "-o",
        str(tmp_path / "run"),
        "--units",
        "age=years",
    ]
    report = runs.write_report
    monkeypatch.setattr(runs, "write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(arguments) == 130
    assert "the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(runs, "write_report", report)
    monkeypatch.setattr(runs, "fit", lambda *a, **k: pytest.fail("it was trained already"))
    assert cli.main(arguments) == 0
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (run, tmp_path / "run"))
    assert first["test"] == second["test"]


def test_evaluate_leaves_training_cases_out(run, folder, capsys, tmp_path):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    words = ["--json", str(figures), "-o", str(out), "--case-pages"]
    assert cli.main(["evaluate", str(run), str(folder / "cases.csv"), *words]) == 0
    page = (out / "report.html").read_text("utf-8")
    linked = re.findall(r'href="(cases/row-\d+\.html)"', page)
    assert len(linked) == min(20, sum(pd.read_csv(run / "predictions.csv").eval("kind != predicted")))
    assert all((out / name).is_file() for name in linked)
    assert "image only" in page
    report, figures = (json.loads(path.read_text()) for path in (run / "metrics.json", tmp_path / "figures.json"))
    assert figures["tested"] == report["cases"]["test"]
    assert figures["tested"] + figures["left_out"] == 120
    for found, expected in zip(figures["missing"], report["missing"], strict=True):
        assert found == pytest.approx(expected)
    assert figures["test"] == report["test"]
    out = capsys.readouterr().out
    assert f"{figures['left_out']} cases were used in training and are left out" in out
    assert "balanced accuracy" in out


def test_evaluate_reports_subgroups(run, folder, capsys, tmp_path):
    arguments = ["evaluate", str(run), str(folder / "cases.csv"), "--subgroup", "age", "site"]
    assert cli.main([*arguments, "--json", str(tmp_path / "figures.json"), "-o", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    schema = AlignedFusionClassifier.from_pretrained(run).schema
    for attribute in schema:
        if attribute.name in ("age", "site"):
            found = figures["subgroups"][attribute.name]
            assert set(found) <= {*attribute.values, "(not recorded)"}
            assert sum(metrics["cases"] for metrics in found.values()) == figures["tested"]
    assert "fewer than 50 cases, too few to conclude from: age" in capsys.readouterr().out
    assert cli.main([*arguments[:4], "oge"]) == 2
    assert "the table has no columns ['oge'] for subgroups" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_fails_nothing(run, folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "report.html").mkdir()
    found = runs.evaluate(run, pd.read_csv(folder / "cases.csv"), root=folder, output=tmp_path)
    assert found["tested"] == json.loads((run / "metrics.json").read_text())["cases"]["test"]
    assert "report.html could not be written, all other results are complete" in caplog.text


def test_the_page_of_a_run_holds_no_patient_and_no_file(run):
    page = (run / "report.html").read_text("utf-8")
    assert not re.search(r"\bP\d+\b|\d\.png", page)
    assert "alignedfusion explain RUN --table TABLE --rows" in page


def test_a_run_with_help_for_rare_classes_and_prediction_sets(folder, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--balance", "logit_adjustment", "--sets", "lac", "--coverage", "0.8", "--units", "age=years"]
    assert cli.main(["train", str(folder / "cases.csv"), *COLUMNS, *SMALL, *options, "-o", str(out)]) == 0
    assert "set size" in capsys.readouterr().out
    report = json.loads((out / "metrics.json").read_text())
    predictions = pd.read_csv(out / "predictions.csv")
    sets = [text.split("; ") if isinstance(text, str) else [] for text in predictions["set"]]
    is_covered = [label in names for label, names in zip(predictions["kind"], sets, strict=True)]
    assert report["test"]["overall"]["coverage"][0] == pytest.approx(np.mean(is_covered))
    assert report["missing"][0]["coverage"] == pytest.approx(np.mean(is_covered))
    assert report["missing"][0]["set_size"] == pytest.approx(np.mean([len(names) for names in sets]))
    assert report["missing"][0]["accuracy"] == pytest.approx((predictions["kind"] == predictions["predicted"]).mean())
    model = AlignedFusionClassifier.from_pretrained(out)
    assert model.prediction_sets["coverage"] == 0.8
    table = pd.read_csv(folder / "cases.csv").set_index("file")
    row = table.loc[predictions["file"][0]].drop(["kind", "patient"])
    found = predict_case(out, [folder / predictions["file"][0]], row.dropna().to_dict())
    assert (found["predicted"], found["set"], found["coverage"]) == (predictions["predicted"][0], sets[0], 0.8)
    whole = runs.evaluate(out, pd.read_csv(folder / "cases.csv"), root=folder, most_probable=True)
    best = predictions[[f"p({name})" for name in model.class_names]].to_numpy().argmax(1)
    is_right = np.array(model.class_names)[best] == predictions["kind"]
    assert whole["test"]["overall"]["accuracy"][0] == pytest.approx(is_right.mean())
    card = (out / "README.md").read_text()
    assert "balance logit_adjustment, sets lac, coverage 0.8" in card
    assert "| coverage |" in card
    assert f"divided by the prior to the power {model.prior_exponent:g}" in card or not model.prior_exponent
    assert "contain the true class in 80 % of cases like the validation cases" in card


def test_the_page_of_a_case_states_whether_the_model_was_trained_on_it(run, folder, tmp_path):
    tested = set(pd.read_csv(run / "predictions.csv")["file"])
    is_tested = [name in tested for name in pd.read_csv(folder / "cases.csv")["file"]]
    rows = [is_tested.index(True), is_tested.index(False)]
    table, out = str(folder / "cases.csv"), tmp_path / "cases"
    assert cli.main(["explain", str(run), "--table", table, "--rows", ",".join(map(str, rows)), "-o", str(out)]) == 0
    pages = [(out / f"row-{row}.html").read_text("utf-8") for row in rows]
    assert ["The model was trained on this case" in page for page in pages] == [False, True]


def test_evaluate_refuses_a_table_of_training_cases_only(run, folder, tmp_path, capsys):
    table = pd.read_csv(folder / "cases.csv")
    tested = set(pd.read_csv(run / "predictions.csv")["file"])
    table["file"] = [str(folder / name) for name in table["file"]]
    table[[Path(name).name not in tested for name in table["file"]]].to_csv(tmp_path / "used.csv", index=False)
    assert cli.main(["evaluate", str(run), str(tmp_path / "used.csv")]) == 2
    assert "were used in training; there is nothing to test on" in capsys.readouterr().err


def test_predict_prints_classes_and_unmentioned_attributes(run, folder, capsys):
    attributes = '{"growth": "growing", "age": 71, "border": null}'
    assert cli.main(["predict", str(run), "--image", str(folder / "3.png"), "--attributes", attributes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["classes"].values()) == pytest.approx(1, abs=1e-3)
    assert all(round(share, 4) == share for share in found["classes"].values())
    assert set(found["attributes"]) == {"border", "colour", "pattern", "itching", "family_history", "site"}
    assert all(sum(values.values()) == pytest.approx(1, abs=1e-3) for values in found["attributes"].values())
    assert set(found["attributes"]["border"]) == {"smooth", "irregular"}


MISTAKES = [
    (["--attributes", '{"growht": "growing"}'], "names the attribute 'growht', did you mean 'growth'?"),
    (["--attributes", '{"growth": "growin"}'], "'growin' is not a known value, did you mean 'growing'?"),
    (["--attributes", '{"age": "old"}'], "'old' is not a finite number"),
    (["--attributes", "{growth"], "--attributes is not JSON"),
    (["--attributes", "[1]"], "must be a JSON object"),
    (["--image", "a.png", "b.png"], "this model takes one image each of ['image'], got 2"),
    (["--image", "none.png"], "there is no image at ['none.png']"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_predict_names_mistakes(mistake, message, run, folder, capsys):
    image = [] if "--image" in mistake else ["--image", str(folder / "3.png")]
    assert cli.main(["predict", str(run), *image, *mistake]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_failed_in_its_first_epoch_can_start_with_other_settings(folder, tmp_path, capsys):
    arguments = ["train", str(folder / "cases.csv"), *COLUMNS, "-o", str(tmp_path / "run")]
    assert cli.main([*arguments, "--backbone", "test_vit", "--weights", str(tmp_path / "none.pth")]) == 2
    assert "no weights file at" in capsys.readouterr().err
    assert cli.main([*arguments, *SMALL]) == 0


def test_folders_without_a_run_are_named(tmp_path, folder, capsys):
    assert cli.main(["evaluate", str(tmp_path), str(folder / "cases.csv")]) == 2
    assert "no finished run in" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path)]) == 2
    assert "no saved model in" in capsys.readouterr().err


def test_precomputed_tokens_need_no_backbone(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        kind = ("a", "b")[i % 2]
        tokens = rng.normal(0, 0.1, (5, 7))
        tokens[:, i % 2] += 1
        np.save(tmp_path / f"{i}.npy", tokens.astype(np.float16))
        rows.append(
            {"first": f"{i}.npy", "second": f"{i}.npy" if i % 3 else None, "kind": kind, "sign": "+-"[i % 4 // 2]}
        )
    manifest = Manifest.from_frame(
        pd.DataFrame(rows), CaseColumns(images=("first", "second"), label="kind"), root=tmp_path
    )
    report = runs.train(
        manifest, tmp_path / "run", dim=64, settings=TrainingSettings(epochs=8, learning_rate=3e-3), progress=False
    )
    assert report["missing"][0]["accuracy"] == 1.0
    model = AlignedFusionClassifier.from_pretrained(tmp_path / "run")
    assert model.image_modalities == ("first", "second")
    assert model.visual.backbone is None
    found = predict_case(tmp_path / "run", [tmp_path / "1.npy", tmp_path / "1.npy"], {})
    assert found["classes"]["b"] > 0.9


def test_images_and_tokens_do_not_mix(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((5, 7)))
    Image.new("RGB", (4, 4)).save(tmp_path / "i.png")
    frame = pd.DataFrame({"file": ["t.npy", "i.png"] * 10, "kind": ["a"] * 10 + ["b"] * 10, "sign": ["+", "-"] * 10})
    manifest = Manifest.from_frame(frame, CaseColumns(images="file", label="kind"), root=tmp_path)
    with pytest.raises(ValueError, match=r"some images are .npy files of precomputed tokens and some are not"):
        runs.train(manifest, tmp_path / "run", progress=False)


def test_a_frozen_backbone_loads_local_weights(folder, tmp_path, capsys):
    import timm

    backbone = timm.create_model("test_vit", pretrained=False, num_classes=0)
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    arguments = ["--backbone", "test_vit", "--weights", str(tmp_path / "weights.pth"), "--dim", "64", "--epochs", "1"]
    out = tmp_path / "run"
    assert cli.main(["train", str(folder / "cases.csv"), *COLUMNS, *arguments, "-o", str(out)]) == 0
    model = AlignedFusionClassifier.from_pretrained(out)
    trained = model.visual.backbone.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in backbone.state_dict().items())
    # The same name with other weights is another run.
    torch.save({name: value + 1 for name, value in backbone.state_dict().items()}, tmp_path / "weights.pth")
    assert cli.main(["train", str(folder / "cases.csv"), *COLUMNS, *arguments, "-o", str(out)]) == 2
    assert re.search(r"other settings \(weights_sha256 \w{64} before, \w{64} now\)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", r"has no \['images', 'label', 'attributes'\]"),
        ('{"images": ["file"], "label": "x"}', r"has no \['attributes'\]"),
    ],
)
def test_damaged_settings_of_a_run_are_named_at_the_command(text, message, tmp_path, capsys):
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "settings.json").write_text(text)
    (tmp_path / "new.csv").write_text("file,x\na.png,1\n")
    assert cli.main(["evaluate", str(tmp_path), str(tmp_path / "new.csv")]) == 2
    error = capsys.readouterr().err
    assert re.search(f"settings.json' {message}", error)
    assert "copy the run again, or train it again" in error


def test_a_folder_that_cannot_be_written_is_an_error_without_a_traceback(folder, capsys):
    columns = ["--image", "file", "--label", "kind", "--no-pretrained"]
    assert cli.main(["train", str(folder / "cases.csv"), *columns, "-o", "/proc/none"]) == 2
    assert "/proc/none" in capsys.readouterr().err
