"""The page of a run: how good its model is, for whom, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignedfusion.evaluation.intervals import Interval, Metrics
from alignedfusion.evaluation.metrics import format_cell, heading
from alignedfusion.evaluation.plots import MAIN_METRIC
from alignedfusion.evaluation.subgroups import few_cases, subgroup_rows, unpack_subgroups
from alignedfusion.pages import run_charts
from alignedfusion.pages.cases import page_name
from alignedfusion.pages.rendering import render
from alignedfusion.pages.run_charts import run_figures
from alignedfusion.pages.run_errors import RunCases, error_cells, error_heads

CASES = "cases"
"""Folder of the case pages, beside the page of the run."""
_KINDS = {"multiclass": ("Classes", "class"), "multilabel": ("Labels", "label"), "regression": ("Numbers", "number")}
_SWEEP = ("missing", "unmentioned", "accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "calibration_error")


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
        class_names: The classes, labels or numbers.
        title: Heading of the page.
        unreadable: Number of cells of the test cases that could not be read, by column; columns without any are left out.
        folder: Folder of the page. Errors are linked to the case pages that exist in its folder `cases`.
    """
    metrics = Metrics.from_dict(result["test"])
    subgroups = unpack_subgroups(result.get("subgroups", {}))
    permuted = result.get("permuted")
    errors = tested.errors()
    rows = subgroup_rows(subgroups)
    lost = "accuracy" if tested.task == "multiclass" else "explained variance"
    return render(
        "run.html",
        title=title,
        metrics=metrics,
        overall=[(heading(name), *_texts(name, interval)) for name, interval in metrics.overall.items()],
        kind=_KINDS[metrics.task],
        measures=[heading(name) for name in (*_counts(metrics)[0], *next(iter(metrics.classes.values())))],
        classes=_classes(metrics),
        missing=run_charts.missing(_curves(result, metrics), measure=MAIN_METRIC[tested.task][1]),
        sweep=_sweep(result, tested.task),
        charts=run_figures(tested, metrics, class_names),
        permuted=permuted,
        lost=lost,
        worth=None if permuted is None else run_charts.worth(permuted["attributes"], lost=lost),
        max_attributes=run_charts.MAX_ATTRIBUTES,
        attributes=[] if permuted is None else _attributes(permuted["attributes"]),
        subgroups=[list(row.values()) for row in rows],
        subgroup_heads=[heading(name) for name in rows[0]] if rows else [],
        few=few_cases(subgroups),
        unreadable=dict(unreadable),
        error_heads=error_heads(tested.task),
        errors=[_error(tested, error, class_names, folder) for error in errors],
        error_rows=",".join(str(tested.rows[i]) for i, _ in errors),
    )


def _counts(metrics: Metrics) -> tuple[list[str], dict[str, list[int]]]:
    """Headings and, by name, the numbers of cases of the classes, or of known and unknown labels."""
    if metrics.task == "multiclass":
        return ["cases"], {name: [count] for name, count in metrics.support.items()}
    return list(next(iter(metrics.counts.values()))), {n: list(row.values()) for n, row in metrics.counts.items()}


def _classes(metrics: Metrics) -> list[tuple[str, list[int], list[str]]]:
    """Name, numbers of cases, and metrics of each class, label or number."""
    counts = _counts(metrics)[1]
    return [
        (name, counts[name], [_with_interval(key, interval) for key, interval in row.items()])
        for name, row in metrics.classes.items()
    ]


def _curves(result: Mapping[str, Any], metrics: Metrics) -> dict[str, list[tuple[float, float]]]:
    """The main metric by the share of dropped attributes: of the model, of each modality alone, and of the majority class."""
    shares, key = [row["missing"] for row in result["missing"]], MAIN_METRIC[metrics.task][0]
    curves = {"this model": [(row["missing"], row[key]) for row in result["missing"]]}
    if "image_only" in result:
        curves["image only"] = [(share, result["image_only"][key]) for share in shares]
        curves["attributes only"] = [(row["missing"], row[key]) for row in result["attributes_only"]]
    if metrics.task != "multiclass":
        return curves
    majority = max(metrics.support.values()) / metrics.cases
    return {**curves, "majority class": [(share, majority) for share in shares]}


def _sweep(result: Mapping[str, Any], task: str) -> list[list[str]]:
    names = _SWEEP if task == "multiclass" else tuple(result["missing"][0])
    rows = [[format_cell(name, row[name]) for name in names] for row in result["missing"]]
    return [[heading(name) for name in names], *rows]


def _attributes(attributes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Name, share of cases that mention it, and worth in points, the most valuable first."""
    ranked = sorted(attributes.items(), key=lambda item: -item[1]["worth"][0])
    return [
        (name, row["mentioned"], "{:.1f} ({:.1f} to {:.1f})".format(*(100 * number for number in row["worth"])))
        for name, row in ranked
    ]


def _error(
    tested: RunCases, error: tuple[int, int], class_names: tuple[str, ...], folder: Path | None
) -> dict[str, Any]:
    row = int(tested.rows[error[0]])
    page = f"{CASES}/{page_name(f'Row {row}')}"
    return {
        "row": row,
        "cells": error_cells(tested, error, class_names),
        "page": page if folder is not None and (folder / page).is_file() else None,
    }


def _texts(name: str, interval: Interval) -> tuple[str, str]:
    """A value, and its interval."""
    value, low, high = (format_cell(name, number) for number in interval)
    return value, "" if low == "-" else f"{low} to {high}"


def _with_interval(name: str, interval: Interval) -> str:
    value, between = _texts(name, interval)
    return f"{value} ({between})" if between else value
