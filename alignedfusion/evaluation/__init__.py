"""Predictions of trained models, metrics and plots."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.evaluation.conformal import PredictionSets
    from alignedfusion.evaluation.inference import outputs, predict
    from alignedfusion.evaluation.intervals import Interval, Metrics, measure
    from alignedfusion.evaluation.metrics import calibration_error, compute_metrics, missing_sweep, table
    from alignedfusion.evaluation.subgroups import subgroup_columns, subgroup_metrics, subgroup_table

__all__ = [
    "Interval",
    "Metrics",
    "PredictionSets",
    "calibration_error",
    "compute_metrics",
    "measure",
    "missing_sweep",
    "outputs",
    "predict",
    "subgroup_columns",
    "subgroup_metrics",
    "subgroup_table",
    "table",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "conformal": ("PredictionSets",),
        "inference": ("outputs", "predict"),
        "intervals": ("Interval", "Metrics", "measure"),
        "metrics": ("calibration_error", "compute_metrics", "missing_sweep", "table"),
        "subgroups": ("subgroup_columns", "subgroup_metrics", "subgroup_table"),
    },
)
