"""Metrics of a model, also as a function of the share of missing attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.inference import predict

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
METRICS = ("accuracy", "balanced_accuracy", "macro_auc", "calibration_error")


def compute_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro AUC and expected calibration error.

    Args:
        probabilities: (n, C), rows that sum to one.
        labels: (n,) class indices.

    Returns:
        The four metrics by name, 0 to 1. The AUC is that of one class against the rest, averaged over the classes in `labels`;
        nan if there is only one.
    """
    from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

    if len(probabilities) != len(labels) or not len(labels):
        raise ValueError(f"need one row of probabilities per label, got {len(probabilities)} for {len(labels)}")
    predicted = probabilities.argmax(1)
    present = np.unique(labels)
    aucs = [float(roc_auc_score(labels == c, probabilities[:, c])) for c in present] if len(present) > 1 else [np.nan]
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0)),
        "macro_auc": float(np.mean(aucs)),
        "calibration_error": calibration_error(probabilities.max(1), predicted == labels),
    }


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| per bin of equal width, weighted by the number of cases.

    Args:
        confidence: (n,), probabilities of the predicted classes.
        is_right: (n,), whether the predicted class is the label.
        bins: Number of bins.
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=is_right.astype(float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def missing_sweep(
    model: nn.Module,
    cases: Any,
    schema: AttributeSchema,
    *,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = True,
) -> list[dict[str, float]]:
    """Metrics at each share of missing attributes, averaged over several draws of the missing cells.

    Args:
        model: An `AlignedFusionClassifier`.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`.
        schema: The attributes.
        rates: Shares of the mentioned cells to drop.
        seeds: Seeds of the draws; at rate 0 all draws are equal.
        progress: Whether to show a progress bar.

    Returns:
        One row per rate, with `missing` and the four metrics.
    """
    variants = [drop_attributes(cases.codes, rate, schema, seed=seed) for rate in rates for seed in seeds]
    probabilities = predict(model, cases, variants, progress=progress)
    labels = cases.labels.numpy()
    rows = []
    for i, rate in enumerate(rates):
        draws = [compute_metrics(probabilities[i * len(seeds) + j], labels) for j in range(len(seeds))]
        rows.append({"missing": float(rate)} | {name: float(np.mean([d[name] for d in draws])) for name in METRICS})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with equal keys as a table in plain text: shares in percent, the AUC with three digits."""
    names = list(rows[0])
    cells = [[_cell(row[name], name != "macro_auc") for name in names] for row in rows]
    heads = [name.replace("_", " ") for name in names]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in [heads, *cells]]
    return "\n".join(lines)


def _cell(value: Any, is_share: bool) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    return f"{value * 100:.1f} %" if is_share else f"{value:.3f}"
