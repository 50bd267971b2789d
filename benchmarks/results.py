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
from alignedfusion.evaluation.bootstrap import cross_entropies
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.evaluation.plots import accuracy_against_missing

BY_TRAINING_RATE = ("1a", "2", "4a")
SHOWN = (
    "cross_entropy",
    "brier",
    "accuracy",
    "macro_f1",
    "macro_f1_balanced_decision",
    "balanced_accuracy",
    "macro_auc",
    "calibration_error",
)
DECISION = 0.5
"""The balanced decision takes the class with the largest p(class) / prior(class)^DECISION, which favours rare classes."""
LOSSES = ("cross_entropy", "brier", "calibration_error")
"""Metrics of which less is better."""
PERCENT = ("accuracy", "balanced_accuracy", "calibration_error")
PAIRED = {"accuracy": "accuracy", "cross_entropy": "cross-entropy"}
"""Metrics with one value per case, on which rows are compared with a paired test."""
CONFIDENT = 0.05
OMISSIONS = ("cell", "other attribute", "own value", "denials kept", "denials omitted")
"""Kinds of cells that go missing in test reports."""
Predictions = dict[str, dict[Any, dict[str, np.ndarray]]]


class Column:
    """One column of a table: a training rate and a test rate."""

    def __init__(self, name: str, training_rate: float | None, key: str) -> None:
        self.name = name
        self.training_rate = training_rate
        self.key = key

    def select(self, units: dict[Any, dict[str, np.ndarray]]) -> dict[int, tuple[np.ndarray, ...]]:
        """Row numbers, probabilities, labels and balanced decisions per seed, with all folds joined and cases in order."""
        folds = defaultdict(list)
        for unit, predictions in units.items():
            if self.training_rate is None or unit.training_rate == self.training_rate:
                probabilities = predictions[self.key]
                decisions = (probabilities / predictions["prior"] ** DECISION).argmax(1)
                folds[unit.seed].append((predictions["rows"], probabilities, predictions["labels"], decisions))
        joined = {}
        for seed, arrays in folds.items():
            columns = [np.concatenate(parts) for parts in zip(*arrays, strict=True)]
            order = columns[0].argsort()
            joined[seed] = tuple(column[order] for column in columns)
        return joined


def list_columns(table: str, omission: str) -> list[Column]:
    """The columns of a table: missing rates in training for M-Tr+C-Te, otherwise in the test reports, up to 100 %."""
    if table in BY_TRAINING_RATE:
        return [Column(f"{rate:.0%}", rate, "cell 0") for rate in RATES]
    rates = (0.0, 0.5, 1.0) if omission.startswith("without ") else (*RATES, 0.75, 0.9, 1.0)
    # Without a missing cell all kinds of omission are the same.
    keys = {rate: f"{'cell' if not rate and omission in OMISSIONS else omission} {rate:g}" for rate in rates}
    return [Column(f"{rate:.0%}", None, key) for rate, key in keys.items()]


