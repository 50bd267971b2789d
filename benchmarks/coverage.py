"""Coverage of conformal prediction sets on MILK10k by the share of missing attributes, with and without separate calibration.

python benchmarks/coverage.py --data FOLDER --tokens TOKENS -o runs/rare

Reads the probabilities that `rare_classes.py` stored in OUT/folds, or trains the models first. Sets are calibrated on the
validation cases of each fold. The script prints a table and writes it to OUT.
"""

from __future__ import annotations

import argparse

import numpy as np
from rare_classes import expected_f1, most_probable
from stored_folds import TEST_RATES, add_options, stored_folds

from alignedfusion.evaluation import PredictionSets

RARE = 100
"""Classes with fewer cases in all count as rare."""
CALIBRATIONS = ("complete reports", "all rates pooled", "by share mentioned")


def test(fold: dict[str, np.ndarray], kind: str, calibration: str, decides: bool, coverage: float) -> np.ndarray:
    """Which classes are in the sets of the test cases, bool (rates, n, C)."""
    probabilities, mentioned = fold["valid"], fold["valid_mentioned"]
    labels, others = fold["valid_labels"], fold["test_mentioned"]
    if calibration == "complete reports":
        probabilities = probabilities[:1]
    elif calibration == "all rates pooled":  # every version of a case is a case of its own
        labels = np.tile(labels, len(probabilities))
        probabilities = probabilities.reshape(1, -1, probabilities.shape[-1])
    if calibration != "by share mentioned":
        mentioned, others = np.ones(probabilities.shape[:2]), np.ones_like(others)
    offsets = expected_f1(fold) if decides else most_probable(fold)
    sets = PredictionSets.calibrate(
        probabilities, labels, mentioned, kind=kind, coverage=coverage, offsets=offsets.tolist()
    )
    return sets(fold["test"], others)


def main() -> None:
    """Print coverage and size by missing rate, and the coverage of rare classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--coverage", type=float, default=0.9)
    options = parser.parse_args()
    folds = list(stored_folds(options))
    labels = np.concatenate([fold["test_labels"] for fold in folds])
    is_rare = np.isin(labels, np.flatnonzero(np.bincount(labels) < RARE * options.seeds))
    rates = " | ".join(f"{rate:.0%}" for rate in TEST_RATES)
    lines = [f"| sets | decision | calibrated on | {rates} | rare classes |", "|---" * (len(TEST_RATES) + 4) + "|"]
    for kind in ("lac", "aps", "class_conditional"):
        for decides in (False, True):
            for calibration in CALIBRATIONS:
                sets = np.concatenate([test(f, kind, calibration, decides, options.coverage) for f in folds], axis=1)
                is_covered = sets[:, np.arange(len(labels)), labels]  # (rates, n)
                cells = [
                    f"{100 * share:.1f} ({size:.2f})"
                    for share, size in zip(is_covered.mean(1), sets.sum(-1).mean(1), strict=True)
                ]
                name = "power of the prior" if decides else "most probable"
                rare = f"{100 * is_covered[0, is_rare].mean():.0f}"
                lines.append(f"| {kind} | {name} | {calibration} | {' | '.join(cells)} | {rare} |")
    text = "\n".join(lines)
    (options.output / "coverage.md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
