"""Measure `alignedfusion.explanation`: contributions that add up and find what matters, and questions worth asking.

python benchmarks/explanation.py -o runs/explanation                                        # the phantom
python benchmarks/explanation.py -o runs/explanation --data FOLDER --tokens CACHE           # and MILK10k

FOLDER holds cases.csv of MILK10k; CACHE holds the tokens of its images, as `alignedfusion tokens` writes them. Models differ
between seeds, cases do not. The same command continues an interrupted one, and writes explanation.md and questions.png.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import explanation_contributions as parts
import explanation_questions as questions
import numpy as np
import torch
from explanation_cohorts import Cohort, load, train

from alignedfusion.tables.files import write_json

ORDERS = ("suggested", "fixed", "most uncertain", "random")
COLORS = ("black", "C0", "C1", "C2")


def main() -> None:
    """Measure what is not measured yet, then write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--tokens", type=Path, metavar="CACHE")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    out = options.output
    out.mkdir(parents=True, exist_ok=True)

    lines = [*sums(out), *decisive(out, options.seeds)]
    curves = {}
    for name in ("phantom",) if options.data is None else ("phantom", "milk10k"):
        cohort = load(name, scratch=out, data=options.data, tokens=options.tokens)
        for seed in range(options.seeds):
            measure(cohort, out, seed)
        lines += deletion_lines(name, out, options.seeds)
        curves[name] = collect(name, out, options.seeds)
        lines += question_lines(name, curves[name])
    (out / "explanation.md").write_text("\n".join(lines) + "\n", "utf-8")
    draw(curves, out / "questions.png")
    print("\n".join(lines))


def measure(cohort: Cohort, out: Path, seed: int) -> None:
    """The deletion curves and the answers of one seed, in one file each."""
    model = train(cohort, out, seed)
    if not (file := out / f"deletion-{cohort.name}-{seed}.npz").is_file():
        save(file, {name: curve.numpy() for name, curve in parts.deletion(model, cohort.test, seed).items()})
    if (file := out / f"questions-{cohort.name}-{seed}.npz").is_file():
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
    save(file, arrays)


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
    files = [np.load(out / f"deletion-{name}-{seed}.npz") for seed in range(seeds)]
    areas = np.mean([(file["random"] - file["ranked"]).mean(1) for file in files], axis=0)
    halves = [np.mean([file[curve][:, 8].mean() for file in files]) for curve in ("ranked", "random")]
    start = np.mean([file["ranked"][:, 0].mean() for file in files])
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


def collect(name: str, out: Path, seeds: int) -> dict[str, np.ndarray]:
    """Losses and hits (n, A + 1) of each order, averaged over seeds for each case."""
    files = [np.load(out / f"questions-{name}-{seed}.npz") for seed in range(seeds)]
    return {key: np.mean([file[key] for file in files], axis=0) for key in files[0]}


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
