"""Training, calibration and runs; token caches that are written before training."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.training.calibration import calibrate
    from alignedfusion.training.decision import choose_decision
    from alignedfusion.training.fitting import fit, parameter_groups
    from alignedfusion.training.sets import calibrate_sets
    from alignedfusion.training.settings import TrainingSettings
    from alignedfusion.training.token_batches import TokenBatch

__all__ = [
    "TokenBatch",
    "TrainingSettings",
    "calibrate",
    "calibrate_sets",
    "choose_decision",
    "fit",
    "parameter_groups",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "calibration": ("calibrate",),
        "decision": ("choose_decision",),
        "fitting": ("fit", "parameter_groups"),
        "sets": ("calibrate_sets",),
        "settings": ("TrainingSettings",),
        "token_batches": ("TokenBatch",),
    },
)
