"""The example of docs/detection.md: attributes add what the image does not show, and their absence costs nothing."""

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fuse_torchvision_detector.py"


def run(monkeypatch, output, *arguments):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments, "-o", str(output)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    return json.loads(output.read_text())


@pytest.mark.slow
def test_attributes_raise_sensitivity_and_their_absence_costs_nothing(tmp_path, monkeypatch):
    figures = run(monkeypatch, tmp_path / "figures.json")
    whole = figures["0% of the cells missing"]["gain"]
    assert min(whole) >= 0.2
    assert min(figures["50% of the cells missing"]["low"]) > 0.05
    for name in ("50% of the cells missing", "only the ward mentioned"):
        assert all(gain >= 0.5 * most for gain, most in zip(figures[name]["gain"], whole, strict=True))
    for name in ("100% of the cells missing", "attributes of another image"):
        assert max(figures[name]["low"]) <= 0 <= min(figures[name]["high"])


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    few = ["--images", "16", "--test-images", "16", "--epochs", "1", "--read", "pooled"]
    figures = run(monkeypatch, tmp_path / "figures.json", *few)
    assert figures["image only"]["gain"] == figures["image only"]["low"] == [0.0, 0.0]
    out = capsys.readouterr().out
    assert [name for name in figures if name not in out] == []
