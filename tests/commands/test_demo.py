import json

import pytest
from PIL import Image

from alignedfusion.commands import demo_models as demo
from alignedfusion.commands import main as cli


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {"PRETRAINING_CASES": 64, "TRAINING_CASES": 64, "TEST_CASES": 53, "EPOCHS": 1}.items():
        monkeypatch.setattr(demo, name, value)


def test_a_tiny_demo_writes_its_files(tiny, tmp_path, capsys):
    assert cli.main(["demo", "-o", str(tmp_path / "demo"), "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["missing"] == [0.0, 0.25, 0.5]
    assert list(results["methods"]) == ["image only", "attributes only", "joint self-attention", "alignedfusion"]
    for result in results["methods"].values():
        assert [len(run) for run in result["accuracy"]] == [3, 3]
        assert result["mean"] == pytest.approx([sum(column) / 2 for column in zip(*result["accuracy"], strict=True)])
    image_only = results["methods"]["image only"]["accuracy"]
    assert all(run[0] == run[1] == run[2] for run in image_only)  # it ignores reports
    with Image.open(tmp_path / "demo" / "accuracy.png") as picture:
        assert picture.width > 500

    # The command that it prints at the end works as printed.
    line = next(line for line in out.splitlines() if "alignedfusion predict" in line)
    import shlex

    assert cli.main(shlex.split(line)[1:]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["classes"]) == {"nevus", "keratosis", "carcinoma", "melanoma"}
    assert len(found["attributes"]) == 8


@pytest.mark.slow
def test_in_the_full_demo_ours_is_best_or_tied(tmp_path):
    results = demo.run(tmp_path, progress=False)
    ours = results["methods"].pop(demo.OURS)
    for result in results["methods"].values():
        for mine, theirs, deviation in zip(ours["mean"], result["mean"], ours["deviation"], strict=True):
            assert mine > theirs - deviation / len(ours["accuracy"]) ** 0.5
