"""The models of `alignedfusion demo`: four methods on drawn lesions, in under three minutes on two cores."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignedfusion.attributes import REPORT
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import plots
from alignedfusion.evaluation.metrics import missing_sweep
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor
from alignedfusion.modules.tokenizers import AttributeTokenizer, VisualTokenizer
from alignedfusion.training.fitting import fit
from alignedfusion.training.settings import TrainingSettings

RATES = (0.0, 0.25, 0.5)
OURS = "alignedfusion"
METHODS = ("image only", "attributes only", "joint self-attention", OURS)

BACKBONE = "test_vit"
IMAGE_SIZE = 64
PRETRAINING_CASES = 3000
TRAINING_CASES = 1000
TEST_CASES = 2000
EPOCHS = 14
DIM = 96
NUM_HEADS = 4


def run(folder: str | Path, *, seeds: int = 3, progress: bool = True) -> dict[str, Any]:
    """Train each method once per seed and compare them; write `results.json`, `accuracy.png`, `case.png` and `model/`.

    All methods use the same frozen image tokens (of a backbone pretrained on other drawn lesions), the same reports (a fifth of
    the cells is unmentioned in training), and the same width, hiding and number of steps. Cases, weights and order differ
    between seeds.

    Args:
        folder: Folder to write to.
        seeds: Number of repetitions.
        progress: Whether to show a progress bar over all models.

    Returns:
        The content of `results.json`.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    accuracy: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    bar = tqdm(total=1 + seeds * len(METHODS), disable=not progress, unit="model")
    bar.set_description("pretraining the backbone")
    visual = pretrain()
    bar.update()
    for seed in range(seeds):
        train = _cases(visual, TRAINING_CASES, seed=2 * seed, missing=0.2)
        test = _cases(visual, TEST_CASES, seed=2 * seed + 1, missing=0.0)
        for method in METHODS:
            bar.set_description(f"{method}, seed {seed}")
            torch.manual_seed(seed)
            model = _build(method, visual)
            _fit(model, train, seed=seed)
            rows = missing_sweep(model, test, phantom.SCHEMA, rates=RATES, seeds=(seed,), progress=False)
            accuracy[method].append([row["accuracy"] for row in rows])
            if method == OURS and seed == 0:
                model.save_pretrained(folder / "model")
            bar.update()
    bar.close()
    _write_case(folder / "case.png")
    return _write_results(folder, accuracy, time.time() - start)


def pretrain() -> VisualTokenizer:
    """A backbone trained to classify other drawn lesions."""
    torch.manual_seed(0)
    visual = VisualTokenizer(BACKBONE, DIM, pretrained=False, image_size=IMAGE_SIZE)
    tokenizer = AttributeTokenizer(phantom.SCHEMA, DIM)
    fusion = JointSelfAttention(DIM, modalities=("image",), depth=1, num_heads=NUM_HEADS)
    model = AlignedFusionClassifier(visual, tokenizer, fusion, None, len(phantom.CLASS_NAMES), unimodal_heads=False)
    cases = phantom.make(PRETRAINING_CASES, seed=1_000_000, image_size=IMAGE_SIZE).cases(**_scale(visual))
    _fit(model, cases, image_rate=1.0, seed=0)
    return visual


def _cases(visual: VisualTokenizer, n: int, *, seed: int, missing: float) -> TensorCases:
    cases = phantom.make(n, seed=seed, image_size=IMAGE_SIZE, missing=missing).cases(**_scale(visual))
    assert isinstance(cases.image, torch.Tensor)
    visual.eval()
    # The tokens of a frozen backbone are the same in every epoch, so they are computed once.
    with torch.no_grad():
        tokens = torch.cat([visual.features(pixels) for pixels in cases.image.split(250)])  # (n, N, F)
    return TensorCases(tokens, cases.codes, cases.labels)


def _build(method: str, pretrained: VisualTokenizer) -> AlignedFusionClassifier:
    modalities = {"image only": ("image",), "attributes only": (REPORT,)}.get(method, ("image", REPORT))
    fusion = IntermediateTokenFusion if method == OURS else JointSelfAttention
    visual = VisualTokenizer(BACKBONE, DIM, pretrained=False, frozen=True, image_size=IMAGE_SIZE)
    visual.backbone.load_state_dict(pretrained.backbone.state_dict())
    return AlignedFusionClassifier(
        visual,
        AttributeTokenizer(phantom.SCHEMA, DIM),
        fusion(DIM, modalities=modalities, depth=1 if method == OURS else 2, num_heads=NUM_HEADS),
        MaskedTokenReconstructor(DIM) if method == OURS else None,
        num_classes=len(phantom.CLASS_NAMES),
        class_names=phantom.CLASS_NAMES,
        unimodal_heads=method == OURS,
    )


def _fit(model: AlignedFusionClassifier, cases: TensorCases, *, seed: int, image_rate: float = 0.5) -> None:
    # Above the default of 0.2: at that rate, joint attention would not learn from the images in so few epochs.
    with tempfile.TemporaryDirectory() as scratch:
        fit(
            model,
            cases,
            None,
            scratch,
            TrainingSettings(epochs=EPOCHS, batch_size=64, image_rate=image_rate, seed=seed),
            progress=False,
        )


def _scale(visual: VisualTokenizer) -> dict[str, list[float]]:
    assert visual.preprocessing is not None
    return {name: visual.preprocessing[name] for name in ("mean", "std")}


def _write_case(path: Path) -> None:
    from PIL import Image

    drawn = phantom.make(1, seed=1, image_size=IMAGE_SIZE)
    Image.fromarray(drawn.images[0]).save(path)


def _write_results(folder: Path, accuracy: dict[str, list[list[float]]], seconds: float) -> dict[str, Any]:
    methods = {
        method: {
            "accuracy": runs,
            "mean": np.mean(runs, axis=0).tolist(),
            "deviation": np.std(runs, axis=0, ddof=min(1, len(runs) - 1)).tolist(),
        }
        for method, runs in accuracy.items()
    }
    results = {
        "missing": list(RATES),
        "methods": methods,
        "pretraining_cases": PRETRAINING_CASES,
        "training_cases": TRAINING_CASES,
        "test_cases": TEST_CASES,
        "seeds": len(accuracy[OURS]),
        "seconds": round(seconds, 1),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    plots.accuracy_against_missing(
        {
            method: list(zip(RATES, result["mean"], result["deviation"], strict=True))
            for method, result in methods.items()
        },
        folder / "accuracy.png",
        title="Drawn lesions: accuracy when reports leave attributes out",
    )
    return results
