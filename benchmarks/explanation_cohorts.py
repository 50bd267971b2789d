"""The cohorts and models that `benchmarks/explanation.py` explains: the phantom, and MILK10k from a token cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alignedfusion import AlignedFusionClassifier, AttributeSchema
from alignedfusion.attributes import ColumnOptions
from alignedfusion.commands import demo_models
from alignedfusion.datasets import milk10k, phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.presets import standard
from alignedfusion.tables.files import read_table
from alignedfusion.training import TrainingSettings, fit

FOLDS = {"phantom": 1, "milk10k": 5}
"""Folds of each cohort. Seeds go through them in turn: seed s tests fold s modulo their number."""
FEATURES = 256
AGES = tuple(float(age) for age in range(25, 85, 5))


@dataclass(frozen=True)
class Cohort:
    """Cases in three splits, with image tokens in memory."""

    name: str
    schema: AttributeSchema
    class_names: tuple[str, ...]
    train: TensorCases
    valid: TensorCases
    test: TensorCases


def load(name: str, fold: int, *, scratch: Path, data: Path | None, tokens: Path | None) -> Cohort:
    """A cohort by name, split so that it tests one of its folds."""
    if name == "phantom":
        return _phantom(scratch)
    if data is None or tokens is None:
        raise SystemExit("milk10k needs --data, the folder with cases.csv, and --tokens, a token cache of its images")
    return _milk10k(fold, scratch, data, tokens)


def train(cohort: Cohort, scratch: Path, seed: int) -> AlignedFusionClassifier:
    """The standard model, trained for 15 epochs and calibrated on the validation cases; loaded if it was trained before."""
    folder = scratch / f"{cohort.name}-{seed}"
    if (folder / "config.json").is_file():
        return AlignedFusionClassifier.from_pretrained(folder)
    torch.manual_seed(seed)
    images = cohort.train.image
    model = standard(
        cohort.schema,
        cohort.class_names,
        backbone=None,
        images=tuple(images),
        num_features=next(iter(images.values())).shape[-1],
        dim=64,
    )
    settings = TrainingSettings(epochs=15, batch_size=64, seed=seed)
    fit(model, cohort.train, cohort.valid, scratch / f"checkpoints-{cohort.name}-{seed}", settings, progress=False)
    model.save_pretrained(folder)
    return model.eval()


def _phantom(scratch: Path) -> Cohort:
    """Complete reports, and tokens of a small backbone that was trained on other drawn lesions."""
    sizes = {"train": 2000, "valid": 500, "test": 1000}
    file = scratch / "phantom.pt"
    made = phantom.make(sum(sizes.values()), seed=5, image_size=demo_models.IMAGE_SIZE)
    if not file.is_file():
        visual = demo_models.pretrain()
        pixels = made.cases(**{name: visual.preprocessing[name] for name in ("mean", "std")}).image
        with torch.inference_mode():
            encoded = torch.cat([visual.features(batch) for batch in pixels.split(256)])
        _save(encoded.clone(), file)
    splits = torch.repeat_interleave(torch.arange(3), torch.tensor(list(sizes.values())))
    image = {"image": torch.load(file)}
    return _cohort("phantom", phantom.SCHEMA, phantom.CLASS_NAMES, image, made.codes, made.labels, splits)


def _milk10k(fold: int, scratch: Path, data: Path, tokens: Path) -> Cohort:
    """One fold for testing, the next one for validation, three for training; 4 x 4 tokens of 256 features."""
    frame = read_table(data / "cases.csv")
    order = np.random.default_rng(0).permutation(len(frame))
    splits = torch.zeros(len(frame), dtype=torch.int64)
    folds = np.array_split(order, FOLDS["milk10k"])
    splits[torch.from_numpy(folds[fold])] = 2
    splits[torch.from_numpy(folds[(fold + 1) % len(folds)])] = 1
    rows = (splits == 0).numpy()
    options = milk10k.OPTIONS | {"age_approx": ColumnOptions(kind="numeric", units="years", edges=AGES)}
    schema = AttributeSchema.from_table(frame[rows], milk10k.ATTRIBUTES["patient4+derm7"], options=options)
    labels = torch.tensor([milk10k.CLASSES.index(label) for label in frame["label"]])

    file = scratch / f"milk10k-fold{fold}.pt"
    if not file.is_file():
        _save(_reduced(frame, data, TokenCache(tokens), splits == 0), file)
    codes = schema.encode(frame, unseen="unknown")
    return _cohort("milk10k", schema, milk10k.CLASSES, torch.load(file), codes, labels, splits)


def _reduced(frame: object, data: Path, cache: TokenCache, is_train: Tensor) -> dict[str, Tensor]:
    """Tokens averaged to 4 x 4 and projected to the first principal components of the training cases."""
    pooled = {}
    for m in milk10k.IMAGES:
        rows = cache.rows([data / path for path in frame[m]])  # type: ignore[index]
        pooled[m] = torch.cat([_pool(cache.file.read(batch.tolist()).float()) for batch in rows.split(256)])
    tokens = torch.cat([stream[is_train].flatten(0, 1) for stream in pooled.values()])
    mean = tokens.mean(0)
    covariance = sum((batch - mean).T @ (batch - mean) for batch in tokens.split(8192))
    components = torch.linalg.eigh(covariance).eigenvectors[:, -FEATURES:]
    return {m: (stream - mean) @ components for m, stream in pooled.items()}


def _save(tokens: object, file: Path) -> None:
    """Write a file whole or not at all; several processes may write the same."""
    part = file.with_suffix(f".{os.getpid()}")
    torch.save(tokens, part)
    part.replace(file)


def _pool(tokens: Tensor) -> Tensor:
    side = int(tokens.shape[1] ** 0.5)
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(maps, 4).flatten(2).transpose(1, 2)


def _cohort(
    name: str,
    schema: AttributeSchema,
    class_names: tuple[str, ...],
    image: dict[str, Tensor],
    codes: Tensor,
    labels: Tensor,
    splits: Tensor,
) -> Cohort:
    parts = []
    for number in range(3):
        rows = splits == number
        parts.append(TensorCases({m: stream[rows] for m, stream in image.items()}, codes[rows], labels[rows]))
    return Cohort(name, schema, class_names, *parts)
