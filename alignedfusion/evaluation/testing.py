"""Everything that a run, its card, its page and `evaluate` report about a set of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.evaluation.ablation import (
    attribute_worth,
    describe_attributes,
    permuted_variants,
    predict_attributes_only,
    worth_metric,
)
from alignedfusion.evaluation.columns import check_columns
from alignedfusion.evaluation.inference import decide, predict
from alignedfusion.evaluation.intervals import measure
from alignedfusion.evaluation.metrics import as_sweep, compute_metrics, summarise_sweep, sweep_variants
from alignedfusion.evaluation.predictions import check_predictions, known_cases
from alignedfusion.evaluation.subgroups import subgroup_metrics
from alignedfusion.modules.classifier import AlignedFusionClassifier


def evaluate_model(
    model: AlignedFusionClassifier,
    cases: Any,
    *,
    groups: Sequence[Any] | None = None,
    subgroups: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], np.ndarray]:
    """Test a model on cases with labels. Each image is encoded once. What is predicted is what `model.decide` returns.

    Args:
        model: The model.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`.
        groups: The patient of each case, for the intervals; None draws single cases.
        subgroups: Columns by which the cases are divided, as in `subgroup_metrics`.
        progress: Whether to show a progress bar.

    Returns:
        A mapping, plain JSON, and what `predict` returns for the cases as they are, (n, C). The mapping has `test`, the dict of
        `Metrics` of the cases as they are; `missing`, the rows of `missing_sweep`; `attributes_only`, such rows of the model
        without any image; `image_only`, the metrics of the model without any attribute; `permuted`, see
        `ablation.describe_attributes`; and with subgroups `subgroups`, the dicts of `subgroup_metrics`. What a model without
        images or without a report cannot have is left out.
    """
    labels, task = cases.labels.numpy(), model.task
    dropped = sweep_variants(cases.codes, model.schema)
    permuted, is_chosen = (
        permuted_variants(cases.codes) if REPORT in model.modalities else ([], np.zeros(len(labels), bool))
    )
    is_chosen = is_chosen & known_cases(labels, task)
    blank = torch.full_like(cases.codes, UNKNOWN)
    found = predict(model, cases, [*dropped, blank, *permuted], progress=progress)
    sweep = as_sweep(model, dropped, found[: len(dropped)])
    outputs, predicted = sweep.outputs[0, 0], sweep.predicted[0, 0]
    sets = None if sweep.sets is None else sweep.sets[0, 0]
    shared: dict[str, Any] = {"task": task, "predicted": predicted, "groups": groups, "sets": sets}
    metrics = measure(outputs, labels, model.class_names, **shared)
    result: dict[str, Any] = {
        "test": metrics.to_dict(),
        "missing": summarise_sweep(sweep, labels),
    }
    if (alone := predict_attributes_only(model, dropped)) is not None:
        silent = found[len(dropped)]
        result["image_only"] = compute_metrics(silent, labels, predicted=decide(model, silent), task=task)
        result["attributes_only"] = summarise_sweep(as_sweep(model, dropped, alone), labels)
    if permuted:
        own = None if groups is None else np.asarray(groups, dtype=object)[is_chosen]
        chosen = outputs[is_chosen], labels[is_chosen]
        without = found[len(dropped) + 1 :, is_chosen]
        if task == "multiclass":
            checked = check_predictions(*chosen, predicted[is_chosen], own)
            worth = attribute_worth(checked, decide(model, without))
        else:
            worth = attribute_worth(check_columns(*chosen, task, groups=own), without)
        described = describe_attributes(model.schema, cases.codes, worth, int(is_chosen.sum()))
        result["permuted"] = {"metric": worth_metric(task), **described}
    if subgroups:
        by_column = subgroup_metrics(outputs, labels, subgroups, model.class_names, **shared)
        result["subgroups"] = {
            column: {value: metrics.to_dict() for value, metrics in values.items()}
            for column, values in by_column.items()
        }
    return result, outputs
