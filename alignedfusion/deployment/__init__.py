"""Use of trained models: predictions, exports, model cards and uploads to a model hub."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.deployment.hub import push_to_hub
    from alignedfusion.deployment.prediction import PredictBatch, predict_case, predict_table

__all__ = ["PredictBatch", "predict_case", "predict_table", "push_to_hub"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hub": ("push_to_hub",),
        "prediction": ("PredictBatch", "predict_case", "predict_table"),
    },
)
