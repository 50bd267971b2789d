"""Metrics of predictions, also as a function of the share of missing attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from alignedfusion.attributes import UNKNOWN, AttributeSchema
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation import bootstrap
from alignedfusion.evaluation.columns import OVERALL, check_columns, weighted_columns
from alignedfusion.evaluation.inference import decide, find_task, predict, prediction_sets
from alignedfusion.evaluation.predictions import check_predictions

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "macro_auc",
    "average_precision",
    "cross_entropy",
    "brier",
    "calibration_error",
)
_WITH_DIGITS = (
    "macro_auc",
    "auc",
    "macro_f1",
    "micro_f1",
    "f1",
    "average_precision",
    "ap",
    "cross_entropy",
    "brier",
    "set_size",
    "r2",
)
_IN_UNITS = ("mae", "rmse")


def compute_metrics(
    outputs: np.ndarray, labels: np.ndarray, *, predicted: np.ndarray | None = None, task: str = "multiclass"
) -> dict[str, float]:
    """Metrics of all classes, labels or targets together, without intervals.

    Args:
        outputs: (n, C): probabilities, or values in "regression".
        labels: (n,) class indices, or (n, C). Unknown labels take no part: negative ones, or nan in "regression".
        predicted: Predicted classes (n,) or labels (n, C), if they are not the most probable ones.
        task: "multiclass", "multilabel" or "regression".

    Returns:
        By name: `accuracy`; `balanced_accuracy` and `macro_f1`; `macro_auc` and `average_precision` of one class against the
        rest; `cross_entropy`; `brier`, the squared error summed over the classes (0 to 2); `calibration_error` of the most
        probable class. Balanced accuracy and the three after it are means over the classes in `labels`. With a single class
        in `labels`, the AUC is nan.

        For "multilabel": `macro_auc`, `average_precision` and `macro_f1`, means over the labels; `micro_f1`, `cross_entropy`
        (binary), `brier` (0 to 1) and `calibration_error` over all known labels. For "regression": `mae`, `rmse` and `r2`,
        means over the targets; the first two are in the targets' units, so they mean something only if these are alike.
    """
    if task != "multiclass":
        columns = check_columns(outputs, labels, task, predicted)
        overall, _ = weighted_columns(columns, np.ones((1, len(columns.labels))))
        return {name: float(overall[name][0]) for name in OVERALL[task]}
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score, recall_score, roc_auc_score

    checked = check_predictions(outputs, labels, predicted, None)
    probabilities, labels, predicted = checked.probabilities, checked.labels, checked.predicted
    present = np.unique(labels)
    macro: dict[str, Any] = {"labels": present, "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(recall_score(labels, predicted, **macro)),
        "macro_f1": float(f1_score(labels, predicted, **macro)),
        "macro_auc": float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]))
        if len(present) > 1
        else float("nan"),
        "average_precision": float(
            np.mean([average_precision_score(labels == c, probabilities[:, c]) for c in present])
        ),
        "cross_entropy": float(bootstrap.cross_entropies(probabilities, labels).mean()),
        "brier": float(bootstrap.brier_scores(probabilities, labels).mean()),
        "calibration_error": calibration_error(probabilities.max(1), probabilities.argmax(1) == labels),
    }


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, *, bins: int = bootstrap.BINS) -> float:
    """Expected calibration error: |accuracy - confidence| per bin of equal width, weighted by the number of cases.

    Args:
        confidence: (n,), probabilities of the predicted classes.
        is_right: (n,), whether the predicted class is the label.
        bins: Number of bins.
    """
    index = bootstrap.calibration_bins(confidence, bins)
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

    The predicted classes are those of `AlignedFusionClassifier.decide`.

    Args:
        model: An `AlignedFusionClassifier`.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`.
        schema: The attributes.
        rates: Shares of the mentioned cells to drop.
        seeds: Seeds of the draws; at rate 0 all draws are equal.
        progress: Whether to show a progress bar.

    Returns:
        One row per rate, with `missing`, the share of the mentioned cells that was dropped; `unmentioned`, the share of all
        cells that is then unmentioned (at rate 0, what the table left empty); and the metrics of `compute_metrics`. For a model
        with prediction sets also `coverage`, the share of sets with the true class, and `set_size`.
    """
    variants = sweep_variants(cases.codes, schema, rates=rates, seeds=seeds)
    sweep = as_sweep(model, variants, predict(model, cases, variants, progress=progress), rates)
    return summarise_sweep(sweep, cases.labels.numpy())


