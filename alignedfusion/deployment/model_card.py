"""The model card, written as README.md beside the weights; sections whose content is unknown are left out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.splits import SPLITS
from alignedfusion.deployment import card_results
from alignedfusion.modules import card
from alignedfusion.modules.card import is_generated

__all__ = ["is_generated", "render", "training_data", "with_name", "write"]

if TYPE_CHECKING:
    from alignedfusion.attributes import AttributeSchema
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.modules.classifier import AlignedFusionClassifier

_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "micro_f1": ("f1", "Micro F1"),
    "macro_auc": ("roc_auc", "Macro AUC"),
    "calibration_error": ("expected_calibration_error", "Expected calibration error"),
    "mae": ("mae", "Mean absolute error"),
    "rmse": ("rmse", "Root mean squared error"),
    "r2": ("r_squared", "R2"),
}
_TASKS = {"multiclass": "Classification", "multilabel": "Multi-label classification", "regression": "Regression"}


def write(
    model: AlignedFusionClassifier,
    folder: str | Path,
    *,
    report: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the card of a model into its folder. A card that somebody wrote or edited is kept.

    Args:
        model: The model.
        folder: Folder of the saved model.
        report: Content of a run's `metrics.json`; metrics that it lacks are left out of the card.
        settings: Content of a run's `settings.json`.

    Returns:
        Path of the card.
    """
    return card.write(render(model, report=report, settings=settings), folder)


def render(
    model: AlignedFusionClassifier,
    *,
    report: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """The text of a card: YAML for model hubs, then Markdown. Arguments as in `write`."""
    report, settings = report or {}, settings or {}
    columns = card_results.label_columns(settings)
    titled = {**settings, "label": ", ".join(columns) if len(columns) < 4 else f"{len(columns)} labels"}
    head = ModelCardData(**card.head(model, titled), eval_results=_eval_results(report) or None)
    measured = [
        card_results.training_data(report, settings),
        card_results.metrics(report),
        card_results.results(report),
        card_results.worth(report),
        card_results.subgroups(report),
        card_results.calibration(model, report),
    ]
    front = head.to_yaml(line_break="\n") + "\n"
    return card.render(model, report=report, settings=titled, front=front, measured=measured)


def with_name(text: str, name: str) -> str:
    """The card with code that loads the model by this name; an edited card is returned unchanged."""
    match = card.SEAL.fullmatch(text)
    if match is None or not is_generated(text):
        return text
    line = f"{card.LOAD}({json.dumps(name)}"
    return card.seal(re.sub(rf'^{re.escape(card.LOAD)}\("[^"\n]*"', lambda _: line, match[1], flags=re.MULTILINE))


def training_data(manifest: Manifest, schema: AttributeSchema) -> dict[str, Any]:
    """Counts of a table of cases for the card, without any single case.

    Returns:
        A mapping with `source`, the name of the table's file if there is one; `classes`, the number of cases per split and
        class, or `labels`, the counts of `datasets.labels.Labels.count` per split; `mentioned`, the share of training cases
        that mention each attribute.
    """
    is_mentioned = schema.encode(manifest.rows("train"), unseen="unknown") != UNKNOWN  # (n, A)
    counts = {split: manifest.labels.count(manifest.rows(split)) for split in SPLITS}
    return {
        "source": manifest.source,
        "classes" if manifest.columns.task == "multiclass" else "labels": counts,
        "mentioned": dict(zip(schema.names, is_mentioned.double().mean(0).tolist(), strict=True)),
    }


def _eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics at each missing rate, in the format of model hubs."""
    source = report.get("training_data", {}).get("source") or "a table of cases"
    task = report.get("task", "multiclass")
    dataset = re.sub(r"[^\w.-]+", "-", source, flags=re.ASCII).strip("-.") or "table"  # hubs allow no other characters
    return [
        EvalResult(
            task_type="other" if task == "regression" else "image-classification",
            task_name=f"{_TASKS[task]} of images with incomplete reports",
            dataset_type=dataset,
            dataset_name=f"Test cases of {source}",
            dataset_config=f"{100 * row['missing']:.0f} % of the attributes missing",
            dataset_split="test",
            metric_type=kind,
            metric_name=label,
            metric_value=round(row[key], 4),
        )
        for row in report.get("missing", ())
        for key, (kind, label) in _METRICS.items()
        if row.get(key) is not None and not math.isnan(row[key])
    ]
