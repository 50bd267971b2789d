"""The sections of a model card on what a run measured, in Markdown; a section is empty if its content is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignedfusion.evaluation.intervals import Metrics
from alignedfusion.evaluation.metrics import format_cell, heading
from alignedfusion.evaluation.plots import MAIN_METRIC
from alignedfusion.evaluation.subgroups import few_cases, subgroup_rows, unpack_subgroups
from alignedfusion.modules.card import code, plain, table

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier


_PROBABLE = {"multiclass": "the predicted class", "multilabel": "a label"}
_RIGHT = {"multiclass": "correct predictions", "multilabel": "cases that have it"}
_SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def training_data(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The number of cases per split and class; for other tasks what is known of each label or number."""
    cases = report.get("cases", {})
    if "train" not in cases:
        return ""
    data = report.get("training_data", {})
    source = f" of the table {code(data['source'])}" if data.get("source") else ""
    columns = label_columns(settings)
    kind = "column" if len(columns) == 1 else "columns"
    label = f", labelled by the {kind} {', '.join(map(code, columns))}" if columns else ""
    counts = ", ".join(f"{cases[split]:,} {name}" for split, name in _SPLITS.items() if split in cases)
    text = (
        f"## Training data\n\n{counts} cases{source}{label}. The validation cases were used to calibrate the model, the test "
        f"cases only to test it."
    )
    kind, counts = ("class", data.get("classes")) if "classes" in data else ("label", data.get("labels"))
    if counts is None:
        return text
    rows = [[name, *(_count(counts[split][name]) for split in _SPLITS)] for name in counts["train"]]
    return f"{text}\n\n{table([kind, *_SPLITS.values()], rows)}"


def label_columns(settings: Mapping[str, Any]) -> list[str]:
    """The label columns in the settings of a run."""
    label = settings.get("label") or []
    return [label] if isinstance(label, str) else list(label)


def _count(count: int | Mapping[str, Any]) -> str:
    """The counts of `datasets.labels.Labels.count` as text."""
    if not isinstance(count, Mapping):
        return str(count)
    if "positive" in count:
        return ", ".join(f"{number:,} {name}" for name, number in count.items())
    spread = f" (mean {count['mean']:.4g}, deviation {count['deviation']:.4g})" if count["known"] else ""
    return f"{count['known']:,} known{spread}, {count['unknown']:,} unknown"


def metrics(report: Mapping[str, Any]) -> str:
    """All metrics of the test cases with their intervals, and those of each class."""
    if "test" not in report:
        return ""
    found = Metrics.from_dict(report["test"])
    drawn = "cases" if found.groups is None else f"{found.groups:,} groups"
    overall = [[heading(name), *(format_cell(name, x) for x in interval)] for name, interval in found.overall.items()]
    counts = found.counts or {name: {"cases": count} for name, count in found.support.items()}
    classes = [
        [
            name,
            *(f"{count:,}" for count in counts[name].values()),
            *(format_cell(key, interval.value) for key, interval in row.items()),
        ]
        for name, row in found.classes.items()
    ]
    first = next(iter(found.classes))
    kind = "label" if found.counts else "class"
    head = [kind, *map(heading, counts[first]), *map(heading, found.classes[first])]
    return (
        f"## Metrics\n\n{found.cases:,} test cases as they are; low and high are the ends of the {found.level:.0%} interval "
        f"(bootstrap of {drawn}).\n\n{table(['metric', 'value', 'low', 'high'], overall)}\n\n{table(head, classes)}"
    )


def results(report: Mapping[str, Any]) -> str:
    """The metrics at each share of missing attributes."""
    if not (rows := report.get("missing")):
        return ""
    if report.get("task", "multiclass") != "multiclass":
        return _other_results(report, rows)
    shares = [name for name in ("accuracy", "balanced_accuracy", "calibration_error", "coverage") if name in rows[0]]
    cells = [[_whole(row["missing"]), *(_share(row[name]) for name in shares), _auc(row["macro_auc"])] for row in rows]
    names = ["expected calibration error" if name == "calibration_error" else heading(name) for name in shares]
    head = ["attributes missing", *names, "macro AUC"]
    if "image_only" in report:
        head += ["accuracy, image only", "accuracy, attributes only"]
        for line, row in zip(cells, report["attributes_only"], strict=True):
            line += [_share(report["image_only"]["accuracy"]), _share(row["accuracy"])]
    notes = _notes(report, rows)
    if (chance := report.get("most_frequent_class")) is not None:
        notes.append(f"Chance level: the most frequent class is {_share(chance)} of the test cases.")
    return f"## Metrics by missing attributes\n\n{' '.join(notes)}\n\n{table(head, cells)}"


