"""Bootstrap of metrics: every resample is a row of case weights, and all rows are computed at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from alignedfusion.evaluation.predictions import Predictions

BINS = 15
"""Number of bins of the calibration error."""
_CELLS = 2_000_000  # weights held at once


def resample(
    predictions: Predictions,
    per_case: Mapping[str, np.ndarray] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Metrics of bootstrap resamples.

    Cases are drawn with replacement; with groups, whole groups are. Two models resampled with the same seed and the same cases
    get the same draws, so the difference of their results is a paired bootstrap.

    Args:
        predictions: Probabilities, labels and groups of n cases.
        per_case: Further metrics that are means over the cases, as their values (n,) by name.
        resamples: Number of resamples R.
        seed: Seed of the draws.

    Returns:
        Results as `weighted_metrics` returns them, for R resamples.
    """
    parts = []
    for weights in draw_weights(predictions.groups, resamples, seed):
        means = {name: weights @ values / weights.sum(1) for name, values in (per_case or {}).items()}
        parts.append(weighted_metrics(predictions, weights) | means)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def weighted_metrics(predictions: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of weighted cases, for several vectors of weights at once.

    Args:
        predictions: n cases.
        weights: (R, n), how often each case counts.

    Returns:
        (R,) for each metric of all classes together; (R, C) for "precision", "recall", "f1", "auc" and "ap" (average precision)
        of each class. nan where a metric is undefined. Means over classes take the classes that have a case.
    """
    probabilities, labels = predictions.probabilities, predictions.labels
    classes = np.arange(probabilities.shape[1])
    is_label, is_predicted = labels[:, None] == classes, predictions.predicted[:, None] == classes  # (n, C) each
    total, support = weights.sum(1), weights @ is_label
    hits, claims = weights @ (is_label & is_predicted), weights @ is_predicted  # (R, C) each
    result = {"precision": ratio(hits, claims), "recall": ratio(hits, support)}
    result["f1"] = np.where(support > 0, ratio(2 * hits, support + claims), np.nan)
    ranked = [ranking(probabilities[:, c], is_label[:, c], weights) for c in classes]
    result["auc"], result["ap"] = np.stack(ranked, axis=-1)
    return result | {
        "accuracy": hits.sum(1) / total,
        "balanced_accuracy": mean(result["recall"], support),
        "macro_f1": mean(result["f1"], support),
        "macro_auc": mean(result["auc"], support),
        "average_precision": mean(result["ap"], support),
        "cross_entropy": weights @ cross_entropies(probabilities, labels) / total,
        "brier": weights @ brier_scores(probabilities, labels) / total,
        "calibration_error": _calibration_errors(probabilities, labels, weights),
    }


def cross_entropies(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The cross-entropy of each case (n,); a probability of zero counts as the smallest step of its type."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(chosen, np.finfo(probabilities.dtype).eps))


def brier_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The Brier score of each case (n,): squared differences from the label, summed over the classes; 0 to 2."""
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1)


def calibration_bins(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of equal width that each confidence (n,) falls into."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def draw_weights(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each case counts in each resample: weights (some of the resamples, n) at a time.

    Args:
        groups: (n,) numbers of the groups, from 0.
        resamples: Number of resamples.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    step = max(1, _CELLS // len(groups))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)[:, groups].astype(float)


def ranking(scores: np.ndarray, is_label: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve and average precision of one class against the rest (2, R)."""
    if not len(scores):
        return np.full((2, len(weights)), np.nan)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)  # the last case of each distinct score
    ordered = weights[:, order]
    hits = np.cumsum(ordered * is_label[order], axis=1)[:, ends]
    claims = np.cumsum(ordered, axis=1)[:, ends]
    new_hits, new_claims = (np.diff(counts, axis=1, prepend=0.0) for counts in (hits, claims))
    positives, negatives = hits[:, -1], claims[:, -1] - hits[:, -1]
    area = ((new_claims - new_hits) * (hits - new_hits / 2)).sum(1)
    precision = np.divide(hits, claims, out=np.zeros_like(hits), where=claims > 0)
    return np.stack(
        [ratio(area, positives * negatives), ratio((new_hits * precision).sum(1), positives)],
    )


def _calibration_errors(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == labels
    is_in_bin = calibration_bins(confidence)[:, None] == np.arange(BINS)
    gaps = weights @ (is_in_bin * (is_right - confidence)[:, None])  # (R, bins)
    return np.abs(gaps).sum(1) / weights.sum(1)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient, nan where the divisor is zero."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def mean(values: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Mean over the classes (R, C) that have a case and a value; nan if there are none."""
    is_counted = (support > 0) & ~np.isnan(values)
    return ratio(np.where(is_counted, values, 0.0).sum(1), is_counted.sum(1).astype(float))
