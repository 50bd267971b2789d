"""Everything that a run, its card and `evaluate` report about a set of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignedfusion.evaluation.intervals import measure
from alignedfusion.evaluation.metrics import predict_sweep, summarise_sweep
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
    """Test a model on cases with labels.

    Args:
        model: The model.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`.
        groups: The patient of each case, for the intervals; None draws single cases.
        subgroups: Columns by which the cases are divided, as in `subgroup_metrics`.
        progress: Whether to show a progress bar.

    Returns:
        A mapping, plain JSON, and the probabilities (n, C) of the cases as they are. The mapping has `test`, the dict of
        `Metrics` of the cases as they are; `missing`, the rows of `missing_sweep`; and with subgroups `subgroups`, the dicts
        of `subgroup_metrics`.
    """
    sweep = predict_sweep(model, cases, model.schema, progress=progress)
    probabilities, labels = sweep.probabilities[0, 0], cases.labels.numpy()
    result: dict[str, Any] = {
        "test": measure(probabilities, labels, model.class_names, groups=groups).to_dict(),
        "missing": summarise_sweep(sweep, labels),
    }
    if subgroups:
        found = subgroup_metrics(probabilities, labels, subgroups, model.class_names, groups=groups)
        result["subgroups"] = {
            column: {value: metrics.to_dict() for value, metrics in values.items()} for column, values in found.items()
        }
    return result, probabilities
