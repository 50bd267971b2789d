"""The results of a run: its model tested, and all files that follow from that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignedfusion.datasets.identity import write_trained_cases
from alignedfusion.datasets.reading import count_unread, name_unread
from alignedfusion.datasets.splits import SPLITS
from alignedfusion.deployment import model_card
from alignedfusion.deployment.naming import prediction_cells, prediction_columns
from alignedfusion.evaluation import plots
from alignedfusion.evaluation.inference import prepare_images
from alignedfusion.evaluation.subgroups import subgroup_columns
from alignedfusion.evaluation.testing import evaluate_model
from alignedfusion.tables.files import free_name, write_json, write_table
from alignedfusion.training.run_pages import write_run_page
from alignedfusion.training.run_settings import METRICS_FILE, read_settings

if TYPE_CHECKING:
    from alignedfusion.datasets.cases import Cases
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.modules.classifier import AlignedFusionClassifier

PREDICTIONS = "predictions.csv"
PICTURE = "missing.png"
TRAINED_ON = "trained_on.json"


def write_report(
    model: AlignedFusionClassifier,
    manifest: Manifest,
    folder: Path,
    *,
    seconds: float,
    case_pages: bool,
    progress: bool,
) -> dict[str, Any]:
    """Test the model of a run, and write predictions, plot, page, card and metrics.

    Args:
        model: The trained model.
        manifest: The table of the run.
        folder: Folder of the run.
        seconds: Duration of the training.
        case_pages: Whether to write the pages of the most confident errors.
        progress: Whether to show a progress bar.

    Returns:
        The content of `metrics.json`.
    """
    import pandas as pd

    to_device(model)
    table, group = manifest.rows("test"), manifest.columns.group
    cases = manifest.cases(table, model.schema, **prepare_images(model))
    result, outputs = evaluate_model(
        model,
        cases,
        groups=None if group is None else table[group],
        subgroups=subgroup_columns(table, manifest.columns.subgroups, model.schema),
        progress=progress,
    )
    report: dict[str, Any] = {
        **result,
        "task": model.task,
        "cases": {split: len(manifest.rows(split)) for split in SPLITS},
        "classes": list(model.class_names),
        "training_data": model_card.training_data(manifest, model.schema),
        "unreadable": {
            split: count_unread(model.schema.read(manifest.rows(split)).is_unread, model.schema) for split in SPLITS
        },
        "seconds": round(seconds, 1),
    }
    if model.task == "multiclass":
        report["most_frequent_class"] = float(cases.labels.bincount().max() / len(cases))
    write_predictions(folder, model, manifest, cases, outputs)
    write_picture(folder, report, title=f"{manifest.label}: {len(cases)} test cases")
    write_run_page(folder, model, manifest, cases, result, outputs, case_pages=case_pages)
    used = pd.concat([manifest.rows("train"), manifest.rows("valid")])
    write_trained_cases(folder / TRAINED_ON, used, manifest.columns, manifest.root)
    # The metrics are written last: their file marks the run as finished.
    model_card.write(model, folder, report=report, settings=read_settings(folder))
    write_json(folder / METRICS_FILE, report)
    return report


def write_predictions(
    folder: Path, model: AlignedFusionClassifier, manifest: Manifest, cases: Cases, outputs: np.ndarray
) -> None:
    """Write `predictions.csv`: images and labels of the test rows, and the columns of `naming.prediction_columns`.

    Args:
        folder: Folder to write to.
        model: The model.
        manifest: The table; its test rows are the cases.
        cases: The test cases.
        outputs: (n, L), their predictions.
    """
    import pandas as pd

    table = manifest.rows("test")
    columns = (*manifest.images, *manifest.columns.labels)
    predictions = pd.DataFrame({column: table[column].to_numpy() for column in columns})
    cells = prediction_cells(model, outputs, cases.codes.numpy())
    for name, column in zip(prediction_columns(model), zip(*cells, strict=True), strict=True):
        predictions[free_name(name, predictions)] = list(column)
    unread = name_unread(model.schema.read(table).is_unread, model.schema)
    predictions[free_name("unreadable", predictions)] = unread
    write_table(predictions, folder / PREDICTIONS)


def write_picture(folder: Path, report: Mapping[str, Any], *, title: str) -> None:
    """Write `missing.png`: a metric against the share of missing attributes.

    Args:
        folder: Folder to write to.
        report: Content of the run's `metrics.json`.
        title: Title of the plot.
    """
    key, name = plots.MAIN_METRIC[report["task"]]
    plots.accuracy_against_missing(
        {"this model": [(row["missing"], row[key], 0.0) for row in report["missing"]]},
        folder / PICTURE,
        title=title,
        chance=report.get("most_frequent_class"),
        measure=name,
    )


def to_device(model: AlignedFusionClassifier) -> AlignedFusionClassifier:
    """Move a model to the GPU if there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