def summarise(predictions: Predictions, columns: list[Column]) -> list[dict[str, Any]]:
    """One entry per row and column: means and deviations over seeds, and ours minus the row in two metrics with p."""
    entries = []
    for column in columns:
        selected = {name: column.select(units) for name, units in predictions.items()}
        per_case = {name: _per_case(seeds) for name, seeds in selected.items()}
        for name, by_seed in selected.items():
            seeds = [_metrics(*arrays) for arrays in by_seed.values()]
            count = len(per_case[name]["accuracy"])
            entry: dict[str, Any] = {"row": name, "column": column.name, "seeds": len(seeds), "cases": count}
            for metric in seeds[0]:
                values = [seed[metric] for seed in seeds]
                entry[metric] = float(np.mean(values))
                entry[f"{metric}_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            for metric in PAIRED if OURS in per_case else ():
                ours, other = per_case[OURS][metric], per_case[name][metric]
                entry[f"ours_minus_row_{metric}"] = float((ours - other).mean())
                entry[f"p_{metric}"] = float(ttest_rel(ours, other).pvalue) if (ours != other).any() else 1.0
            entries.append(entry)
    return entries


def _metrics(
    rows: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, decisions: np.ndarray
) -> dict[str, float]:
    balanced = compute_metrics(probabilities, labels, predicted=decisions)
    return {
        **compute_metrics(probabilities, labels),
        "macro_f1_balanced_decision": balanced["macro_f1"],
        "accuracy_balanced_decision": balanced["accuracy"],
    }


def _per_case(by_seed: dict[int, tuple[np.ndarray, ...]]) -> dict[str, np.ndarray]:
    """The paired metrics of each case, averaged over the seeds."""
    seeds = by_seed.values()
    return {
        "accuracy": np.mean([probabilities.argmax(1) == labels for _, probabilities, labels, _ in seeds], axis=0),
        "cross_entropy": np.mean(
            [cross_entropies(probabilities, labels) for _, probabilities, labels, _ in seeds], axis=0
        ),
    }


def write_table(options: Any, source: Any, predictions: Predictions) -> None:
    """Write Markdown, CSV and a plot, and print the Markdown."""
    columns = list_columns(options.table, options.omission)
    stored = next(iter(next(iter(predictions.values())).values()))
    if absent := [column.key for column in columns if column.key not in stored]:
        kinds = sorted({key.rpartition(" ")[0] for key in stored if " " in key})
        raise SystemExit(f"--omission {options.omission!r} has no predictions {absent[0]!r}; this source has {kinds}")
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
    draw_losses(entries, columns, options.output / f"{stem}-cross-entropy.svg")
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
    for metric in SHOWN:
        heads = [column.name for column in columns]
        unit = ", %" if metric in PERCENT else ""
        lines += ["", f"| {metric.replace('_', ' ')}{unit} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        if metric == "accuracy" and "derm7pt" in source.name:
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
    scale, digits = (100, 1) if metric in PERCENT else (1, 3)
    text = f"{scale * entry[metric]:.{digits}f} ± {scale * entry[f'{metric}_deviation']:.{digits}f}"
    if entry["seeds"] == 1:
        text = text.split(" ±")[0]
    if metric not in PAIRED or entry.get(f"p_{metric}", 1.0) >= CONFIDENT:
        return text
    is_ahead = (entry[f"ours_minus_row_{metric}"] > 0) != (metric in LOSSES)
    return text + (" ▼" if is_ahead else " ▲")


def _verdict(entries: list[dict[str, Any]], columns: list[Column]) -> list[str]:
    """For each column, ours against the best other row in cross-entropy and in accuracy."""
    lines = []
    for column in columns:
        others = [entry for entry in entries if entry["column"] == column.name and entry["row"] != OURS]
        if not others or "p_accuracy" not in others[0]:
            continue
        parts = []
        for metric, name in PAIRED.items():
            best = (min if metric in LOSSES else max)(others, key=lambda entry: entry[metric])
            scale, unit = (100, " points") if metric == "accuracy" else (1, "")
            digits = 1 if metric == "accuracy" else 3
            parts.append(
                f"{name}: best other row {best['row']}, ours {scale * best[f'ours_minus_row_{metric}']:+.{digits}f}{unit}, "
                f"p = {best[f'p_{metric}']:.2g}"
            )
        lines.append(f"- {column.name}: {'; '.join(parts)}")
    return lines


def draw_losses(entries: list[dict[str, Any]], columns: list[Column], path: Path) -> None:
    """Cross-entropy of every row that is not far above ours, with a band of one deviation over seeds around ours."""
    from matplotlib.figure import Figure

    shares = [float(column.name.rstrip("%")) for column in columns]
    rows = {
        name: [entry for entry in entries if entry["row"] == name] for name in dict.fromkeys(e["row"] for e in entries)
    }
    means = {name: np.array([entry["cross_entropy"] for entry in row]) for name, row in rows.items()}
    limit = 1.25 * min(mean[0] for mean in means.values())
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, mean) in enumerate(sorted(means.items(), key=lambda item: -item[1][-1])):
        if mean[0] > limit:
            continue
        if name == OURS:
            spread = np.array([entry["cross_entropy_deviation"] for entry in rows[name]])
            axes.fill_between(shares, mean - spread, mean + spread, color="black", alpha=0.15)
            axes.plot(shares, mean, color="black", linewidth=2.5, marker="o", label=name, zorder=5)
        else:
            line = ("-", "--", ":", "-.")[number % 4]
            axes.plot(shares, mean, line, color=f"C{number % 10}", linewidth=1.3, label=name)
    axes.set_xlabel("attributes missing in test reports (%)")
    axes.set_ylabel("cross-entropy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path)


def _draw(entries: list[dict[str, Any]], columns: list[Column], path: Path, table: str, source: str) -> None:
    shares = {column.name: float(column.name.rstrip("%")) / 100 for column in columns}
    curves = {
        name: [
            (shares[entry["column"]], entry["accuracy"], entry["accuracy_deviation"])
            for entry in entries
            if entry["row"] == name and shares[entry["column"]] <= 1.0
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
