"""Metrics of subgroups of the cases, such as those of one sex, with a mark where there are too few cases to conclude from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.attributes import AttributeSchema
from alignedfusion.evaluation.intervals import Metrics, measure
from alignedfusion.evaluation.metrics import format_cell, table
from alignedfusion.evaluation.predictions import known_cases

if TYPE_CHECKING:
    import pandas as pd

FEW = 50
"""Subgroups with fewer cases are marked: their intervals are wide, and the bootstrap is unreliable."""
NOT_RECORDED = "(not recorded)"
SHOWN = {
    "multiclass": ("accuracy", "macro_auc", "calibration_error", "coverage"),
    "multilabel": ("macro_auc", "macro_f1", "calibration_error"),
    "regression": ("mae", "rmse", "r2"),
}
Subgroups = Mapping[str, Mapping[str, Metrics]]

_LOG = logging.getLogger(__name__)


def subgroup_columns(frame: pd.DataFrame, names: Sequence[str], schema: AttributeSchema) -> dict[str, pd.Categorical]:
    """The subgroup of each row, by column.

    The subgroups of an attribute are its values in the schema, so numbers are divided at its edges. Any other column is divided
    as an attribute learned from these rows would be: by its values, or numbers at their quantiles.

    Args:
        frame: The table of cases.
        names: The columns.
        schema: The attributes of the model.

    Raises:
        ValueError: For a column that is not in the table, or has too many values.
    """
    import pandas as pd

    if absent := [name for name in names if name not in frame.columns]:
        raise ValueError(f"the table has no columns {absent} for subgroups; it has {list(frame.columns)}")
    known = {attribute.name: attribute for attribute in schema}
    columns = {}
    for name in names:
        own = AttributeSchema([known[name]]) if name in known else AttributeSchema.from_table(frame, [name])
        codes = own.read(frame).codes[:, 0].numpy()  # -1, the code of an unmentioned cell, is that of NaN here
        columns[name] = pd.Categorical.from_codes(codes, categories=list(own.attributes[0].values))
    return columns


def subgroup_metrics(
    outputs: np.ndarray,
    labels: np.ndarray,
    columns: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    *,
    task: str = "multiclass",
    predicted: np.ndarray | None = None,
    groups: Sequence[Any] | None = None,
    sets: np.ndarray | None = None,
    resamples: int = 1000,
) -> dict[str, dict[str, Metrics]]:
    """Metrics of the cases with each value of each column. Subgroups with fewer than 50 cases are logged as a warning.

    Args:
        outputs: (n, C): probabilities, or values in "regression".
        labels: (n,) class indices, or (n, C), as in `measure`. Unknown labels take no part.
        columns: The value of each case (n,), by column; `subgroup_columns` divides numbers. Empty cells are a subgroup.
        class_names: Names of the classes, labels or targets; their indices by default.
        task: "multiclass", "multilabel" or "regression".
        predicted: What is predicted, as in `measure`.
        groups: The patient of each case, as in `measure`.
        sets: Bool (n, C), the classes in prediction sets, as in `measure`.
        resamples: Number of bootstrap resamples.

    Returns:
        By column and value, in the order of the values. A value without a labelled case is left out.
    """
    import pandas as pd

    outputs, labels = np.asarray(outputs), np.asarray(labels)
    patients = None if groups is None else np.asarray(groups, dtype=object)
    found: dict[str, dict[str, Metrics]] = {}
    for column, cells in columns.items():
        if len(cells) != len(labels):
            raise ValueError(f"column {column!r} must have one cell per label, got {len(cells)} for {len(labels)}")
        values = pd.Categorical(cells)
        found[column] = {}
        for code, name in [*enumerate(values.categories), (-1, NOT_RECORDED)]:
            own = values.codes == code
            if known_cases(labels[own], task).any():
                found[column][str(name)] = measure(
                    outputs[own],
                    labels[own],
                    class_names,
                    task=task,
                    predicted=None if predicted is None else np.asarray(predicted)[own],
                    groups=None if patients is None else patients[own],
                    sets=None if sets is None else sets[own],
                    resamples=resamples,
                )
    if few := few_cases(found):
        _LOG.warning(few)
    return found


def unpack_subgroups(data: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Metrics]]:
    """The subgroups of a `metrics.json`."""
    return {
        column: {value: Metrics.from_dict(metrics) for value, metrics in values.items()}
        for column, values in data.items()
    }


def few_cases(found: Subgroups) -> str:
    """A warning that names the subgroups with too few cases; empty if there are none."""
    small = [
        f"{column} {value} ({metrics.cases})"
        for column, values in found.items()
        for value, metrics in values.items()
        if metrics.cases < FEW
    ]
    return f"fewer than {FEW} cases, too few to conclude from: {', '.join(small)}" if small else ""


def subgroup_rows(found: Subgroups) -> list[dict[str, str]]:
    """Rows for a table: column, value, cases (marked with ! where there are few), and metrics with their intervals."""
    return [
        {"subgroup": column, "value": value, "cases": f"{metrics.cases}{' !' * (metrics.cases < FEW)}"}
        | {name: _text(name, metrics) for name in SHOWN[metrics.task] if name in metrics.overall}
        for column, values in found.items()
        for value, metrics in values.items()
    ]


def subgroup_table(found: Subgroups) -> str:
    """The subgroups as a table in plain text, followed by the warning about small ones."""
    return "\n".join(filter(None, (table(subgroup_rows(found)), few_cases(found))))


def _text(name: str, metrics: Metrics) -> str:
    value, low, high = (format_cell(name, number) for number in metrics.overall[name])
    return value if low == "-" else f"{value} ({low} to {high})"
