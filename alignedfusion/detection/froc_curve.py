"""The FROC curve as `froc` returns it, and bootstrap intervals of its sensitivities."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

NEVER = -np.inf
"""Best score of a lesion that no detection hits."""


class Scored(NamedTuple):
    """Scores (n,) and the index of each one's image (n,)."""

    scores: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class FROCInterval:
    """A bootstrap interval.

    Attributes:
        fppi: Requested false positives per image.
        low: Lower end at each of them.
        high: Upper end at each of them.
        mean: Lower and upper end for the mean sensitivity.
        level: Share of the resamples inside the interval.
        num_groups: Number of patients.
    """

    fppi: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, float]
    level: float
    num_groups: int


@dataclass(frozen=True, eq=False)
class FROC:
    """The result of `froc`.

    Attributes:
        fppi: Requested false positives per image.
        sensitivity: Sensitivity at each of them, 0 to 1; nan without lesions.
        mean: Mean of `sensitivity`.
        num_images: Number of images, with and without lesions.
        num_lesions: Number of lesions in all images.
        curve_fppi: (P,), increasing. The first point is 0; then there is one per distinct score.
        curve_sensitivity: (P,), sensitivity at these points.
        curve_scores: (P,), decreasing score thresholds of these points; inf at the first, which keeps no detection.
        false_positives: Scores of the detections that count as false.
        lesions: Best score among the detections that hit each lesion, in the given order; -inf if none does.
    """

    fppi: tuple[float, ...]
    sensitivity: tuple[float, ...]
    mean: float
    num_images: int
    num_lesions: int
    curve_fppi: np.ndarray = field(repr=False)
    curve_sensitivity: np.ndarray = field(repr=False)
    curve_scores: np.ndarray = field(repr=False)
    false_positives: Scored = field(repr=False)
    lesions: Scored = field(repr=False)

    def interval(
        self,
        *,
        groups: Sequence[Hashable],
        samples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
        minus: FROC | None = None,
    ) -> FROCInterval:
        """Bootstrap a percentile interval over patients, because images of one patient are not independent.

        Args:
            groups: Patient of each image.
            samples: Number of resamples. Resamples without lesions are left out.
            level: Share of the resamples inside the interval.
            seed: Seed of the resampling.
            minus: Another result on the same images. The interval is then that of the difference, from the same resamples.

        Raises:
            ValueError: If there is not one group per image, there are fewer than two patients, or the other result has other
                images or points.
        """
        if samples < 1 or not 0 < level < 1:
            raise ValueError(f"samples must be at least 1 and level between 0 and 1, got {samples} and {level}")
        numbers: dict[Hashable, int] = {}
        names = groups.tolist() if isinstance(groups, (torch.Tensor, np.ndarray)) else groups
        group = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
        if len(group) != self.num_images:
            raise ValueError(f"groups must name the patient of each of the {self.num_images} images, got {len(group)}")
        if len(numbers) < 2:
            raise ValueError(f"an interval needs images of at least two patients, got {len(numbers)}")
        drawn = self._resample(group, samples, seed)  # (samples, points)
        if minus is not None:
            mine, theirs = ((r.num_images, r.num_lesions, r.fppi) for r in (self, minus))
            if mine != theirs:
                raise ValueError(f"both results must be of the same images, lesions and FPPI, got {mine} and {theirs}")
            drawn = drawn - minus._resample(group, samples, seed)
        drawn = drawn[~np.isnan(drawn).any(1)]
        drawn = np.concatenate([drawn, drawn.mean(1, keepdims=True)], 1)  # (samples, points + 1)
        ends = np.full((2, drawn.shape[1]), np.nan)
        if len(drawn):
            ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        (*low, mean_low), (*high, mean_high) = ends.tolist()
        return FROCInterval(self.fppi, tuple(low), tuple(high), (mean_low, mean_high), level, len(numbers))

    def _resample(self, group: np.ndarray, samples: int, seed: int) -> np.ndarray:
        # Hits do not change: each resample only reweights the same sorted scores.
        rng = np.random.default_rng(seed)
        num_groups = int(group.max()) + 1
        order, best_order = np.argsort(-self.false_positives.scores), np.argsort(-self.lesions.scores)
        false_group = group[self.false_positives.images[order]]
        limits = np.append(self.false_positives.scores[order], NEVER)
        lesion_group = group[self.lesions.images[best_order]]
        best = -self.lesions.scores[best_order]  # rising
        num_images, num_lesions = (np.bincount(each, minlength=num_groups) for each in (group, lesion_group))
        drawn = np.full((samples, len(self.fppi)), np.nan)
        for sample in range(samples):
            weights = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
            if total := weights @ num_lesions:
                allowed = allowed_counts(self.fppi, weights @ num_images)
                # The best score of a false positive that is one too many: lesions must be hit by a better score.
                limit = limits[np.searchsorted(np.cumsum(weights[false_group]), allowed, side="right")]
                found = np.append(0, np.cumsum(weights[lesion_group]))
                drawn[sample] = found[np.searchsorted(best, -limit, side="left")] / total
        return drawn


def allowed_counts(fppi: Sequence[float], num_images: Any) -> np.ndarray:
    """Largest numbers of false positives within `fppi`."""
    # 0.29 times 100 images is 28.999... in floating point, but 29 false positives are meant.
    return np.floor(np.asarray(fppi) * num_images + 1e-9)
