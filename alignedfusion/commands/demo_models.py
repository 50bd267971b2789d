"""The models of `alignedfusion demo`: trained on complete reports, tested on reports that leave attributes out."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.baselines import Concatenation, JointSelfAttention
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import plots
from alignedfusion.evaluation.inference import decide, predict
from alignedfusion.evaluation.metrics import sweep_variants
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.fusions import Fusion, IntermediateTokenFusion
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor
from alignedfusion.modules.tokenizers import AttributeTokenizer, VisualTokenizer
from alignedfusion.training.calibration import calibrate
from alignedfusion.training.fitting import fit
from alignedfusion.training.settings import TrainingSettings

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
OURS = "alignedfusion"
FILLED = "concatenation"
METHODS = ("image only", "attributes only", FILLED, OURS)

BACKBONE = "test_vit"
IMAGE_SIZE = 64
PRETRAINING_CASES = 2000
TRAINING_CASES = 1000
VALIDATION_CASES = 200
TEST_CASES = 2000
EPOCHS = 12
DIM = 96
NUM_HEADS = 4
DEPTH = 2


def run(folder: str | Path, *, seeds: int = 3, progress: bool = True) -> dict[str, Any]:
    """Train each method once per seed and compare them; write `results.json`, `accuracy.png`, `case.png` and `model/`.

    All methods use the same frozen image tokens (of a backbone pretrained on other drawn lesions), the same complete reports in
    training, and the same width and number of steps. Cases, weights and order differ between seeds. "concatenation" is trained
    without hiding, and an attribute that a test report omits is filled with the most frequent value of the training reports.

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
        train = _cases(visual, TRAINING_CASES, seed=3 * seed)
        test = _cases(visual, TEST_CASES, seed=3 * seed + 1)
        valid = _cases(visual, VALIDATION_CASES, seed=3 * seed + 2)
        for method in METHODS:
            bar.set_description(f"{method}, seed {seed}")
            torch.manual_seed(seed)
            model = _build(method, visual)
            _fit(model, train, seed=seed)
            if method == OURS:
                calibrate(model, valid, progress=False)
            accuracy[method].append(_accuracies(model, test, method, train.codes, seed))
            if method == OURS and seed == 0:
                model.save_pretrained(folder / "model")
            bar.update()
    bar.close()
    _write_case(folder / "case.png")
    return _write_results(folder, accuracy, time.time() - start)


def _accuracies(
    model: AlignedFusionClassifier, test: TensorCases, method: str, training_codes: Tensor, seed: int
) -> list[float]:
    """The accuracy at each of RATES."""
    variants = sweep_variants(test.codes, phantom.SCHEMA, rates=RATES, seeds=(seed,))
    if method == FILLED:
        most_frequent = training_codes.mode(0).values  # (A,)
        variants = [torch.where(codes == UNKNOWN, most_frequent, codes) for codes in variants]
    predicted = decide(model, predict(model, test, variants, progress=False))  # (rates, n)
    return [float(np.mean(row == test.labels.numpy())) for row in predicted]


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


def _cases(visual: VisualTokenizer, n: int, *, seed: int) -> TensorCases:
    cases = phantom.make(n, seed=seed, image_size=IMAGE_SIZE).cases(**_scale(visual))
    assert isinstance(cases.image, torch.Tensor)
    visual.eval()
    # The tokens of a frozen backbone are the same in every epoch, so they are computed once.
    with torch.no_grad():
        tokens = torch.cat([visual.features(pixels) for pixels in cases.image.split(250)])  # (n, N, F)
    return TensorCases(tokens, cases.codes, cases.labels)


def _build(method: str, pretrained: VisualTokenizer) -> AlignedFusionClassifier:
    modalities = {"image only": ("image",), "attributes only": (REPORT,)}.get(method, ("image", REPORT))
    kinds: dict[str, Callable[..., Fusion]] = {OURS: IntermediateTokenFusion, FILLED: Concatenation}
    fusion = kinds.get(method, JointSelfAttention)
    visual = VisualTokenizer(BACKBONE, DIM, pretrained=False, tune="none", image_size=IMAGE_SIZE)
    visual.backbone.load_state_dict(pretrained.backbone.state_dict())
    return AlignedFusionClassifier(
        visual,
        AttributeTokenizer(phantom.SCHEMA, DIM),
        fusion(DIM, modalities=modalities, depth=DEPTH, num_heads=NUM_HEADS),
        MaskedTokenReconstructor(DIM) if method == OURS else None,
        num_classes=len(phantom.CLASS_NAMES),
        class_names=phantom.CLASS_NAMES,
        hiding=HideAttributes(0.0) if method == FILLED else None,
        unimodal_heads=method == OURS,
    )


def _fit(model: AlignedFusionClassifier, cases: TensorCases, *, seed: int, image_rate: float = 0.5) -> None:
    # Above the default of 0.2: at that rate, the other fusions would not learn from the images in so few epochs.
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
        title="Trained on complete reports, tested on incomplete ones",
        chance=1 / len(phantom.CLASS_NAMES),
    )
    return results
