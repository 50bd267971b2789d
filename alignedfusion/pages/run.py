"""The page of a run: how good its model is, for whom, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignedfusion.evaluation.intervals import Interval, Metrics
from alignedfusion.evaluation.metrics import format_cell, heading
from alignedfusion.evaluation.subgroups import few_cases, subgroup_rows, unpack_subgroups
from alignedfusion.pages import run_charts
from alignedfusion.pages.cases import page_name
from alignedfusion.pages.rendering import render

ERRORS = 20
CASES = "cases"
"""Folder of the case pages, beside the page of the run."""


@dataclass(frozen=True)
class RunCases:
    """The test cases of a run.

    Attributes:
        rows: (n,), their rows in the table.
        codes: (n, A), their attributes.
        labels: (n,), class indices.
        probabilities: (n, C).
        predicted: (n,), the predicted classes.
    """

    rows: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """(n,), the probability of each predicted class."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    def errors(self) -> list[int]:
        """Positions of the most confident wrong predictions, the most confident one first."""
        wrong = np.flatnonzero((self.predicted != self.labels) & (self.labels >= 0))
        order = np.argsort(-self.confidence[wrong], kind="stable")
        return [int(i) for i in wrong[order][:ERRORS]]


def run_page(
    result: Mapping[str, Any],
    tested: RunCases,
    class_names: tuple[str, ...],
    *,
    title: str,
    unreadable: Mapping[str, int],
    folder: Path | None = None,
) -> str:
    """The page of a run as the text of an HTML file.

    Args:
        result: What `evaluation.testing.evaluate_model` returned.
        tested: The test cases.
        class_names: The classes.
        title: Heading of the page.
        unreadable: Number of cells of the test cases that could not be read, by column; columns without any are left out.
        folder: Folder of the page. Errors are linked to the case pages that exist in its folder `cases`.
    """
    metrics = Metrics.from_dict(result["test"])
    is_known = tested.labels >= 0
    probabilities, labels = tested.probabilities[is_known], tested.labels[is_known]
    roc, precision = run_charts.curves(probabilities, labels, class_names)
    subgroups = unpack_subgroups(result.get("subgroups", {}))
    permuted = result.get("permuted")
    errors = tested.errors()
    rows = subgroup_rows(subgroups)
    return render(
        "run.html",
        title=title,
        metrics=metrics,
        overall=[(heading(name), *_texts(name, interval)) for name, interval in metrics.overall.items()],
        measures=list(next(iter(metrics.classes.values()))),
        classes=[
            (name, metrics.support[name], [_with_interval(key, interval) for key, interval in row.items()])
            for name, row in metrics.classes.items()
        ],
        missing=run_charts.missing(_curves(result, metrics)),
        sweep=_sweep(result),
        confusion=run_charts.confusion(metrics.confusion, class_names),
        roc=roc,
        precision=precision,
        reliability=run_charts.reliability(probabilities, labels),
        permuted=permuted,
        worth=None if permuted is None else run_charts.worth(permuted["attributes"]),
        max_attributes=run_charts.MAX_ATTRIBUTES,
        attributes=[] if permuted is None else _attributes(permuted["attributes"]),
        subgroups=[list(row.values()) for row in rows],
        subgroup_heads=[heading(name) for name in rows[0]] if rows else [],
        few=few_cases(subgroups),
        unreadable=dict(unreadable),
        errors=[_error(tested, i, class_names, folder) for i in errors],
        error_rows=",".join(str(tested.rows[i]) for i in errors),
    )


def _curves(result: Mapping[str, Any], metrics: Metrics) -> dict[str, list[tuple[float, float]]]:
    """Accuracy by the share of dropped attributes: of the model, of each modality alone, and of the majority class."""
    shares = [row["missing"] for row in result["missing"]]
    curves = {"this model": [(row["missing"], row["accuracy"]) for row in result["missing"]]}
    if "image_only" in result:
        curves["image only"] = [(share, result["image_only"]["accuracy"]) for share in shares]
        curves["attributes only"] = [(row["missing"], row["accuracy"]) for row in result["attributes_only"]]
    majority = max(metrics.support.values()) / metrics.cases
    return {**curves, "majority class": [(share, majority) for share in shares]}


def _sweep(result: Mapping[str, Any]) -> list[list[str]]:
    names = ("missing", "unmentioned", "accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "calibration_error")
    rows = [[format_cell(name, row[name]) for name in names] for row in result["missing"]]
    return [[heading(name) for name in names], *rows]


def _attributes(attributes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Name, share of cases that mention it, and worth in points, the most valuable first."""
    ranked = sorted(attributes.items(), key=lambda item: -item[1]["worth"][0])
    return [
        (name, row["mentioned"], "{:.1f} ({:.1f} to {:.1f})".format(*(100 * number for number in row["worth"])))
        for name, row in ranked
    ]


def _error(tested: RunCases, i: int, class_names: tuple[str, ...], folder: Path | None) -> dict[str, Any]:
    page = f"{CASES}/{page_name(f'Row {tested.rows[i]}')}"
    return {
        "row": int(tested.rows[i]),
        "label": class_names[tested.labels[i]],
        "predicted": class_names[tested.predicted[i]],
        "probability": float(tested.confidence[i]),
        "of_label": float(tested.probabilities[i, tested.labels[i]]),
        "mentioned": int((tested.codes[i] >= 0).sum()),
        "page": page if folder is not None and (folder / page).is_file() else None,
    }


def _texts(name: str, interval: Interval) -> tuple[str, str]:
    """A value, and its interval."""
    value, low, high = (format_cell(name, number) for number in interval)
    return value, "" if low == "-" else f"{low} to {high}"


def _with_interval(name: str, interval: Interval) -> str:
    value, between = _texts(name, interval)
    return f"{value} ({between})" if between else value
