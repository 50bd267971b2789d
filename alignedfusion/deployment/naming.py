"""Predictions with names instead of positions: columns of a table for many cases, plain JSON for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from alignedfusion.attributes import UNKNOWN
from alignedfusion.evaluation.inference import decide, prediction_sets
from alignedfusion.modules.tasks import Regression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alignedfusion.modules.classifier import AlignedFusionClassifier

SEPARATOR = "; "
"""Between the names in a cell."""


def prediction_columns(model: AlignedFusionClassifier) -> list[str]:
    """Names of the columns of `prediction_cells`."""
    if model.task == "regression":
        return [f"predicted({name})" for name in model.class_names]
    return [
        "predicted",
        *(("most_probable",) if model.prior_exponent else ()),
        *(("set",) if model.prediction_sets is not None else ()),
        *(f"p({name})" for name in model.class_names),
    ]


def prediction_cells(model: AlignedFusionClassifier, outputs: np.ndarray, codes: np.ndarray) -> list[list[Any]]:
    """The predictions of some cases as cells of a table, row by row.

    Args:
        model: The model.
        outputs: (n, L), what `model.activate` returned.
        codes: (n, A), their attributes.
    """
    if model.task == "regression":
        return [_round_numbers(model, row) for row in outputs.tolist()]
    columns = [_name_choices(model, decide(model, outputs))]
    if model.prior_exponent:
        is_multiclass = model.task == "multiclass"
        columns.append(_name_choices(model, outputs.argmax(1) if is_multiclass else outputs > 0.5))
    if (sets := prediction_sets(model, outputs, codes)) is not None:
        columns.append([SEPARATOR.join(_name_set(model, *row)) for row in zip(outputs, sets, strict=True)])
    return [
        [*choice, *(round(share, 6) for share in shares)]
        for *choice, shares in zip(*columns, outputs.tolist(), strict=True)
    ]


def name_output(model: AlignedFusionClassifier, codes: Tensor, output: Mapping[str, Tensor]) -> dict[str, Any]:
    """The output of a model for one case, with names instead of positions, as plain JSON.

    Args:
        model: The model.
        codes: int64 (1, A).
        output: Output of the model.

    Returns:
        A mapping with `predicted`, what `AlignedFusionClassifier.decide` chooses: a class, a list of the labels that are
        present, or the value of each number; `classes` or `labels`, the probability of each; `attributes`, the probability of
        each value of each unmentioned attribute; and, for a model with conformal prediction sets, `set`, the names of the
        classes in the set, most probable first, and `coverage`, the share of sets that contain the true class. Probabilities
        have four digits.
    """
    outputs = model.activate(output["logits"].float())
    logits = output.get("reconstruction")
    filled = {}
    if logits is not None:
        filled = {
            attribute.name: _name_shares(attribute.values, row.float().softmax(-1).tolist())
            for attribute, code, row in zip(model.schema, codes[0].tolist(), logits[0], strict=True)
            if code == UNKNOWN
        }
    named = _name_prediction(model, output["logits"][0], outputs[0])
    return {**named, "attributes": filled, **_named_set(model, outputs, codes)}


def _name_prediction(model: AlignedFusionClassifier, logits: Tensor, outputs: Tensor) -> dict[str, Any]:
    names, shares = model.class_names, outputs.tolist()
    if model.task == "regression":
        return {"predicted": dict(zip(names, _round_numbers(model, shares), strict=True))}
    if model.task == "multilabel":
        chosen = model.decide(logits).tolist()
        predicted = [name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen]
        return {"predicted": predicted, "labels": _name_shares(names, shares)}
    return {"predicted": names[int(model.decide(logits))], "classes": _name_shares(names, shares)}


def _name_choices(model: AlignedFusionClassifier, chosen: np.ndarray) -> list[str]:
    """The chosen class of each case (n,), or its chosen labels (n, L) in one text."""
    if model.task == "multiclass":
        return [model.class_names[i] for i in chosen]
    names = np.array(model.class_names, dtype=object)
    return [SEPARATOR.join(names[row.astype(bool)]) for row in chosen]


def _name_set(model: AlignedFusionClassifier, chances: np.ndarray, is_in_set: np.ndarray) -> list[str]:
    """The names of the classes in a set, most probable first."""
    return [model.class_names[i] for i in np.argsort(-chances, kind="stable") if is_in_set[i]]


def _named_set(model: AlignedFusionClassifier, chances: Tensor, codes: Tensor) -> dict[str, Any]:
    sets = prediction_sets(model, chances.numpy(), codes.numpy())
    if sets is None or model.prediction_sets is None:
        return {}
    return {"set": _name_set(model, chances[0].numpy(), sets[0]), "coverage": model.prediction_sets["coverage"]}


def _name_shares(names: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    """Rounded probabilities by name; the reconstruction has further, empty places after the last value."""
    return {name: round(share, 4) for name, share in zip(names, shares, strict=False)}


def _round_numbers(model: AlignedFusionClassifier, values: Sequence[float]) -> list[float]:
    """Numbers rounded to six digits of their standard deviation: large numbers may differ in their last digits only."""
    assert isinstance(model.targets, Regression)
    spreads = model.targets.std.tolist()
    return [round(value, 5 - math.floor(math.log10(spread))) for value, spread in zip(values, spreads, strict=True)]
