"""Tables and plots of predictions: means and deviations over seeds, and a paired test of ours against each row."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from methods import OURS
from reported import REPORTED
from scipy.stats import ttest_rel

from alignedfusion.evaluation import compute_metrics
from alignedfusion.evaluation.metrics import METRICS, RATES
from alignedfusion.evaluation.plots import accuracy_against_missing

BY_TRAINING_RATE = ("1a", "2", "4a")
CONFIDENT = 0.05
Predictions = dict[str, dict[Any, dict[str, np.ndarray]]]


class Column:
    """One column of a table: a training rate and a test rate."""

    def __init__(self, name: str, training_rate: float | None, key: str) -> None:
        self.name = name
        self.training_rate = training_rate
        self.key = key

    def select(self, units: dict[Any, dict[str, np.ndarray]]) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row numbers, probabilities and labels per seed, with all folds joined and cases in order."""
        folds = defaultdict(list)
        for unit, predictions in units.items():
            if self.training_rate is None or unit.training_rate == self.training_rate:
                folds[unit.seed].append((predictions["rows"], predictions[self.key], predictions["labels"]))
        joined = {}
        for seed, arrays in folds.items():
            rows, probabilities, labels = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
            order = rows.argsort()
            joined[seed] = rows[order], probabilities[order], labels[order]
        return joined


def list_columns(table: str, omission: str) -> list[Column]:
    """The columns of a table: missing rates in training for M-Tr+C-Te, otherwise in the test reports, up to 100 %."""
    if table in BY_TRAINING_RATE:
        return [Column(f"{rate:.0%}", rate, "cell 0") for rate in RATES]
    return [Column(f"{rate:.0%}", None, f"{omission} {rate:g}") for rate in (*RATES, 1.0)]


def summarise(predictions: Predictions, columns: list[Column]) -> list[dict[str, Any]]:
    """One entry per row and column: means and deviations over seeds, the difference of ours in accuracy, and p."""
    entries = []
    for column in columns:
        right = {name: _right(column.select(units)) for name, units in predictions.items()}
        for name, units in predictions.items():
            seeds = [
                compute_metrics(probabilities, labels) for _, probabilities, labels in column.select(units).values()
            ]
            entry: dict[str, Any] = {"row": name, "column": column.name, "seeds": len(seeds), "cases": len(right[name])}
            for metric in METRICS:
                values = [seed[metric] for seed in seeds]
                entry[metric] = float(np.mean(values))
                entry[f"{metric}_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            if OURS in right:
                difference = right[OURS] - right[name]  # per case, averaged over seeds
                entry["ours_minus_row"] = float(difference.mean())
                entry["p"] = float(ttest_rel(right[OURS], right[name]).pvalue) if difference.any() else 1.0
            entries.append(entry)
    return entries


def write_table(options: Any, source: Any, predictions: Predictions) -> None:
    """Write Markdown, CSV and a plot, and print the Markdown."""
    columns = list_columns(options.table, options.omission)
    entries = summarise(predictions, columns)
    suffix = "" if options.omission == "cell" else "-" + options.omission.replace(" ", "-")
    stem = f"table-{options.table}-{source.name}-{options.protocol}{suffix}"
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / f"{stem}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, entries[0])
        writer.writeheader()
        writer.writerows(entries)
    text = markdown(options, source, entries, columns)
    (options.output / f"{stem}.md").write_text(text, "utf-8")
    _draw(entries, columns, options.output / f"{stem}.png", options.table, source.name)
    print(text)
    print(f"written: {options.output / stem}.md, .csv and .png")


def markdown(options: Any, source: Any, entries: list[dict[str, Any]], columns: list[Column]) -> str:
    """Tables of all metrics, then a comparison of ours with the best other row in each column."""
    where = "in training" if options.table in BY_TRAINING_RATE else "in the test reports"
    lines = [
        f"## Table {options.table}, {source.name}, "
        f"{'official split' if options.protocol == 'split' else '5-fold cross-validation'}",
        "",
        f"{entries[0]['seeds']} seeds, {entries[0]['cases']} test cases, {len(source.attributes)} attributes: "
        f"{', '.join(source.attributes)}. Missing {where}: {options.omission}. Mean ± deviation over seeds; ▼ significantly "
        f"worse than ours, ▲ significantly better (paired t-test over cases, p < {CONFIDENT}).",
    ]
    for metric in METRICS:
        heads = [column.name for column in columns]
        lines += ["", f"| {metric.replace('_', ' ')}, % | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        if metric == "accuracy":
            for name, cells in REPORTED.get(options.table, {}).items():
                shown = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
                shown += [""] * (len(heads) - len(shown))
                lines.append(f"| *reported: {name}* | {' | '.join(shown)} |")
        for name in dict.fromkeys(entry["row"] for entry in entries):
            cells = [_cell(entry, metric) for entry in entries if entry["row"] == name]
            label = f"**{name}**" if name == OURS else name
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_verdict(entries, columns), ""])


def _cell(entry: dict[str, Any], metric: str) -> str:
    text = f"{100 * entry[metric]:.1f} ± {100 * entry[f'{metric}_deviation']:.1f}"
    if metric != "accuracy" or entry.get("p", 1.0) >= CONFIDENT:
        return text
    return text + (" ▼" if entry["ours_minus_row"] > 0 else " ▲")


def _verdict(entries: list[dict[str, Any]], columns: list[Column]) -> list[str]:
    lines = []
    for column in columns:
        others = [entry for entry in entries if entry["column"] == column.name and entry["row"] != OURS]
        if not others or "p" not in others[0]:
            continue
        best = max(others, key=lambda entry: entry["accuracy"])
        lines.append(
            f"- {column.name}: best other row {best['row']}, ours {100 * best['ours_minus_row']:+.1f} points, "
            f"p = {best['p']:.2g}"
        )
    return lines


def _right(seeds: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The share of seeds in which each case was classified correctly, 0 to 1."""
    return np.mean([probabilities.argmax(1) == labels for _, probabilities, labels in seeds.values()], axis=0)


def _draw(entries: list[dict[str, Any]], columns: list[Column], path: Path, table: str, source: str) -> None:
    shares = {column.name: float(column.name.rstrip("%")) / 100 for column in columns}
    curves = {
        name: [
            (shares[entry["column"]], entry["accuracy"], entry["accuracy_deviation"])
            for entry in entries
            if entry["row"] == name and shares[entry["column"]] <= max(RATES)
        ]
        for name in dict.fromkeys(entry["row"] for entry in entries)
        if name != "majority class"
    }
    where = "training" if table in BY_TRAINING_RATE else "test"
    accuracy_against_missing(
        curves,
        path,
        title=f"Table {table}, {source}",
        axis=f"attributes missing in {where} reports (%)",
        highlight=OURS,
    )
