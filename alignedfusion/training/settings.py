"""Settings of training, as plain data."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from alignedfusion.evaluation.conformal import check_sets

BALANCES = ("none", "class_weights", "logit_adjustment")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training. Each of them can change the result; a run stores them in its `settings.json`.

    Args:
        epochs: Number of passes over the training cases.
        batch_size: Cases per step and device.
        learning_rate: Peak learning rate of parameters that process attributes only. It is reached after a warm-up over a tenth
            of the steps, then falls to zero along a cosine.
        image_rate: Learning rate of parameters that process images, relative to `learning_rate`. It is low because image tokens
            are many and detailed: these parameters overfit before the attributes are learned.
        backbone_rate: Additional factor of the learning rate of a backbone: small for pretrained weights, 1 for random ones.
        weight_decay: Weight decay of AdamW, applied to weight matrices only.
        seed: Seed of the order of cases, of hiding and of dropout. Initial weights are drawn before, when the model is built.
        balance: Help for rare classes. "none" predicts the most probable class. "logit_adjustment" divides the probabilities by
            a power of the class shares before it takes the largest (Menon et al. 2021); `training.decision` chooses the power.
            "class_weights" does so too, and weights the cases of a class by the inverse of its share in training. The
            probabilities stay those of the class shares of the training cases in all three.
        sets: Kind of conformal prediction sets, "lac", "aps" or "class_conditional" (see `evaluation.PredictionSets`), which
            the validation cases calibrate; "none" for no sets.
        coverage: Share of the prediction sets that shall contain the true class.
    """

    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    image_rate: float = 0.2
    backbone_rate: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0
    balance: str = "none"
    sets: str = "none"
    coverage: float = 0.9

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in ("learning_rate", "image_rate", "backbone_rate", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (name == "learning_rate" and not value):
                raise ValueError(f"{name} must be a finite number of at least 0, learning_rate above 0; got {value!r}")
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {list(BALANCES)}, got {self.balance!r}")
        if self.sets != "none":
            check_sets(self.sets, self.coverage)
        elif self.coverage != type(self).coverage:
            raise ValueError(f"coverage={self.coverage} belongs to prediction sets; name their kind with sets")
