"""The sections of a model card that hold figures, each a piece of Markdown; empty where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignedfusion.deployment.markdown import code, table

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier

_SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def training_data(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """How many cases of which classes it learned from, and was tested on."""
    cases = report.get("cases", {})
    if "train" not in cases:
        return ""
    data = report.get("training_data", {})
    source = f" of the table {code(data['source'])}" if data.get("source") else ""
    label = f", labelled by the column {code(settings['label'])}" if settings.get("label") else ""
    told = ", ".join(f"{cases[split]:,} {name}" for split, name in _SPLITS.items() if split in cases)
    text = f"## Training data\n\n{told} cases{source}{label}. Validation cases calibrated the model; test cases only tested it."
    if (classes := data.get("classes")) is None:
        return text
    rows = [[name, *(str(classes[split][name]) for split in _SPLITS)] for name in classes["train"]]
    return f"{text}\n\n{table(['class', *_SPLITS.values()], rows)}"


def metrics(report: Mapping[str, Any]) -> str:
    """How good it is when attributes are missing."""
    if not (rows := report.get("missing")):
        return ""
    shares = ("accuracy", "balanced_accuracy", "calibration_error")
    cells = [[_whole(row["missing"]), *(_share(row[name]) for name in shares), _auc(row["macro_auc"])] for row in rows]
    head = ["attributes missing", "accuracy", "balanced accuracy", "expected calibration error", "macro AUC"]
    notes = ["A share of the attributes that test reports mention was removed at random; means over the draws."]
    if (n := report.get("cases", {}).get("test")) is not None:
        error = math.sqrt(rows[0]["accuracy"] * (1 - rows[0]["accuracy"]) / n)
        notes.insert(0, f"{n:,} test cases: one standard error of the first accuracy is {100 * error:.1f} points.")
    if (chance := report.get("most_frequent_class")) is not None:
        notes.append(f"Chance level: the most frequent class is {_share(chance)} of the test cases.")
    return f"## Metrics by missing attributes\n\n{' '.join(notes)}\n\n{table(head, cells)}"


def calibration(model: AlignedFusionClassifier, report: Mapping[str, Any]) -> str:
    """How far its probabilities can be believed, and what the answer is a sum of."""
    lines = []
    if rows := report.get("missing"):
        first, last = rows[0], rows[-1]
        lines.append(
            f"On the test cases above, the probability of the class that is named differs from the share of right answers by "
            f"{_share(first['calibration_error'])} (expected calibration error) with {_whole(first['missing'])} of the "
            f"attributes missing, and by {_share(last['calibration_error'])} with {_whole(last['missing'])}. On other cases, "
            f"measure it anew."
        )
    if len(model.parts) > 1:
        weights = ", ".join(
            f"{part} {weight:.2f}" for part, weight in zip(model.parts, model.weights.tolist(), strict=True)
        )
        is_fitted = not model.weights.cpu().allclose(model.initial_weights(), rtol=1e-3)
        how = (
            "fitted to validation cases" if is_fitted and rows else "fitted" if is_fitted else "not fitted to any cases"
        )
        lines.append(
            f"The logits are the log prior plus the evidence of each part times its weight ({how}): {weights}."
        )
    return "## Calibration\n\n" + "\n\n".join(lines) if lines else ""


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _whole(value: float) -> str:
    return f"{100 * value:.0f} %"


def _auc(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"  # nan: only one class among the test cases
