"""What each part of the input is worth to a trained model: one modality alone, and each attribute permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignedfusion.attributes import REPORT, UNKNOWN, AttributeSchema
from alignedfusion.evaluation.bootstrap import draw_weights
from alignedfusion.evaluation.columns import Columns
from alignedfusion.evaluation.inference import predict
from alignedfusion.evaluation.predictions import Predictions
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tokenizers import VisualTokenizer

MAX_ROWS = 10_000
"""Limit on the predictions for permuted attributes; with more, a random share of the cases is permuted."""


class WithoutImages(Dataset[dict[str, Any]]):
    """The cases of a data set with their images marked as absent. No image is read.

    Args:
        model: The model; each of its visual modules must be a `VisualTokenizer`.
        codes: int64 (n, A).
    """

    def __init__(self, model: AlignedFusionClassifier, codes: Tensor) -> None:
        self.codes = codes
        tokens: dict[str, Tensor] = {}
        for m, visual in model.visuals.items():
            assert isinstance(visual, VisualTokenizer)
            tokens[m] = torch.zeros(1, visual.num_features)
        self.image: Any = tokens
        self.is_present = {m: torch.tensor(False) for m in tokens}

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.image,
            "codes": self.codes[index],
            "labels": torch.tensor(0),
            "is_present": self.is_present,
        }


def predict_attributes_only(model: AlignedFusionClassifier, variants: Sequence[Tensor]) -> np.ndarray | None:
    """Outputs as those of `predict`, without any image; None if the model has no images, no report, or own modules.

    Args:
        model: The model.
        variants: Codes (n, A), one tensor per version.
    """
    is_known = all(isinstance(visual, VisualTokenizer) for visual in model.visuals.values())
    if not model.image_modalities or REPORT not in model.modalities or not is_known:
        return None
    return predict(model, WithoutImages(model, variants[0]), variants, progress=False)


def permuted_variants(codes: Tensor, *, seed: int = 0) -> tuple[list[Tensor], np.ndarray]:
    """For each attribute the codes (n, A) with its column permuted among the cases, and the cases that take part (n,).

    Args:
        codes: int64 (n, A).
        seed: Seed of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(len(codes), max(2, MAX_ROWS // codes.shape[1]))
    chosen = torch.randperm(len(codes), generator=generator)[:count].sort().values
    variants = []
    for a in range(codes.shape[1]):
        variant = codes.clone()
        variant[chosen, a] = codes[chosen[torch.randperm(count, generator=generator)], a]
        variants.append(variant)
    is_chosen = np.zeros(len(codes), dtype=bool)
    is_chosen[chosen.numpy()] = True
    return variants, is_chosen


def attribute_worth(
    predictions: Predictions | Columns,
    permuted: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """What a model loses if an attribute is permuted, with bootstrap intervals.

    One of several classes: accuracy. Several labels and numbers: the share of the variance of the labels that the outputs
    explain (R2; for probabilities it is the Brier skill score), the mean over the columns.

    Args:
        predictions: n cases.
        permuted: With each attribute permuted, the predicted classes (A, n), or the outputs (A, n, L).
        level: Coverage of the intervals.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        (A, 3): the loss, and the lower and upper end of its interval.
    """
    if isinstance(predictions, Columns):
        loss = _variance_lost(predictions, permuted)
    else:
        is_right = predictions.predicted == predictions.labels
        loss = is_right[:, None] - (permuted == predictions.labels).T.astype(float)  # (n, A)
    draws = np.concatenate(
        [weights @ loss / weights.sum(1)[:, None] for weights in draw_weights(predictions.groups, resamples, seed)]
    )
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return np.stack([loss.mean(0), low, high], axis=1)


def worth_metric(task: str) -> str:
    """Name of what `attribute_worth` measures: "accuracy" or "explained_variance"."""
    return "accuracy" if task == "multiclass" else "explained_variance"


def _variance_lost(columns: Columns, permuted: np.ndarray) -> np.ndarray:
    """What each case adds to the loss of explained variance (n, A); its mean over the cases is the loss."""
    labels, is_known = columns.labels, columns.is_known
    centred = is_known * (labels - labels.sum(0) / np.maximum(is_known.sum(0), 1))
    spread = (centred**2).sum(0)  # (L,)
    has_spread = spread > 0
    before, after = (is_known * (outputs - labels) ** 2 for outputs in (columns.outputs, permuted))
    per_label = (after - before)[..., has_spread] / spread[has_spread]  # (A, n, L)
    return per_label.sum(-1).T * len(labels) / max(1, has_spread.sum())


def describe_attributes(schema: AttributeSchema, codes: Tensor, worth: np.ndarray, cases: int) -> Mapping[str, Any]:
    """How often each attribute is mentioned and what it is worth, as plain JSON.

    Args:
        schema: The attributes.
        codes: int64 (n, A).
        worth: What `attribute_worth` returned.
        cases: Number of the cases whose attributes were permuted.
    """
    shares = (codes != UNKNOWN).double().mean(0).tolist()
    return {
        "cases": cases,
        "attributes": {
            name: {"mentioned": share, "worth": row.tolist()}
            for name, share, row in zip(schema.names, shares, worth, strict=True)
        },
    }
