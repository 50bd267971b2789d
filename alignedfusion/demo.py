"""`alignedfusion demo`: four models on the built-in lesions, in under three minutes on two cores."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignedfusion import plots
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.classifier import AlignedFusionClassifier
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import missing_sweep
from alignedfusion.fusion import REPORT, IntermediateTokenFusion
from alignedfusion.reconstruction import MaskedTokenReconstructor
from alignedfusion.tokenizers import AttributeTokenizer, VisualTokenizer
from alignedfusion.training import fit

RATES = (0.0, 0.25, 0.5)
OURS = "alignedfusion"
METHODS = ("image only", "attributes only", "joint self-attention", OURS)

IMAGE_SIZE = 64
TRAINING_CASES = 1500
TEST_CASES = 2000
EPOCHS = 14
DIM = 96
NUM_HEADS = 4


def run(folder: str | Path, *, seeds: int = 3, progress: bool = True) -> dict[str, Any]:
    """Train each method once per seed and compare them; write `results.json`, `accuracy.png`, `case.png` and `model/`.

    All methods get the same images, the same reports (a fifth of the cells is left out in training), the same width, depth,
    hiding and number of steps. Each seed draws other cases, other weights and another order.

    Args:
        folder: Where to write.
        seeds: Repetitions.
        progress: Show a progress bar over all trainings.

    Returns:
        What `results.json` holds.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    accuracy: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    bar = tqdm(total=seeds * len(METHODS), disable=not progress, unit="model")
    for seed in range(seeds):
        train = _cases(TRAINING_CASES, seed=2 * seed, missing=0.2)
        test = _cases(TEST_CASES, seed=2 * seed + 1, missing=0.0)
        for method in METHODS:
            bar.set_description(f"{method}, seed {seed}")
            torch.manual_seed(seed)
            model = _build(method)
            with tempfile.TemporaryDirectory() as checkpoints:
                fit(
                    model,
                    train,
                    None,
                    checkpoints,
                    epochs=EPOCHS,
                    batch_size=64,
                    learning_rate=1e-3,
                    seed=seed,
                    progress=False,
                )
            rows = missing_sweep(model, test, phantom.SCHEMA, rates=RATES, seeds=(seed,), progress=False)
            accuracy[method].append([row["accuracy"] for row in rows])
            if method == OURS and seed == 0:
                model.save_pretrained(folder / "model")
            bar.update()
    bar.close()
    _write_case(folder / "case.png")
    return _write_results(folder, accuracy, time.time() - start)


def _cases(n: int, *, seed: int, missing: float) -> TensorCases:
    drawn = phantom.make(n, seed=seed, image_size=IMAGE_SIZE, missing=missing)
    visual = VisualTokenizer("test_vit", DIM, pretrained=False, image_size=IMAGE_SIZE)
    assert visual.preprocessing is not None
    mean, std = (torch.tensor(visual.preprocessing[name])[:, None, None] for name in ("mean", "std"))
    pixels = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 255  # (n, 3, size, size)
    return TensorCases((pixels - mean) / std, drawn.codes, drawn.labels)


def _build(method: str) -> AlignedFusionClassifier:
    modalities = {"image only": ("image",), "attributes only": (REPORT,)}.get(method, ("image", REPORT))
    fusion = IntermediateTokenFusion if method == OURS else JointSelfAttention
    return AlignedFusionClassifier(
        VisualTokenizer("test_vit", DIM, pretrained=False, image_size=IMAGE_SIZE) if "image" in modalities else None,
        AttributeTokenizer(phantom.SCHEMA, DIM),
        fusion(DIM, modalities=modalities, num_heads=NUM_HEADS),
        MaskedTokenReconstructor(DIM) if method == OURS else None,
        num_classes=len(phantom.CLASS_NAMES),
        class_names=phantom.CLASS_NAMES,
    )


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
        "training_cases": TRAINING_CASES,
        "test_cases": TEST_CASES,
        "seeds": len(accuracy[OURS]),
        "seconds": round(seconds, 1),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    plots.accuracy_against_missing(
        {
            method: list(zip(RATES, result["mean"], result["deviation"], strict=True))
            for method, result in methods.items()
        },
        folder / "accuracy.png",
        title="Drawn lesions: accuracy when reports leave attributes out",
    )
    return results
