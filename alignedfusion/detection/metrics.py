"""FROC: the share of lesions found against false positives per image, with its conventions named (Table 3).

A detection hits a lesion where their boxes overlap enough. A threshold on the scores keeps some detections: sensitivity is
the share of all lesions that a kept one hits, FPPI the number of kept ones that hit none, divided by the number of ALL
images, those without a lesion too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from alignedfusion.detection.boxes import overlaps, read_boxes, read_detections

_NEVER = -np.inf  # the best score of a lesion that nothing hits


class Scored(NamedTuple):
    """Scores (n,) and the image (n,) that each is from."""

    scores: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class FROCInterval:
    """A bootstrap interval.

    Attributes:
        fppi: The asked false positives per image.
        low: Lower end at each of them.
        high: Upper end at each of them.
        mean: Lower and upper end of the mean sensitivity.
        level: Share of the resamples within.
        num_groups: How many patients were resampled.
    """

    fppi: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, float]
    level: float
    num_groups: int


@dataclass(frozen=True, eq=False)
class FROC:
    """What `froc` found.

    Attributes:
        fppi: The asked false positives per image.
        sensitivity: At each of them, 0 to 1; nan without a lesion.
        mean: Mean of `sensitivity`.
        num_images: Images, with a lesion or not.
        num_lesions: Lesions of all images.
        curve_fppi: (P,) rising; the first point is 0, then one per distinct score.
        curve_sensitivity: (P,), likewise.
        curve_scores: (P,) falling: keeping the detections that score this or more gives the point; inf keeps none.
        false_positives: Scores of the detections that count as false.
        lesions: Best score that hits each lesion, in the order given; -inf where none does.
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
        """A percentile interval from resampled patients, not images: those of one patient resemble each other.

        Args:
            groups: The patient of each image.
            samples: Number of resamples. One without any lesion says nothing, and is left out.
            level: Share of the resamples within.
            seed: Equal seeds draw equal patients.
            minus: Another result on the same images: the interval is that of the difference, the patients drawn alike.

        Raises:
            ValueError: If the number of groups is not that of the images, there are fewer than two patients, or the other
                result is of other images or points.
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
        # Who hits what does not change: every resample only weighs the same sorted scores anew.
        rng = np.random.default_rng(seed)
        num_groups = int(group.max()) + 1
        order, best_order = np.argsort(-self.false_positives.scores), np.argsort(-self.lesions.scores)
        false_group = group[self.false_positives.images[order]]
        limits = np.append(self.false_positives.scores[order], _NEVER)
        lesion_group = group[self.lesions.images[best_order]]
        best = -self.lesions.scores[best_order]  # rising
        num_images, num_lesions = (np.bincount(each, minlength=num_groups) for each in (group, lesion_group))
        drawn = np.full((samples, len(self.fppi)), np.nan)
        for sample in range(samples):
            weights = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
            if total := weights @ num_lesions:
                allowed = _allowed(self.fppi, weights @ num_images)
                # The first false positive that is one too many: lesions must be hit by something better.
                limit = limits[np.searchsorted(np.cumsum(weights[false_group]), allowed, side="right")]
                found = np.append(0, np.cumsum(weights[lesion_group]))
                drawn[sample] = found[np.searchsorted(best, -limit, side="left")] / total
        return drawn


def froc(
    detections: Sequence[Any],
    lesions: Sequence[Any],
    *,
    fppi: Sequence[float] = (0.5, 1, 2),
    overlap: float = 0.5,
    box_offset: float = 1,
    duplicates: str = "ignore",
) -> FROC:
    """Sensitivity at given numbers of false positives per image.

    One box may hit several lesions. All detections of one score enter together, so ties cannot depend on an order. The
    sensitivity at a value is the best of the curve that stays within it; past the curve's end, its last.

    Args:
        detections: Per image a mapping with "boxes" and "scores", as torchvision's detectors answer, or a pair of them: boxes
            (n, 4) as x1 y1 x2 y2, or (n, 6) as x1 y1 z1 x2 y2 z2, and scores (n,); tensors or arrays.
        lesions: Per image the true boxes (m, 4) or (m, 6), or a mapping with "boxes"; m may be 0.
        fppi: The asked false positives per image.
        overlap: Intersection over union that makes a hit, above 0 and at most 1.
        box_offset: Added to each side's length: 1 where the corners are pixels that belong to the box, 0 where they are edges.
        duplicates: What a detection is whose lesions all are hit by a better-scored one already: "ignore" counts it neither
            as true nor false, "false_positive" counts it as false.

    Returns:
        Sensitivities 0 where nothing is detected, and nan where there is no lesion.

    Raises:
        ValueError: For other shapes or lengths, a box whose second corner is before its first, or a score that is no finite
            number; the message names the image.
    """
    points = _check(fppi, overlap, box_offset, duplicates)
    if len(detections) != len(lesions):
        raise ValueError(
            f"every image needs its detections and lesions, got {len(detections)} and {len(lesions)} images"
        )
    false_scores, best_scores = [np.zeros(0)], [np.zeros(0)]
    for image, (found, truth) in enumerate(zip(detections, lesions, strict=True)):
        boxes, scores = read_detections(found, image)
        is_hit = overlaps(boxes, read_boxes(truth, image, "lesion"), box_offset, image) >= overlap  # (n, m)
        best = np.where(is_hit, scores[:, None], _NEVER).max(0, initial=_NEVER)  # (m,)
        counts = is_hit if duplicates == "ignore" else is_hit & (scores[:, None] >= best)
        false_scores.append(scores[~counts.any(1)])
        best_scores.append(best)
    false, best = (_gather(parts) for parts in (false_scores, best_scores))

    hits = best.scores[best.scores > _NEVER]
    thresholds = np.unique(np.concatenate([false.scores, hits]))[::-1]  # falling
    num_false, num_found = (
        np.append(0, len(scores) - np.searchsorted(np.sort(scores), thresholds)) for scores in (false.scores, hits)
    )
    num_images, num_lesions = len(lesions), len(best.scores)
    curve = num_found / num_lesions if num_lesions else np.full(len(num_found), np.nan)
    sensitivity = curve[np.searchsorted(num_false, _allowed(points, num_images), side="right") - 1]
    return FROC(
        points,
        tuple(sensitivity.tolist()),
        float(sensitivity.mean()),
        num_images,
        num_lesions,
        num_false / max(num_images, 1),
        curve,
        np.append(np.inf, thresholds),
        false,
        best,
    )


def plot_froc(results: Mapping[str, FROC], path: str | Path, *, title: str, log: bool = False) -> None:
    """Draw one curve per result, with its asked points marked.

    Args:
        results: By name.
        path: Where to write the picture.
        title: Its heading.
        log: Whether the axis of false positives is logarithmic.
    """
    from matplotlib.figure import Figure

    if not results:
        raise ValueError("there is no result to draw")
    asked = [point for result in results.values() for point in result.fppi]
    left, right = (min(asked) / 4 if log else 0.0), 1.25 * max(asked)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, result) in enumerate(results.items()):
        percent = 100 * result.curve_sensitivity
        axes.step(  # past its last point a curve goes on level
            np.append(result.curve_fppi, max(right, result.curve_fppi[-1])),
            np.append(percent, percent[-1]),
            where="post",
            color=f"C{number}",
            label=f"{name} (mean {100 * result.mean:.1f})",
        )
        heights = [100 * each for each in result.sensitivity]
        axes.plot(result.fppi, heights, color=f"C{number}", linestyle="", marker="os^Dv"[number % 5])
    if log:
        axes.set_xscale("log", base=2)
        ticks = sorted(set(asked))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(left, right)
    axes.set_ylim(0, 102)
    axes.set_xlabel("false positives per image")
    axes.set_ylabel("sensitivity (%)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def average_precision(detections: Sequence[Any], lesions: Sequence[Any]) -> dict[str, float]:
    """COCO's average precision, by torchmetrics; inputs as in `froc`, boxes (n, 4), at most 100 detections an image count.

    Returns:
        "AP", the mean over overlaps of 0.5 to 0.95, "AP50" and "AP75", 0 to 1; nan without a lesion.

    Raises:
        ImportError: Without torchmetrics and pycocotools.
        ValueError: As `froc` raises it.
    """
    try:
        metric = import_module("torchmetrics.detection").MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
    except (ImportError, ModuleNotFoundError) as error:
        raise ImportError(
            "average precision needs two further packages: pip install torchmetrics pycocotools"
        ) from error
    if len(detections) != len(lesions):
        raise ValueError(
            f"every image needs its detections and lesions, got {len(detections)} and {len(lesions)} images"
        )
    found, truth = [], []
    for image, (detection, lesion) in enumerate(zip(detections, lesions, strict=True)):
        boxes, scores = read_detections(detection, image)
        found.append({**_as_coco(boxes, image), "scores": torch.from_numpy(scores).float()})
        truth.append(_as_coco(read_boxes(lesion, image, "lesion"), image))
    if not any(len(each["boxes"]) for each in truth):
        return dict.fromkeys(("AP", "AP50", "AP75"), float("nan"))
    metric.warn_on_many_detections = False
    metric.update(found, truth)
    values = metric.compute()
    return {name: float(values[key]) for name, key in (("AP", "map"), ("AP50", "map_50"), ("AP75", "map_75"))}


def _allowed(fppi: Sequence[float], num_images: Any) -> np.ndarray:
    # 0.29 times 100 images is 28.999... in floating point, and means 29 false positives.
    return np.floor(np.asarray(fppi) * num_images + 1e-9)


def _gather(parts: list[np.ndarray]) -> Scored:
    # The first part is empty, and stands for no image.
    return Scored(np.concatenate(parts), np.repeat(np.arange(-1, len(parts) - 1), [len(part) for part in parts]))


def _as_coco(boxes: np.ndarray, image: int) -> dict[str, torch.Tensor]:
    if boxes.shape[1] != 4:
        raise ValueError(f"image {image}: average precision takes boxes of 4 numbers, got {boxes.shape[1]}")
    return {"boxes": torch.from_numpy(boxes).float(), "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def _check(fppi: Sequence[float], overlap: float, box_offset: float, duplicates: str) -> tuple[float, ...]:
    points = tuple(float(point) for point in fppi)
    if not points or not all(0 <= point < np.inf for point in points):
        raise ValueError(f"fppi must be one or more numbers of 0 or above, got {list(points)}")
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap must be above 0 and at most 1, got {overlap}")
    if box_offset < 0:
        raise ValueError(f"box_offset must be 0 or above, got {box_offset}")
    if duplicates not in ("ignore", "false_positive"):
        raise ValueError(f"duplicates must be 'ignore' or 'false_positive', got {duplicates!r}")
    return points
