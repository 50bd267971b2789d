"""Predictions of trained models, metrics and plots."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.evaluation.inference import outputs, predict
    from alignedfusion.evaluation.metrics import calibration_error, compute_metrics, missing_sweep, table

__all__ = ["calibration_error", "compute_metrics", "missing_sweep", "outputs", "predict", "table"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "inference": ("outputs", "predict"),
        "metrics": ("calibration_error", "compute_metrics", "missing_sweep", "table"),
    },
)
