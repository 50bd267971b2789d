"""Measure `alignedfusion.explanation`: contributions that add up and find what matters, and questions worth asking.

python benchmarks/explanation.py -o runs/explanation                                        # the phantom
python benchmarks/explanation.py -o runs/explanation --data FOLDER --tokens CACHE           # and MILK10k

FOLDER holds cases.csv of MILK10k; CACHE holds the tokens of its images, as `alignedfusion tokens` writes them. A seed of the
phantom changes the model. Seeds of MILK10k go through five folds, so that five seeds test each case once. The same command
continues an interrupted one, and writes explanation.md and questions.png.
"""

from __future__ import annotations

import argparse
import json
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import explanation_contributions as parts
import explanation_questions as questions
import numpy as np
import torch
from explanation_cohorts import FOLDS, load, train

from alignedfusion.tables.files import write_json

ORDERS = ("suggested", "fixed", "most uncertain", "random")
COLORS = ("black", "C0", "C1", "C2")


def main() -> None:
    """Measure what is not measured yet, then write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--tokens", type=Path, metavar="CACHE")
    parser.add_argument("--seeds", type=int, default=3, help="models of the phantom")
    parser.add_argument("--milk10k-seeds", type=int, default=5, help="models of MILK10k")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    options = parser.parse_args()
    out = options.output
    out.mkdir(parents=True, exist_ok=True)
    seeds = {"phantom": options.seeds} | ({} if options.data is None else {"milk10k": options.milk10k_seeds})
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        jobs = [
            pool.submit(measure, name, seed, out, options.data, options.tokens)
            for name in reversed(seeds)
            for seed in range(seeds[name])
        ]
        for job in jobs:
            job.result()

    lines = [*sums(out), *decisive(out, options.seeds)]
    curves = {}
    for name, count in seeds.items():
        lines += deletion_lines(name, out, count)
        curves[name] = collect(f"questions-{name}", out, count)
        lines += question_lines(name, curves[name])
    (out / "explanation.md").write_text("\n".join(lines) + "\n", "utf-8")
    draw(curves, out / "questions.png")
    print("\n".join(lines))


def measure(name: str, seed: int, out: Path, data: Path | None, tokens: Path | None) -> None:
    """The deletion curves and the answers of one seed, in one file each."""
    deleted, answered = (out / f"{part}-{name}-{seed}.npz" for part in ("deletion", "questions"))
    if deleted.is_file() and answered.is_file():
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cohort = load(name, seed % FOLDS[name], scratch=out, data=data, tokens=tokens)
    model = train(cohort, out, seed)
    if not deleted.is_file():
        save(deleted, {name: curve.numpy() for name, curve in parts.deletion(model, cohort.test, seed).items()})
    if answered.is_file():
        return
    order = questions.best_fixed_order(model, cohort.valid)
    scores = {
        "suggested": questions.suggested(model, cohort.test),
        "fixed": questions.in_order(order),
        "most uncertain": questions.most_uncertain(model, cohort.test),
        "random": questions.at_random(cohort.test, seed),
    }
    arrays = {}
    for name, score in scores.items():
        probabilities = questions.reveal(model, cohort.test, score)
        true = probabilities[torch.arange(len(probabilities)), :, cohort.test.labels]
        arrays[f"{name} loss"] = -true.clamp(min=1e-9).log().numpy()
        arrays[f"{name} right"] = (probabilities.argmax(-1) == cohort.test.labels[:, None]).numpy()
    save(answered, arrays)


def save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a file whole or not at all."""
    part = file.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)
    part.replace(file)


def sums(out: Path) -> list[str]:
    """The largest error of 200 random models."""
    file = out / "sums.json"
    if not file.is_file():
        write_json(file, {"error": parts.largest_error(200)})
    error = json.loads(file.read_text("utf-8"))["error"]
    return [f"200 random models, three cases each: the sums differ from the logits by at most {error:.1e}.", ""]