class Sweep(NamedTuple):
    """Predictions of the same n cases at several rates of missing attributes, each with several draws of the missing cells."""

    rates: Sequence[float]
    codes: np.ndarray  # (rates, draws, n, A)
    outputs: np.ndarray  # (rates, draws, n, C)
    predicted: np.ndarray  # (rates, draws, n), or (rates, draws, n, C)
    sets: np.ndarray | None  # (rates, draws, n, C)
    task: str


def sweep_variants(
    codes: Tensor, schema: AttributeSchema, *, rates: Sequence[float] = RATES, seeds: Sequence[int] = (0, 1, 2)
) -> list[Tensor]:
    """The codes (n, A) of a sweep, for each rate one draw per seed."""
    return [drop_attributes(codes, rate, schema, seed=seed) for rate in rates for seed in seeds]


def as_sweep(
    model: nn.Module, variants: Sequence[Tensor], outputs: np.ndarray, rates: Sequence[float] = RATES
) -> Sweep:
    """The sweep of variants that `sweep_variants` returned, and a model's predictions (variants, n, C) for them."""
    shape = (len(rates), len(variants) // len(rates))
    codes = np.stack([variant.numpy() for variant in variants])
    codes, outputs = (array.reshape(*shape, *array.shape[1:]) for array in (codes, outputs))
    return Sweep(
        rates, codes, outputs, decide(model, outputs), prediction_sets(model, outputs, codes), find_task(model)
    )


def summarise_sweep(sweep: Sweep, labels: np.ndarray) -> list[dict[str, float]]:
    """The rows of `missing_sweep`."""
    rows = []
    for i, rate in enumerate(sweep.rates):
        codes, outputs, predicted = sweep.codes[i], sweep.outputs[i], sweep.predicted[i]
        draws = [
            compute_metrics(p, labels, predicted=c, task=sweep.task) for p, c in zip(outputs, predicted, strict=True)
        ]
        row = {"missing": float(rate), "unmentioned": float((codes == UNKNOWN).mean())}
        row |= {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
        if sweep.sets is not None:
            is_known = labels >= 0
            is_covered = sweep.sets[i][:, np.arange(len(labels)), labels][:, is_known]
            row |= {"coverage": float(is_covered.mean()), "set_size": float(sweep.sets[i][:, is_known].sum(-1).mean())}
        rows.append(row)
    return rows


def describe_missing(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on what the shares of a sweep's rows mean, with the share of cells that the table left empty."""
    return (
        f"Missing: share of the mentioned cells that is dropped at random. With none dropped, "
        f"{100 * rows[0]['unmentioned']:.1f} % of all cells are unmentioned already."
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as a table in plain text: shares in percent, AUC, F1 and losses with three digits."""
    names = list(rows[0])
    cells = [[format_cell(name, row[name]) for name in names] for row in rows]
    heads = [heading(name) for name in names]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in [heads, *cells]]
    return "\n".join(lines)


def heading(name: str) -> str:
    """The name of a column in words."""
    return name.replace("_", " ")


def format_cell(name: str, value: Any) -> str:
    """A number as text, in percent or with three digits as its column asks; "-" for nan, which is null in JSON."""
    if value is None or value != value:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if name in _IN_UNITS:
        return f"{value:.4g}"
    return f"{value:.3f}" if name in _WITH_DIGITS else f"{value * 100:.1f} %"
