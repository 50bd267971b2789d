"""Where fusion pays: MILK10k with 100 to all training cases, and tokens of several backbones and grids.

python benchmarks/how_much_data.py --data FOLDER --tokens LITE0 LITE2 --grids 4 7 -o OUT

The first two of five folds are tested. A sixth of the training cases calibrates. Predictions are stored in OUT, and the same
command continues after an interruption. Writes OUT/how_much_data.csv and .svg.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import OURS, Fold, models_at
from sources import milk10k_tokens, store
from tqdm.auto import tqdm

from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation import compute_metrics, predict

SIZES = (100, 300, 1000, 2934)
"""Training and validation cases together; the last is all of them."""
FOLDS = (0, 1)
RATES = (0.0, 0.5, 1.0)
ROWS = ("image only", "attributes only", "two experts", OURS)
EPOCHS = 15


def run(folder: Path, grid: int, size: int, fold: int, options: argparse.Namespace) -> None:
    """Train the rows on a part of the training cases of a fold, and store what they predict for its test cases."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    source = milk10k_tokens(options.data, options.preset, folder, options.output, grid=grid)
    rows = source.split("cv", fold, seed=0)
    order = np.random.default_rng(fold).permutation(np.concatenate([rows["train"], rows["valid"]]))[:size]
    valid, train = np.sort(order[: size // 6]), np.sort(order[size // 6 :])
    data, test = Fold.prepare(
        source,
        {"train": train, "valid": valid, "test": rows["test"]},
        dim=64,
        # A model of few cases needs more passes, though fewer steps.
        epochs=round(EPOCHS * max(1.0, (1000 / size) ** 0.5)),
        seed=0,
    )
    variants = [drop_attributes(test.codes, rate, data.schema, cases=rows["test"].tolist()) for rate in RATES]
    found = {row: predict(models_at(row, data, 0.0), test, variants, batch_size=256, progress=False) for row in ROWS}
    store(result_file(folder, grid, size, fold, options.output), {"labels": test.labels.numpy(), **found})


def result_file(folder: Path, grid: int, size: int, fold: int, output: Path) -> Path:
    """File of the predictions."""
    return output / f"{folder.name}-{grid}x{grid}-{size}-fold{fold}.npz"


def main() -> None:
    """Train what is missing, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MILK10k")
    parser.add_argument(
        "--tokens", type=Path, nargs="+", required=True, help="folders that `alignedfusion tokens` wrote"
    )
    parser.add_argument(
        "--grids", type=int, nargs="+", default=[4], help="patches per side that tokens are averaged to"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--preset", default="patient4+derm7", help="set of attributes")
    parser.add_argument("--jobs", type=int, default=1, help="number of models trained in parallel, one core each")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    kinds = list(product(options.tokens, options.grids))
    units = list(product(kinds, SIZES, FOLDS))
    todo = [(*kind, size, fold) for kind, size, fold in units]
    todo = [unit for unit in todo if not result_file(*unit, options.output).is_file()]
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = [pool.submit(run, *unit, options) for unit in todo]
        for done in tqdm(waiting, desc="units", unit="unit"):
            done.result()
    entries = [entry for kind in kinds for size in SIZES for entry in summarise(*kind, size, options.output)]
    with (options.output / "how_much_data.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, entries[0])
        writer.writeheader()
        writer.writerows(entries)
    draw(entries, options.output / "how_much_data.svg")
    print((options.output / "how_much_data.csv").read_text("utf-8"))


def summarise(folder: Path, grid: int, size: int, output: Path) -> list[dict[str, Any]]:
    """One entry per row and rate, over both folds."""
    stored = [np.load(result_file(folder, grid, size, fold, output)) for fold in FOLDS]
    labels = np.concatenate([fold["labels"] for fold in stored])
    entries = []
    for row, (number, rate) in product(ROWS, enumerate(RATES)):
        metrics = compute_metrics(np.concatenate([fold[row][number] for fold in stored]), labels)
        entries.append(
            {
                "tokens": f"{folder.name}, {grid * grid} tokens",
                "cases": size,
                "row": row,
                "missing": rate,
                "cross_entropy": round(metrics["cross_entropy"], 4),
                "accuracy": round(metrics["accuracy"], 4),
            }
        )
    return entries


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """One panel per kind of tokens: cross-entropy against the number of cases."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(entry["tokens"] for entry in entries))
    figure = Figure(figsize=(3.4 * len(kinds) + 0.6, 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(kinds), sharey=True))
    styles = {"image only": "C0", "attributes only": "C1", "two experts": "C2", OURS: "black"}
    for axes, kind in zip(panels, kinds, strict=True):
        for row, color in styles.items():
            for rate, line in ((0.0, "-"), (0.5, "--")):
                if row == "image only" and rate:
                    continue
                points = [
                    (e["cases"], e["cross_entropy"])
                    for e in entries
                    if (e["tokens"], e["row"], e["missing"]) == (kind, row, rate)
                ]
                label = row if not rate else None
                axes.plot(*zip(*points, strict=True), line, color=color, marker="o", markersize=3, label=label)
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel("training and validation cases")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("cross-entropy")
    panels[-1].plot([], [], "--", color="grey", label="half of the attributes missing")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
