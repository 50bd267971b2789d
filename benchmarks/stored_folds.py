"""Cross-validated predictions of the default recipe on MILK10k, stored once and read by `rare_classes.py` and `coverage.py`."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import Fold, ours
from sources import FOLDS, open_source, store
from torch import Tensor
from tqdm.auto import tqdm

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation import outputs
from alignedfusion.evaluation.metrics import RATES

TEST_RATES = (*RATES, 0.75, 1.0)
BATCH_SIZE = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the data and the models."""
    parser.add_argument("--data", type=Path, required=True, help="folder of MILK10k")
    parser.add_argument("--tokens", type=Path, required=True, help="folder that `alignedfusion tokens` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--attributes", default="patient4+derm7", help="preset of attributes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--dim", type=int, default=64)


def stored_folds(options: argparse.Namespace, balance: str = "none") -> Iterator[dict[str, np.ndarray]]:
    """Predictions of each fold and seed; models without stored predictions are trained first.

    Yields:
        `valid_labels`, `test_labels` and `test_rows` (n,); `valid`, `test` (rates, n, C), probabilities at `TEST_RATES`;
        `valid_mentioned`, `test_mentioned` (rates, n), the share of mentioned attributes; `log_prior` (C,); `fold` and `seed`.
    """
    source: Any = None
    units = [(fold, seed) for seed in range(options.seeds) for fold in range(FOLDS)]
    for fold, seed in tqdm(units, desc=balance, unit="fold"):
        name = f"{balance}-dim{options.dim}-epochs{options.epochs}-seed{seed}-fold{fold}.npz"
        file = options.output / "folds" / name
        if not file.is_file():
            source = source or open_source(
                "milk10k", options.data, options.attributes, options.output, {"tokens": options.tokens}
            )
            store(file, _train(source, fold, seed, balance, options))
        yield {**np.load(file), "fold": np.array(fold), "seed": np.array(seed)}


def _train(source: Any, number: int, seed: int, balance: str, options: argparse.Namespace) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = source.split("cv", number, seed)
    fold, test = Fold.prepare(source, rows, dim=options.dim, epochs=options.epochs, seed=seed)
    cases = {"valid": fold.valid, "test": test}
    training: dict[str, Any] = {"batch_size": BATCH_SIZE} | ({} if balance == "none" else {"balance": balance})
    model: Any = ours(training=training)(fold)
    stored: dict[str, Any] = {"log_prior": model.log_prior.numpy(), "test_rows": rows["test"]}
    for split in ("valid", "test"):
        variants = [
            drop_attributes(cases[split].codes, rate, fold.schema, cases=rows[split].tolist(), seed=seed)
            for rate in TEST_RATES
        ]
        logits: Tensor = outputs(model, cases[split], variants, "logits", batch_size=256, progress=False)
        stored[split] = logits.double().softmax(-1).float().numpy()
        stored[f"{split}_mentioned"] = np.stack([(v != UNKNOWN).float().mean(1).numpy() for v in variants])
        stored[f"{split}_labels"] = cases[split].labels.numpy()
    return stored
