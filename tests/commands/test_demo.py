import json

import pytest
from PIL import Image

from alignedfusion.commands import demo_models as demo
from alignedfusion.commands import main as cli
from alignedfusion.datasets.cases import TensorCases


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {
        "PRETRAINING_CASES": 64,
        "TRAINING_CASES": 64,
        "VALIDATION_CASES": 29,
        "TEST_CASES": 53,
        "EPOCHS": 1,
    }.items():
        monkeypatch.setattr(demo, name, value)


def test_a_tiny_demo_writes_its_files(tiny, tmp_path, capsys):
    assert cli.main(["demo", "-o", str(tmp_path / "demo"), "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["missing"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert list(results["methods"]) == ["image only", "attributes only", "concatenation", "alignedfusion"]
    for result in results["methods"].values():
        assert [len(run) for run in result["accuracy"]] == [5, 5]
        assert result["mean"] == pytest.approx([sum(column) / 2 for column in zip(*result["accuracy"], strict=True)])
    image_only = results["methods"]["image only"]["accuracy"]
    assert all(len({*run}) == 1 for run in image_only)  # it ignores reports
    with Image.open(tmp_path / "demo" / "accuracy.png") as picture:
        assert picture.width > 500

    # The command that it prints at the end works as printed.
    line = next(line for line in out.splitlines() if "alignedfusion predict" in line)
    import shlex

    assert cli.main(shlex.split(line)[1:]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["classes"]) == {"nevus", "keratosis", "carcinoma", "melanoma"}
    assert len(found["attributes"]) == 8


def test_concatenation_never_reads_a_gap(tiny):
    visual = demo.pretrain()
    cases = demo._cases(visual, 31, seed=0)
    model = demo._build(demo.FILLED, visual)
    assert model.hiding.p == 0.0
    found = demo._accuracies(model, cases, demo.FILLED, cases.codes, seed=0)
    usual = cases.codes.mode(0).values.expand_as(cases.codes)  # with all missing, every case has the same report
    filled = demo._accuracies(model, TensorCases(cases.image, usual, cases.labels), demo.FILLED, usual, seed=0)
    assert found[-1] == filled[0]


@pytest.mark.slow
def test_in_the_full_demo_ours_loses_least_when_reports_leave_attributes_out(tmp_path):
    results = demo.run(tmp_path, progress=False)
    means = {method: result["mean"] for method, result in results["methods"].items()}
    ours, filled = means[demo.OURS], means[demo.FILLED]
    assert ours[0] > means["image only"][0] + 0.1
    assert ours[2] > filled[2] + 0.03
    assert ours[-1] > filled[-1]
