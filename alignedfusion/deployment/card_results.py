"""The sections of a model card on what a run measured, in Markdown; a section is empty if its content is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignedfusion.evaluation.intervals import Metrics
from alignedfusion.evaluation.metrics import format_cell, heading
from alignedfusion.evaluation.subgroups import few_cases, subgroup_rows, unpack_subgroups
from alignedfusion.modules.card import code, plain, table

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier


_SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def training_data(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The number of cases per split and class."""
    cases = report.get("cases", {})
    if "train" not in cases:
        return ""
    data = report.get("training_data", {})
    source = f" of the table {code(data['source'])}" if data.get("source") else ""
    label = f", labelled by the column {code(settings['label'])}" if settings.get("label") else ""
    counts = ", ".join(f"{cases[split]:,} {name}" for split, name in _SPLITS.items() if split in cases)
    text = (
        f"## Training data\n\n{counts} cases{source}{label}. The validation cases were used to calibrate the model, the test "
        f"cases only to test it."
    )
    if (classes := data.get("classes")) is None:
        return text
    rows = [[name, *(str(classes[split][name]) for split in _SPLITS)] for name in classes["train"]]
    return f"{text}\n\n{table(['class', *_SPLITS.values()], rows)}"


def metrics(report: Mapping[str, Any]) -> str:
    """All metrics of the test cases with their intervals, and those of each class."""
    if "test" not in report:
        return ""
    found = Metrics.from_dict(report["test"])
    drawn = "cases" if found.groups is None else f"{found.groups:,} groups"
    overall = [[heading(name), *(format_cell(name, x) for x in interval)] for name, interval in found.overall.items()]
    classes = [
        [name, f"{found.support[name]:,}", *(format_cell(key, interval.value) for key, interval in row.items())]
        for name, row in found.classes.items()
    ]
    head = ["class", "cases", *(heading(key) for key in next(iter(found.classes.values())))]
    return (
        f"## Metrics\n\n{found.cases:,} test cases as they are; low and high are the ends of the {found.level:.0%} interval "
        f"(bootstrap of {drawn}).\n\n{table(['metric', 'value', 'low', 'high'], overall)}\n\n{table(head, classes)}"
    )


def results(report: Mapping[str, Any]) -> str:
    """The metrics at each share of missing attributes."""
    if not (rows := report.get("missing")):
        return ""
    shares = [name for name in ("accuracy", "balanced_accuracy", "calibration_error", "coverage") if name in rows[0]]
    cells = [[_whole(row["missing"]), *(_share(row[name]) for name in shares), _auc(row["macro_auc"])] for row in rows]
    names = ["expected calibration error" if name == "calibration_error" else heading(name) for name in shares]
    head = ["attributes missing", *names, "macro AUC"]
    if "image_only" in report:
        head += ["accuracy, image only", "accuracy, attributes only"]
        for line, row in zip(cells, report["attributes_only"], strict=True):
            line += [_share(report["image_only"]["accuracy"]), _share(row["accuracy"])]
    notes = [
        "A share of the attributes that the test reports mention was removed at random; metrics are means over the draws."
    ]
    if "unmentioned" in rows[0]:
        notes.append(f"Where none was removed, {_share(rows[0]['unmentioned'])} of all cells are unmentioned already.")
    if "image_only" in report:
        notes.append("Image only and attributes only: this model, with the other part marked as absent.")
    if (chance := report.get("most_frequent_class")) is not None:
        notes.append(f"Chance level: the most frequent class is {_share(chance)} of the test cases.")
    return f"## Metrics by missing attributes\n\n{' '.join(notes)}\n\n{table(head, cells)}"


def worth(report: Mapping[str, Any]) -> str:
    """How often the test cases mention each attribute, and the accuracy that is lost if it is permuted."""
    if (permuted := report.get("permuted")) is None:
        return ""
    ranked = sorted(permuted["attributes"].items(), key=lambda item: -item[1]["worth"][0])
    rows = [
        [name, _whole(row["mentioned"]), *(f"{100 * number:.1f}" for number in row["worth"])] for name, row in ranked
    ]
    head = ["attribute", "test cases that mention it", "points of accuracy lost", "low", "high"]
    return (
        f"## Worth of the attributes\n\nThe accuracy that is lost if the column of an attribute is permuted among "
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
    if rows := report.get("missing"):
        first, last = rows[0], rows[-1]
        lines.append(
            f"On the test cases above, the probability of the predicted class differs from the share of correct predictions by "
            f"{_share(first['calibration_error'])} (expected calibration error) with {_whole(first['missing'])} of the "
            f"attributes missing, and by {_share(last['calibration_error'])} with {_whole(last['missing'])}. Measure it again "
            f"on your own cases."
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
        lines.append(
            f"The predicted class has the largest probability divided by the prior to the power {model.prior_exponent:g}, so "
            f"that rare classes are predicted, too. The probabilities are unchanged."
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