def decisive(out: Path, seeds: int) -> list[str]:
    """How often a decisive attribute of the phantom ranks first."""
    rows = []
    for seed in range(seeds):
        if not (file := out / f"decisive-{seed}.json").is_file():
            write_json(file, parts.decisive_attributes(out, seed))
        rows.append(json.loads(file.read_text("utf-8")))
    mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    share = {key: f"{100 * mean[key]:.1f} %" for key in ("hits", "by_chance", "hits_agreed")}
    return [
        f"Phantom, {mean['cases']:.0f} of {mean['of']:,.0f} cases whose class an attribute decides: such an attribute ranks "
        f"first in {share['hits']}, by chance in {share['by_chance']}; in {share['hits_agreed']} of the "
        f"{mean['cases_agreed']:.0f} cases for which the model predicts the exactly most probable class.",
        "",
    ]


def deletion_lines(name: str, out: Path, seeds: int) -> list[str]:
    """The area between the curves of random and of ranked deletion, averaged over seeds for each case."""
    curves = collect(f"deletion-{name}", out, seeds)
    areas = (curves["random"] - curves["ranked"]).mean(1)
    start, *halves = curves["ranked"][:, 0].mean(), curves["ranked"][:, 8].mean(), curves["random"][:, 8].mean()
    low, high = interval(areas)
    return [
        f"{name}, {len(areas)} cases: deleting half of the patches lowers the probability of the predicted class from "
        f"{start:.3f} to {halves[0]:.3f} by rank and to {halves[1]:.3f} at random; area between the curves "
        f"{areas.mean():.3f} (95 % interval {low:.3f} to {high:.3f}).",
        "",
    ]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap over cases of a mean."""
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return float(low), float(high)


def collect(stem: str, out: Path, seeds: int) -> dict[str, np.ndarray]:
    """Each stored array (n, ...), averaged over the seeds of a fold, and the folds one below the other."""
    folds = FOLDS[stem.partition("-")[2]]
    files = [[np.load(out / f"{stem}-{seed}.npz") for seed in range(fold, seeds, folds)] for fold in range(folds)]
    tested = [same for same in files if same]
    return {key: np.concatenate([np.mean([f[key] for f in same], axis=0) for same in tested]) for key in tested[0][0]}


def question_lines(name: str, curves: dict[str, np.ndarray]) -> list[str]:
    """Cross-entropy and accuracy after k answers, and a paired test over cases of the mean over k."""
    from scipy.stats import ttest_rel

    last = curves["random loss"].shape[1] - 1
    steps = [k for k in (0, 1, 2, 3, 5, 7) if k < last] + [last]
    head = " | ".join(f"{k}" for k in steps)
    lines = [f"{name}, {len(curves['random loss'])} cases, cross-entropy (accuracy, %) after k answers:", ""]
    lines += [
        f"| order, k = | {head} | mean of 1 to {last - 1} | suggested is lower by | p |",
        "|---" * (len(steps) + 4) + "|",
    ]
    between = {order: curves[f"{order} loss"][:, 1:last].mean(1) for order in ORDERS}
    for order in ORDERS:
        loss, right = curves[f"{order} loss"].mean(0), 100 * curves[f"{order} right"].mean(0)
        cells = [f"{loss[k]:.3f} ({right[k]:.1f})" for k in steps] + [f"{between[order].mean():.3f}"]
        difference = between[order] - between["suggested"]
        if order == "suggested":
            cells += ["", ""]
        else:
            low, high = interval(difference)
            cells += [f"{difference.mean():.3f} ({low:.3f} to {high:.3f})"]
            cells += [f"{ttest_rel(between[order], between['suggested']).pvalue:.2g}"]
        lines.append(f"| {order} | {' | '.join(cells)} |")
    return [*lines, ""]


def draw(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Cross-entropy against the number of answers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(curves), 3.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for order, color in zip(ORDERS, COLORS, strict=True):
            loss = values[f"{order} loss"].mean(0)
            axes.plot(range(len(loss)), loss, "o-", markersize=3, color=color, label=order)
        axes.set(title=name, xlabel="answers", ylabel="cross-entropy")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
