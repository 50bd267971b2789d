"""The example of docs/detection.md: attributes add what the image does not show, and their absence costs nothing."""

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fuse_torchvision_detector.py"


@pytest.mark.slow
def test_attributes_raise_sensitivity_and_their_absence_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "-o", str(tmp_path / "results.json")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    at_one = {name: values[1] for name, values in json.loads((tmp_path / "results.json").read_text()).items()}
    at_half = {name: values[0] for name, values in json.loads((tmp_path / "results.json").read_text()).items()}
    assert at_one["all mentioned"] - at_one["image only"] >= 0.2
    # 600 lesions: two standard errors of a difference are 6 points.
    assert abs(at_one["nothing mentioned"] - at_one["image only"]) < 0.06
    assert at_one["attributes of another image"] - at_one["image only"] < 0.06
    for silent in ("half of the cells missing", "only the ward mentioned"):
        gains = [each[silent] - each["image only"] for each in (at_half, at_one)]
        whole = [each["all mentioned"] - each["image only"] for each in (at_half, at_one)]
        assert all(gain >= 0.5 * most for gain, most in zip(gains, whole, strict=True))


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    arguments = [str(EXAMPLE), "--images", "16", "--epochs", "1", "--read", "pooled", "-o", str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "all mentioned" in capsys.readouterr().out
