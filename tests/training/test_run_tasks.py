"""Runs with several labels and with numbers: through the command, Python and the served model."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from alignedfusion import AlignedFusionClassifier, Attribute, AttributeSchema
from alignedfusion.commands import main as cli
from alignedfusion.datasets.cases import make_cases
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.deployment.export import Answer, metadata
from alignedfusion.deployment.naming import name_output
from alignedfusion.deployment.prediction import predict_case
from alignedfusion.evaluation import Metrics
from alignedfusion.evaluation.inference import answer, prepare_images
from alignedfusion.modules.backbones import Backbone
from alignedfusion.presets import standard
from alignedfusion.training import TrainingSettings, runs
from alignedfusion.training.tuning import tune

LABELS = {"multilabel": ["wet", "big"], "regression": ["weight"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """80 cases of 40 patients with token files; two labels, one number, and some of their cells empty."""
    folder = tmp_path_factory.mktemp("cases")
    generator = np.random.default_rng(0)
    rows = []
    for i in range(80):
        is_wet, is_big = generator.random(2) < (0.5, 0.4)
        tokens = generator.normal(0, 0.1, (5, 7))
        tokens[:, 0] += is_wet
        np.save(folder / f"{i}.npy", tokens.astype(np.float16))
        rows.append(
            {
                "file": f"{i}.npy",
                "sign": ("+" if is_big else "-") if i % 3 else None,
                "age": 20.0 + i,
                "patient": f"P{i // 2}",
                "wet": None if i % 7 == 0 else ("no", "yes")[int(is_wet)],
                "big": int(is_big),
                "weight": None if i % 9 == 0 else round(70 + 10 * is_wet + 20 * is_big + generator.normal(), 2),
            }
        )
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return folder


def arguments(folder, task, out, *more):
    others = [name for key, names in LABELS.items() for name in names if key != task]
    return [
        *("train", str(folder / "cases.csv"), "--image", "file", "--label", *LABELS[task], "--task", task),
        *("--exclude", *others, "--group", "patient", "--dim", "64", "--epochs", "6", "--learning-rate", "3e-3"),
        *("-o", str(out), *more),
    ]


@pytest.fixture(scope="module", params=LABELS)
def run(request, folder, tmp_path_factory):
    """The task, and the folder of a finished run of the command."""
    out = tmp_path_factory.mktemp("runs") / request.param
    assert cli.main(arguments(folder, request.param, out, "--subgroup", "sign")) == 0
    return request.param, out


@pytest.fixture(scope="module")
def predictions(run):
    return pd.read_csv(run[1] / "predictions.csv", keep_default_na=False, na_values={"wet": "", "weight": ""})


def test_the_metrics_are_those_of_the_predictions(run, predictions):
    task, out = run
    report = json.loads((out / "metrics.json").read_text())
    test = Metrics.from_dict(report["test"])
    assert (report["task"], test.task) == (task, task)
    assert set(test.classes) == set(LABELS[task])
    assert "most_frequent_class" not in report
    assert report["subgroups"]["sign"]
    if task == "multilabel":
        known = predictions.dropna(subset="wet")
        found = test.classes["wet"]
        hits = ((known["p(wet)"] > 0.5) & (known["wet"] == "yes")).sum()
        assert found["recall"].value == pytest.approx(hits / (known["wet"] == "yes").sum())
        assert found["auc"].value > 0.9  # the tokens show it
        assert test.counts["wet"]["unknown"] == predictions["wet"].isna().sum() > 0
    else:
        error = (predictions["predicted(weight)"] - predictions["weight"]).dropna()
        assert test.classes["weight"]["mae"].value == pytest.approx(error.abs().mean(), rel=1e-4)
        assert test.classes["weight"]["rmse"].value == pytest.approx((error**2).mean() ** 0.5, rel=1e-4)
        assert test.overall["r2"].value > 0.2
    assert report["missing"][0][next(iter(test.overall))] == pytest.approx(next(iter(test.overall.values())).value)


def test_predictions_name_labels_and_numbers(run, predictions):
    task, _ = run
    if task == "regression":
        assert list(predictions) == ["file", "weight", "predicted(weight)", "unreadable"]
        return
    assert list(predictions) == ["file", "wet", "big", "predicted", "p(wet)", "p(big)", "unreadable"]
    for _, row in predictions.iterrows():
        assert row["predicted"] == "; ".join(name for name in ("wet", "big") if row[f"p({name})"] > 0.5)


def test_one_case_a_table_and_the_served_model_agree(run, folder, tmp_path, capsys):
    task, out = run
    assert cli.main(["predict", str(out), "--table", str(folder / "cases.csv"), "-o", str(tmp_path / "p.csv")]) == 0
    assert "80 cases; predicted " in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    row = table.iloc[4]
    attributes = {"sign": row["sign"], "age": row["age"]}
    found = predict_case(out, [folder / row["file"]], attributes)
    assert (
        cli.main(["predict", str(out), "--image", str(folder / row["file"]), "--attributes", json.dumps(attributes)])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == found
    model = AlignedFusionClassifier.from_pretrained(out)
    codes = model.schema.encode([attributes])
    case = make_cases({"image": [folder / row["file"]]}, codes, None, **prepare_images(model))[0]
    assert name_output(model, codes, answer(model, [case])) == found
    if task == "regression":
        assert found["predicted"] == {"weight": pytest.approx(float(row["predicted(weight)"]), rel=1e-4)}
        assert set(found) == {"predicted", "attributes"}
    else:
        assert found["labels"] == {name: pytest.approx(float(row[f"p({name})"]), abs=6e-5) for name in ("wet", "big")}
        assert "; ".join(found["predicted"]) == row["predicted"]
        assert set(found) == {"predicted", "labels", "attributes"}


def test_evaluate_repeats_the_metrics(run, folder, tmp_path, capsys):
    task, out = run
    figures = tmp_path / "figures.json"
    assert cli.main(["evaluate", str(out), str(folder / "cases.csv"), "--json", str(figures), "-o", str(tmp_path)]) == 0
    found, report = json.loads(figures.read_text()), json.loads((out / "metrics.json").read_text())
    assert found["test"] == report["test"]
    assert found["left_out"] + found["tested"] == 80
    assert {"multilabel": "macro auc", "regression": "rmse"}[task] in capsys.readouterr().out


def test_the_same_command_continues_and_another_task_is_refused(run, folder, capsys):
    task, out = run
    before = (out / "metrics.json").stat().st_mtime_ns
    assert cli.main(arguments(folder, task, out, "--subgroup", "sign")) == 0
    assert (out / "metrics.json").stat().st_mtime_ns == before
    other = next(key for key in LABELS if key != task)
    assert cli.main(arguments(folder, other, out, "--subgroup", "sign")) == 2
    assert f"task {task} before, {other} now" in capsys.readouterr().err


def test_the_page_and_the_card_name_the_labels(run):
    task, out = run
    page, card = (out / "report.html").read_text("utf-8"), (out / "README.md").read_text("utf-8")
    assert "Confusion" not in page
    assert "alignedfusion explain" not in page
    if task == "regression":
        assert "The largest errors" in page
        assert "Predicted numbers against recorded ones: weight." in page
        assert re.search(r"\| weight \| \d+ known \(mean \d+.*, deviation \d+.*\), \d+ unknown \|", card)
        assert "points of explained variance lost" in card
        assert "calibration error" not in card
    else:
        assert "ROC curves of wet, big, each against the rest." in page
        assert "labelled by the columns `wet`, `big`" in card
        assert re.search(r"\| wet \| \d+ positive, \d+ negative, \d+ unknown \|", card)
        assert "the probability of a label differs from the share of cases that have it" in card
    assert not re.search(r"\bP\d+\b|\d\.npy", page)


def test_the_export_names_the_task_and_gives_what_is_predicted(run):
    task, out = run
    model = AlignedFusionClassifier.from_pretrained(out)
    described = metadata(model)
    assert (described["task"], described["class_names"]) == (task, LABELS[task])
    image = {"image": torch.randn(2, 5, 7)}
    codes = torch.zeros(2, len(model.schema), dtype=torch.int64)
    found = Answer(model)(image, codes, {"image": torch.ones(2, dtype=torch.bool)}, {})
    key = "values" if task == "regression" else "probabilities"
    torch.testing.assert_close(found[key], model.activate(found["logits"]))
    assert ("probabilities" in found) != ("values" in found)


def test_pages_of_cases_are_refused(run, folder, tmp_path, capsys):
    task, out = run
    refusal = f"pages of cases show classes, and this model has the task {task!r}"
    assert cli.main(["explain", str(out), "--image", str(folder / "1.npy"), "-o", str(tmp_path / "x.html")]) == 2
    assert refusal in capsys.readouterr().err
    assert cli.main(arguments(folder, task, tmp_path / "run", "--case-pages")) == 2
    assert refusal in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["evaluate", str(out), str(folder / "cases.csv"), "--case-pages"]) == 2
    assert refusal in capsys.readouterr().err


WRONG = [
    (["--label", "wet", "big", "--task", "multiclass"], "the task multiclass has one label column"),
    (["--label", "wet", "age"], "80 cells of the label column 'age' are neither yes nor no"),
    (["--label", "wet", "--task", "regression"], "cells of the label column 'wet' are no numbers"),
    (["--label", "wet", "big", "--sets", "lac"], "prediction sets are sets of classes"),
    (
        ["--label", "weight", "--task", "regression", "--balance", "logit_adjustment"],
        "does not fit the task 'regression'",
    ),
    (["--label", "wet", "big", "--balance", "class_weights"], "does not fit the task 'multilabel'"),
    (["--label", "wet", "big", "--attributes", "age", "big"], "the label column 'big' is among the attributes"),
    (["--label", "wet", "bog"], "the table has no column ['bog']"),
    (["--label", "big", "--coverage", "0.8"], "coverage=0.8 belongs to prediction sets; name their kind with sets"),
    (
        ["--label", "big", "--backbone", "resnet18", "--tune", "last:1"],
        "are .npy files of tokens; leave out name='resnet18'",
    ),
    (["--label", "big", "--weights", "x.pth", "--no-pretrained"], "--weights and --no-pretrained exclude each other"),
    (["--label", "age"], "set the task to regression if the labels are numbers"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_labels_that_do_not_fit_are_named_by_the_command(options, message, folder, tmp_path, capsys):
    table = str(folder / "cases.csv")
    assert cli.main(["train", table, "--image", "file", *options, "--epochs", "1", "-o", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_several_labels_with_help_for_rare_ones(folder, tmp_path):
    columns = CaseColumns(images="file", label=("wet", "big"), exclude=("weight",), group="patient")
    manifest = Manifest.read(folder / "cases.csv", columns)
    settings = TrainingSettings(epochs=1, balance="logit_adjustment")
    runs.train(manifest, tmp_path / "run", dim=64, settings=settings, progress=False)
    model = AlignedFusionClassifier.from_pretrained(tmp_path / "run")
    found = pd.read_csv(tmp_path / "run" / "predictions.csv", keep_default_na=False)
    assert ("most_probable" in found) == (model.prior_exponent > 0)
    share = model.log_prior.mul(model.prior_exponent).sigmoid()  # the threshold of each label
    for _, row in found.iterrows():
        names = [name for name, limit in zip(model.class_names, share, strict=True) if row[f"p({name})"] > limit]
        assert row["predicted"] == "; ".join(names)


def test_a_label_column_that_the_new_table_lacks_is_named(run, folder):
    task, out = run
    frame = pd.read_csv(folder / "cases.csv").drop(columns=LABELS[task][0])
    with pytest.raises(ValueError, match=rf"the table has no column \['{LABELS[task][0]}'\]"):
        runs.evaluate(out, frame, root=folder)


def test_tuning_a_backbone_needs_classes(folder, tmp_path):
    manifest = Manifest.read(
        folder / "cases.csv", CaseColumns(images="file", label=("wet", "big"), attributes=("sign",))
    )
    backbone = Backbone("test_vit", pretrained=False, tune="whole", image_size=32)
    with pytest.raises(ValueError, match="tune needs one column of classes"):
        tune(manifest, tmp_path / "tuned", backbone)


def test_predict_summarises_its_own_columns_only(run, folder, tmp_path, capsys):
    task, out = run
    if task == "multilabel":
        pytest.skip("a table with the column 'predicted' is refused there")
    frame = pd.read_csv(folder / "cases.csv").assign(predicted="yes")
    frame.to_csv(folder / "named.csv", index=False)
    assert cli.main(["predict", str(out), "--table", str(folder / "named.csv"), "-o", str(tmp_path / "x.csv")]) == 0
    mean = pd.read_csv(tmp_path / "x.csv")["predicted(weight)"].mean()
    assert f"80 cases; predicted weight {mean:.4g} on average" in capsys.readouterr().out


def test_predict_summarises_classes_whose_names_have_semicolons(folder, tmp_path, capsys):
    schema = AttributeSchema([Attribute("sign", values=("+", "-"))])
    model = standard(schema, ["wet; big", "dry"], backbone=None, num_features=7, dim=64)
    model.log_prior.copy_(torch.tensor([9.0, 0.0]))
    model.save_pretrained(tmp_path / "model")
    words = ["--table", str(folder / "cases.csv"), "--image", "file", "-o", str(tmp_path / "x.csv")]
    assert cli.main(["predict", str(tmp_path / "model"), *words]) == 0
    assert "80 cases; predicted wet; big 100.0%" in capsys.readouterr().out
