"""Settings of a training, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. Everything here can change the result, and `dataclasses.asdict` of it is stored with a run.

    Args:
        epochs: Passes over the training cases.
        batch_size: Cases per step and device.
        learning_rate: Peak learning rate of parameters that read attributes only. It is reached after a warm-up over a tenth of
            the steps, then falls to zero along a cosine.
        image_rate: Learning rate of parameters that read images, relative to `learning_rate`. Image tokens are many and rich:
            what learns from them overfits before attributes are learned.
        backbone_rate: Learning rate of a backbone, relative to that of its tokens: small for a pretrained one, 1 for one that
            starts at random.
        weight_decay: Of AdamW, on weight matrices only.
        seed: Seed of order, hiding and dropout. Initial weights are drawn before, when the model is built.
    """

    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    image_rate: float = 0.2
    backbone_rate: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0