def _other_results(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The metrics of several labels or numbers at each share of missing attributes."""
    names = [name for name in rows[0] if name not in ("missing", "unmentioned")]
    key, main = MAIN_METRIC[report["task"]]
    head = ["attributes missing", *map(heading, names)]
    cells = [[_whole(row["missing"]), *(format_cell(name, row[name]) for name in names)] for row in rows]
    if "image_only" in report:
        head += [f"{main}, image only", f"{main}, attributes only"]
        for line, row in zip(cells, report["attributes_only"], strict=True):
            line += [format_cell(key, report["image_only"][key]), format_cell(key, row[key])]
    return f"## Metrics by missing attributes\n\n{' '.join(_notes(report, rows))}\n\n{table(head, cells)}"


def _notes(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [
        "A share of the attributes that the test reports mention was removed at random; metrics are means over the draws."
    ]
    if "unmentioned" in rows[0]:
        notes.append(f"Where none was removed, {_share(rows[0]['unmentioned'])} of all cells are unmentioned already.")
    if "image_only" in report:
        notes.append("Image only and attributes only: this model, with the other part marked as absent.")
    return notes


def worth(report: Mapping[str, Any]) -> str:
    """How often the test cases mention each attribute, and the accuracy or explained variance lost if it is permuted."""
    if (permuted := report.get("permuted")) is None:
        return ""
    ranked = sorted(permuted["attributes"].items(), key=lambda item: -item[1]["worth"][0])
    rows = [
        [name, _whole(row["mentioned"]), *(f"{100 * number:.1f}" for number in row["worth"])] for name, row in ranked
    ]
    lost = heading(permuted.get("metric", "accuracy"))
    head = ["attribute", "test cases that mention it", f"points of {lost} lost", "low", "high"]
    return (
        f"## Worth of the attributes\n\nThe {lost} that is lost if the column of an attribute is permuted among "
        f"{permuted['cases']:,} test cases, with the 95% interval.\n\n{table(head, rows)}"
    )


def subgroups(report: Mapping[str, Any]) -> str:
    """The metrics of subgroups of the test cases."""
    if not (found := unpack_subgroups(report.get("subgroups", {}))):
        return ""
    rows = subgroup_rows(found)
    warning = few_cases(found)
    return (
        "## Subgroups\n\nMetrics of the test cases as they are, with their intervals. "
        + (f"{plain(warning[0].upper() + warning[1:])}.\n\n" if warning else "\n\n")
        + table([heading(name) for name in rows[0]], [list(row.values()) for row in rows])
    )


def calibration(model: AlignedFusionClassifier, report: Mapping[str, Any]) -> str:
    """The calibration error of the probabilities, and the weights of the branches."""
    lines = []
    if (rows := report.get("missing")) and "calibration_error" in rows[0]:
        first, last = rows[0], rows[-1]
        lines.append(
            f"On the test cases above, the probability of {_PROBABLE[model.task]} differs from the share of "
            f"{_RIGHT[model.task]} by {_share(first['calibration_error'])} (expected calibration error) with "
            f"{_whole(first['missing'])} of the attributes missing, and by {_share(last['calibration_error'])} with "
            f"{_whole(last['missing'])}. Measure it again on your own cases."
        )
    if len(model.branches) > 1:
        weights = ", ".join(
            f"{branch} {weight:.2f}"
            for branch, weight in zip(model.branches, model.branch_weights.tolist(), strict=True)
        )
        is_fitted = not model.branch_weights.cpu().allclose(model.initial_branch_weights(), rtol=1e-3)
        source = (
            "fitted to validation cases" if is_fitted and rows else "fitted" if is_fitted else "not fitted to any cases"
        )
        lines.append(
            f"The logits are the log prior plus the contribution of each branch times its weight ({source}): {weights}."
        )
    if model.prior_exponent:
        chosen = {
            "multiclass": "The predicted class has the largest probability divided by the prior",
            "multilabel": "The predicted labels are those with odds above the prior odds",
        }[model.task]
        rare = "classes" if model.task == "multiclass" else "labels"
        lines.append(
            f"{chosen} to the power {model.prior_exponent:g}, so that rare {rare} are predicted, too. The probabilities are "
            f"unchanged."
        )
    if (sets := model.prediction_sets) is not None:
        lines.append(
            f"Conformal prediction sets (kind {code(sets['kind'])}) contain the true class in {_whole(sets['coverage'])} of "
            f"cases like the validation cases, calibrated separately by the share of mentioned attributes."
        )
    return "## Calibration\n\n" + "\n\n".join(lines) if lines else ""


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _whole(value: float) -> str:
    return f"{100 * value:.0f} %"


def _auc(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"  # nan: only one class among the test cases
