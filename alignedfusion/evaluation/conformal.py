"""Conformal prediction sets: sets of classes that contain the true one with a chosen probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from crepes import ConformalClassifier

KINDS = ("lac", "aps", "class_conditional")
EDGES = (0.0, 0.25, 0.5, 0.75)
"""Upper ends of the bins of the share of mentioned attributes; the last bin ends at 1."""
MAX_CASES = 1000
"""Calibration cases kept per bin."""
DIGITS = 5
"""Digits of the scores."""


@dataclass(frozen=True)
class PredictionSets:
    """Split conformal prediction sets, calibrated separately by the share of mentioned attributes; plain data.

    A class is in the set unless its score is worse than that of most calibration cases with about as many mentioned attributes
    (a Mondrian conformal classifier, computed by `crepes`). Where no calibration case is comparable, every class is in the set.

    Args:
        kind: "lac", the smallest sets: classes above a threshold. "aps", adaptive sets: the most probable classes up to a
            total. "class_conditional", a threshold per class: coverage holds for each class, and a class with too few
            calibration cases is in every set.
        coverage: Share of cases whose set contains the true class.
        offsets: (C,), what the decision adds to log probabilities (see `AlignedFusionClassifier.decide`). Classes enter a set
            in the order in which the decision prefers them.
        bins: The bin of each calibration score.
        labels: The label of each calibration score.
        scores: The scores; higher is less plausible.
    """

    kind: str
    coverage: float
    offsets: tuple[float, ...]
    bins: tuple[int, ...]
    labels: tuple[int, ...]
    scores: tuple[float, ...]

    @classmethod
    def calibrate(
        cls,
        probabilities: np.ndarray,
        labels: np.ndarray,
        mentioned: np.ndarray,
        *,
        kind: str = "lac",
        coverage: float = 0.9,
        offsets: Sequence[float] | None = None,
        seed: int = 0,
    ) -> PredictionSets:
        """Calibrate on cases that were not used in training.

        Args:
            probabilities: (versions, n, C), for versions of the same cases with different shares of missing attributes. A case
                counts once in each bin.
            labels: (n,). Cases with a negative label take no part.
            mentioned: (versions, n), the share of mentioned attributes.
            kind: See the class.
            coverage: See the class.
            offsets: See the class; zeros by default.
            seed: Seed of the choice of cases where a bin has more than 1,000.
        """
        check_sets(kind, coverage)
        shape = probabilities.shape
        if len(shape) != 3 or mentioned.shape != shape[:2] or labels.shape != shape[1:2]:
            raise ValueError(
                f"need probabilities (versions, n, C), labels (n,) and mentioned (versions, n); got {shape}, "
                f"{labels.shape} and {mentioned.shape}"
            )
        shift = np.zeros(shape[2]) if offsets is None else np.asarray(offsets, dtype=float)
        scores = nonconformity(probabilities, kind, shift)
        own = np.take_along_axis(scores, np.broadcast_to(labels[:, None] % shape[2], (*shape[:2], 1)), -1)[..., 0]
        bins = find_bins(mentioned)
        random = np.random.default_rng(seed)
        kept: list[tuple[int, int, float]] = []
        for number in np.unique(bins):
            is_first = (bins == number) & ((bins == number).cumsum(0) == 1) & (labels >= 0)
            version, case = np.nonzero(is_first)
            if len(case) > MAX_CASES:
                chosen = random.choice(len(case), MAX_CASES, replace=False)
                version, case = version[chosen], case[chosen]
            kept += [(int(number), int(labels[i]), float(own[v, i])) for v, i in zip(version, case, strict=True)]
        columns = tuple(zip(*kept, strict=True)) or ((), (), ())
        return cls(kind, coverage, tuple(shift.tolist()), *columns)

    def __call__(self, probabilities: np.ndarray, mentioned: np.ndarray) -> np.ndarray:
        """Which classes are in the sets, bool (..., C).

        Args:
            probabilities: (..., C).
            mentioned: (...), the share of mentioned attributes.
        """
        count = probabilities.shape[-1]
        scores = nonconformity(probabilities, self.kind, np.array(self.offsets)).reshape(-1, count)
        bins = find_bins(mentioned).ravel()
        classifier = self._classifier(count)
        if self.kind != "class_conditional":
            return self._select(classifier, scores, bins).reshape(probabilities.shape)
        columns = [self._select(classifier, scores[:, [c]], bins * count + c) for c in range(count)]
        return np.concatenate(columns, axis=1).reshape(probabilities.shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PredictionSets:
        """The prediction sets that `to_dict` described."""
        values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in data.items()}
        return cls(**values)

    def _classifier(self, count: int) -> ConformalClassifier:
        bins = np.array(self.bins)
        categories = bins * count + np.array(self.labels) if self.kind == "class_conditional" else bins
        return import_crepes().ConformalClassifier().fit(np.array(self.scores), bins=categories)

    def _select(self, classifier: ConformalClassifier, scores: np.ndarray, bins: np.ndarray) -> np.ndarray:
        # Without smoothing, equal cases have equal sets.
        chosen = classifier.predict_set(scores, bins=bins, confidence=self.coverage, smoothing=False)
        return np.asarray(chosen, dtype=bool)


def nonconformity(probabilities: np.ndarray, kind: str, offsets: np.ndarray) -> np.ndarray:
    """How implausible each class is (..., C).

    For "aps" (Romano et al. 2020, not randomised) the total of the more plausible classes, otherwise the negative logarithm of
    the probability, with the offsets of the decision. With the prior in the offsets, rare classes enter the sets earlier.

    Scores are rounded, so that those of equal cases are equal in calibration and in use.
    """
    logits = np.log(np.maximum(probabilities.astype(float), 1e-12)) + offsets
    if kind != "aps":
        return np.round(-logits, DIGITS)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, -1)
    above = np.cumsum(ordered, axis=-1) - ordered
    above = np.round(above, DIGITS)
    return np.take_along_axis(above, np.argsort(order, axis=-1, kind="stable"), -1)


def find_bins(mentioned: np.ndarray) -> np.ndarray:
    """The bin of each share of mentioned attributes: 0 for none, then quarters."""
    return np.searchsorted(np.array(EDGES), np.asarray(mentioned, dtype=float) - 1e-9, side="left")


def set_metrics(sets: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Coverage and size of the sets of the cases with a label."""
    if len(sets) != len(labels):
        raise ValueError(f"sets must have one row per label, got {len(sets)} for {len(labels)}")
    is_known = labels >= 0
    kept = sets[is_known]
    return {
        "coverage": kept[np.arange(len(kept)), labels[is_known]].astype(float),
        "set_size": kept.sum(1).astype(float),
    }


def check_sets(kind: str, coverage: float) -> None:
    """Raise a ValueError for an unknown kind of sets or a coverage out of range."""
    if kind not in KINDS:
        raise ValueError(f"prediction sets must be one of {list(KINDS)}, got {kind!r}")
    if not 0.5 <= coverage < 1:
        raise ValueError(
            f"coverage is the share of sets that contain the true class, 0.5 to 1 (exclusive); got {coverage}"
        )


def import_crepes() -> Any:
    """The package `crepes`."""
    try:
        import crepes
    except ImportError as error:
        message = "prediction sets need crepes: pip install 'alignedfusion[conformal]'"
        raise ModuleNotFoundError(message, name="crepes") from error
    return crepes
