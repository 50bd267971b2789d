"""Frozen backbone, last stage tuned, whole backbone tuned: the images of MILK10k alone, and fused with attributes.

python benchmarks/tune_backbone.py --data MILK10K --weights FILE -o OUT                           # small images, one fold
python benchmarks/tune_backbone.py --data MILK10K --image-size 260 --folds 5 --epochs 10 -o OUT   # on a GPU

Each fold tunes a backbone on its training cases with an image head, stores its tokens, and trains the image-only and the fused
model of `paper_tables.py` on them. The same command continues where it was interrupted. The script prints a table with paired
tests against the frozen backbone, and writes it to OUT.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import OURS, Fold, models_at
from scipy.stats import ttest_rel
from sources import FOLDS, Source, milk10k_tokens, store

from alignedfusion.datasets import milk10k
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation import compute_metrics, predict
from alignedfusion.evaluation.bootstrap import cross_entropies
from alignedfusion.modules.backbones import Backbone
from alignedfusion.training import TrainingSettings, token_writer, tuning
from alignedfusion.training.tuned_weights import WEIGHTS, check_unseen

FROZEN = "none"
NAMES = {FROZEN: "frozen", "last:1": "last stage", "whole": "whole"}
RATES = (0.0, 0.5, 1.0)
ROWS = ("image only", OURS)
SHOWN = ("cross_entropy", "accuracy", "macro_f1", "balanced_accuracy", "macro_auc")
EPOCHS = 15
"""Epochs of training on tokens."""


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MILK10k")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--tune", nargs="+", default=list(NAMES), help="kinds of tuning (default: none last:1 whole)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite2", help="timm model")
    parser.add_argument("--weights", type=Path, help="local weights of the backbone (default: timm's)")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument(
        "--folds", type=int, default=1, choices=range(1, FOLDS + 1), help="number of the five folds to test"
    )
    parser.add_argument("--epochs", type=int, default=4, help="epochs of tuning")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of training on tokens")
    parser.add_argument("--attributes", default="patient4+derm7", help="preset of attributes")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    for fold in range(options.folds):
        manifest = open_fold(fold, options)
        for kind in options.tune:
            for seed in range(options.seeds):
                if not result_file(kind, fold, seed, options).is_file():
                    store(result_file(kind, fold, seed, options), test(kind, fold, seed, manifest, options))
    text = table(options)
    (options.output / "tune_backbone.md").write_text(text + "\n", "utf-8")
    print(text)


def open_fold(fold: int, options: argparse.Namespace) -> Manifest:
    """MILK10k with the training, validation and test cases of a fold."""
    manifest = milk10k.load(options.data, attributes=options.attributes)
    labels = torch.tensor([manifest.class_names.index(str(label)) for label in manifest.frame["label"]])
    source = Source("", manifest.frame, (), labels, manifest.class_names, {}, manifest.splits)
    splits = np.empty(len(labels), dtype=object)
    for split, rows in source.split("cv", fold, seed=0).items():
        splits[rows] = split
    columns = CaseColumns(milk10k.IMAGES, "label", milk10k.ATTRIBUTES[options.attributes], split="split")
    return Manifest.from_frame(
        manifest.frame.assign(split=splits), columns, root=options.data, options=manifest.options
    )


def tokens_of(kind: str, fold: int, manifest: Manifest, options: argparse.Namespace) -> Path:
    """The folder of the tokens of a backbone, which is tuned first."""
    weights: Any = options.weights or True
    name = f"{options.backbone}-{options.image_size}-{kind.replace(':', '')}"
    if kind != FROZEN:
        name += f"-epochs{options.epochs}-fold{fold}"
        backbone = Backbone(options.backbone, weights, kind, options.image_size)
        settings = TrainingSettings(epochs=options.epochs)
        print(name, tuning.tune(manifest, options.output / name, backbone, settings, workers=options.workers))
        weights = options.output / name / WEIGHTS
    check_unseen(manifest, weights)
    folder = options.output / f"tokens-{name}"
    frozen = Backbone(options.backbone, weights, image_size=options.image_size)
    paths = [path for column in manifest.paths(manifest.frame).values() for path in column if path is not None]
    token_writer.write(paths, folder, backbone=frozen, workers=options.workers)
    return folder


def test(kind: str, fold: int, seed: int, manifest: Manifest, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Train both models on the tokens of a backbone. Returns their probabilities (rates, n, C) for the test cases."""
    folder = tokens_of(kind, fold, manifest, options)
    rows = {split: np.flatnonzero(manifest.splits == split) for split in ("train", "valid", "test")}
    source = milk10k_tokens(options.data, options.attributes, folder, options.output)
    data, cases = Fold.prepare(source, rows, dim=64, epochs=EPOCHS, seed=seed)
    variants = [drop_attributes(cases.codes, rate, data.schema, cases=rows["test"].tolist()) for rate in RATES]
    found = {row: predict(models_at(row, data, 0.0), cases, variants, batch_size=256, progress=False) for row in ROWS}
    return {"labels": cases.labels.numpy(), **found}


def result_file(kind: str, fold: int, seed: int, options: argparse.Namespace) -> Path:
    """File of the predictions."""
    epochs = "" if kind == FROZEN else f"-epochs{options.epochs}"
    name = f"{options.backbone}-{options.image_size}-{kind.replace(':', '')}{epochs}-fold{fold}-seed{seed}.npz"
    return options.output / "predictions" / name


def table(options: argparse.Namespace) -> str:
    """Metrics of the joined test cases, means over seeds, and the change from the frozen backbone with a paired t-test."""
    lines = [
        f"{options.backbone}, {options.image_size} px, {options.folds} of {FOLDS} folds, {options.seeds} seeds; changes are "
        f"those from the frozen backbone (paired t-test over the cases).",
        "",
        f"| backbone | model | missing | {' | '.join(SHOWN)} | change in cross-entropy | change in accuracy, points |",
        "|---" * (len(SHOWN) + 5) + "|",
    ]
    for row, (number, rate) in ((row, column) for row in ROWS for column in enumerate(RATES)):
        if row != OURS and number:
            continue
        before: dict[str, np.ndarray] = {}
        for kind in options.tune:
            metrics, per_case = summarise(kind, row, number, options)
            cells = [NAMES.get(kind, kind), row, f"{rate:.0%}" if row == OURS else "-"]
            cells += [f"{metrics[metric]:.3f}" for metric in SHOWN]
            for metric, scale, digits in (("cross_entropy", 1, 3), ("accuracy", 100, 1)):
                if before:
                    change = per_case[metric] - before[metric]
                    p = ttest_rel(per_case[metric], before[metric]).pvalue
                    cells.append(f"{scale * change.mean():+.{digits}f} (p = {p:.2g})")
                else:
                    cells.append("")
            before = before or per_case
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summarise(
    kind: str, row: str, number: int, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics averaged over seeds, and two metrics of each case averaged over seeds."""
    metrics, per_case = [], []
    for seed in range(options.seeds):
        folds = [np.load(result_file(kind, fold, seed, options)) for fold in range(options.folds)]
        labels = np.concatenate([fold["labels"] for fold in folds])
        probabilities = np.concatenate([fold[row][number] for fold in folds])
        metrics.append(compute_metrics(probabilities, labels))
        per_case.append((cross_entropies(probabilities, labels), probabilities.argmax(1) == labels))
    means = {metric: float(np.mean([seed[metric] for seed in metrics])) for metric in SHOWN}
    losses, hits = (np.mean(values, axis=0) for values in zip(*per_case, strict=True))
    return means, {"cross_entropy": losses, "accuracy": hits}


if __name__ == "__main__":
    main()
