"""Rare classes on MILK10k: macro F1 of decisions from the same probabilities, and of class weights in training.

python benchmarks/rare_classes.py --data FOLDER --tokens TOKENS -o runs/rare

TOKENS is the folder of `alignedfusion tokens`. Five folds; each decision is chosen on the validation cases of its fold. The
probabilities of each fold are stored in OUT/folds, which `coverage.py` reads, too. The script prints a table with paired
bootstrap tests against the most probable class, and writes it to OUT.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stored_folds import TEST_RATES, add_options, stored_folds

from alignedfusion.evaluation import compute_metrics
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.training.decision import EXPONENTS, choose_exponent

STEPS = np.linspace(-2, 2, 21)
METRICS = ("macro_f1", "balanced_accuracy", "accuracy", "cross_entropy")
Decision = Callable[[dict[str, np.ndarray]], np.ndarray]


def log_probabilities(fold: dict[str, np.ndarray], split: str) -> np.ndarray:
    """(rates, n, C)."""
    return np.log(np.maximum(fold[split].astype(float), 1e-12))


def most_probable(fold: dict[str, np.ndarray]) -> np.ndarray:
    """Offsets (C,) of the most probable class."""
    return np.zeros_like(fold["log_prior"])


def fixed(exponent: float) -> Decision:
    """Divide by the class shares to a fixed power."""
    return lambda fold: -exponent * fold["log_prior"]


def expected_f1(fold: dict[str, np.ndarray]) -> np.ndarray:
    """The library's choice: the power with the highest expected macro F1 on the validation cases."""
    logits = torch.from_numpy(log_probabilities(fold, "valid")[: len(RATES)])
    return -choose_exponent(logits, torch.from_numpy(fold["log_prior"])) * fold["log_prior"]


def observed_f1(fold: dict[str, np.ndarray]) -> np.ndarray:
    """The power with the highest macro F1 of the labels of the validation cases."""
    logits, labels = log_probabilities(fold, "valid")[0], fold["valid_labels"]
    return -fold["log_prior"] * max(EXPONENTS, key=lambda e: macro_f1(labels, logits - e * fold["log_prior"]))


def class_thresholds(fold: dict[str, np.ndarray]) -> np.ndarray:
    """An offset per class, by coordinate ascent on the macro F1 of the validation labels."""
    logits, labels = log_probabilities(fold, "valid")[0], fold["valid_labels"]
    offsets = most_probable(fold)
    for _ in range(3):
        for c in range(len(offsets)):
            tries = [offsets + step * (np.arange(len(offsets)) == c) for step in (0.0, *STEPS)]
            offsets = max(tries, key=lambda o: macro_f1(labels, logits + o))
    return offsets


def macro_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """Macro F1 over the classes that have a case."""
    count = scores.shape[1]
    confusion = np.bincount(labels * count + scores.argmax(1), minlength=count**2).reshape(count, count)
    total = confusion.sum(0) + confusion.sum(1)
    return float((2 * np.diag(confusion) / np.maximum(total, 1))[confusion.sum(1) > 0].mean())


ROWS: dict[str, tuple[str, Decision]] = {
    "most probable class (default)": ("none", most_probable),
    "prior to the power 1/2": ("none", fixed(0.5)),
    "prior to the power 1 (Menon et al.)": ("none", fixed(1.0)),
    "**power by expected macro F1** (`logit_adjustment`)": ("none", expected_f1),
    "power by macro F1 of validation labels": ("none", observed_f1),
    "threshold per class": ("none", class_thresholds),
    "class weights, most probable class": ("class_weights", most_probable),
    "class weights, power by expected macro F1 (`class_weights`)": ("class_weights", expected_f1),
}


def test(folds: list[dict[str, np.ndarray]], decision: Decision, rate: float) -> dict[str, Any]:
    """Metrics of the joined test cases of all folds, and macro F1 in 2,000 resamples with the same draws for every row."""
    index = TEST_RATES.index(rate)
    scores = np.concatenate([log_probabilities(fold, "test")[index] + decision(fold) for fold in folds])
    probabilities = np.concatenate([fold["test"][index] for fold in folds])
    labels, cases = (np.concatenate([fold[name] for fold in folds]) for name in ("test_labels", "test_rows"))
    predicted = scores.argmax(1)
    count = int(cases.max()) + 1
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 2000)[:, cases].astype(float)
    is_label, is_predicted = np.eye(scores.shape[1])[labels], np.eye(scores.shape[1])[predicted]
    hits, support, claims = (weights @ matrix for matrix in (is_label * is_predicted, is_label, is_predicted))
    draws = np.where(support > 0, 2 * hits / np.maximum(support + claims, 1), 0.0).sum(1) / (support > 0).sum(1)
    return {"value": compute_metrics(probabilities, labels, predicted=predicted), "macro_f1": draws}


def main() -> None:
    """Print the table of all decisions, and the same at 50 % missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    folds = {balance: list(stored_folds(options, balance)) for balance in ("none", "class_weights")}
    lines = []
    for rate in (0.0, 0.5):
        lines += [
            f"\n{rate:.0%} of the attributes missing\n",
            "| decision | " + " | ".join(METRICS) + " | macro F1 gained |",
        ]
        lines.append("|---" * (len(METRICS) + 2) + "|")
        found = {name: test(folds[balance], decision, rate) for name, (balance, decision) in ROWS.items()}
        default = next(iter(found.values()))
        for name, row in found.items():
            gain = row["macro_f1"] - default["macro_f1"]
            low, high = np.quantile(gain, (0.025, 0.975))
            change = "" if row is default else f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"
            cells = [f"{row['value'][metric]:.3f}" for metric in METRICS]
            lines.append(f"| {name} | {' | '.join(cells)} | {change} |")
    text = "\n".join(lines)
    (options.output / "rare_classes.md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
