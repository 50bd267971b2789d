"""FROC: sensitivity against false positives per image (Table 3), with its conventions as arguments; and average precision.

A detection hits a lesion if their boxes overlap enough. At a threshold on the scores, sensitivity is the share of all lesions
that are hit, and FPPI (false positives per image) is the number of detections without a hit divided by the number of ALL
images, including those without a lesion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from alignedfusion.detection.boxes import overlaps, read_boxes, read_detections, read_labelled
from alignedfusion.detection.froc_curve import FROC, NEVER, Scored, allowed_counts


def froc(
    detections: Sequence[Any],
    lesions: Sequence[Any],
    *,
    fppi: Sequence[float] = (0.5, 1, 2),
    overlap: float = 0.5,
    box_offset: float = 1,
    duplicates: str = "ignore",
) -> FROC:
    """Compute sensitivities at given numbers of false positives per image. Labels are ignored; see `froc_per_class`.

    One box may hit several lesions. All detections of the same score are counted together, so that their order has no
    influence. The sensitivity at a value of `fppi` is the highest of the curve up to that value; past the end of the curve, it
    is the last one.

    Args:
        detections: One entry per image: a mapping with "boxes" and "scores", as torchvision's detectors return it, or a pair
            of them. Boxes are (n, 4) as x1 y1 x2 y2, or (n, 6) as x1 y1 z1 x2 y2 z2; scores are (n,); tensors or arrays.
        lesions: One entry per image: the true boxes (m, 4) or (m, 6), or a mapping with "boxes"; m may be 0.
        fppi: Requested false positives per image.
        overlap: Smallest intersection over union of a hit, above 0 and at most 1.
        box_offset: Added to the length of each side: 1 if the corners are pixels inside the box, 0 if they are edges.
        duplicates: How to count a detection whose lesions are all hit by a detection with a better score: "ignore" counts it
            neither as true nor as false, "false_positive" counts it as false.

    Returns:
        The curve. Sensitivities are 0 without detections, and nan without lesions.

    Raises:
        ValueError: For other shapes or lengths, a box whose second corner is before its first, or a score that is not a finite
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
        best = np.where(is_hit, scores[:, None], NEVER).max(0, initial=NEVER)  # (m,)
        counts = is_hit if duplicates == "ignore" else is_hit & (scores[:, None] >= best)
        false_scores.append(scores[~counts.any(1)])
        best_scores.append(best)
    false, best = (_gather(parts) for parts in (false_scores, best_scores))

    hits = best.scores[best.scores > NEVER]
    thresholds = np.unique(np.concatenate([false.scores, hits]))[::-1]  # falling
    num_false, num_found = (
        np.append(0, len(scores) - np.searchsorted(np.sort(scores), thresholds)) for scores in (false.scores, hits)
    )
    num_images, num_lesions = len(lesions), len(best.scores)
    curve = num_found / num_lesions if num_lesions else np.full(len(num_found), np.nan)
    sensitivity = curve[np.searchsorted(num_false, allowed_counts(points, num_images), side="right") - 1]
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


def froc_per_class(
    detections: Sequence[Mapping[str, Any]],
    lesions: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    *,
    fppi: Sequence[float] = (0.5, 1, 2),
    overlap: float = 0.5,
    box_offset: float = 1,
    duplicates: str = "ignore",
) -> dict[str, FROC]:
    """Compute one FROC curve per class, from the detections and the lesions with its label.

    A detection with the label of another class hits nothing in this one, and false positives are divided by the number of all
    images, as in `froc`.

    Args:
        detections: One mapping per image with "boxes", "scores" and "labels" (n,).
        lesions: One mapping per image with "boxes" and "labels" (m,).
        names: Names of the classes by label, in the order of the result.
        fppi: As in `froc`.
        overlap: As in `froc`.
        box_offset: As in `froc`.
        duplicates: As in `froc`.

    Returns:
        Curves by class name. `numpy.nanmean([curve.mean for curve in curves.values()])` averages over the classes with lesions.

    Raises:
        ValueError: For labels that `names` does not have, names that are not distinct, or as in `froc`.
    """
    if not names or len(set(names.values())) < len(names):
        raise ValueError(f"names must give each label its own name, got {dict(names)}")
    found = [read_labelled(each, image, "detection", names) for image, each in enumerate(detections)]
    truth = [read_labelled(each, image, "lesion", names) for image, each in enumerate(lesions)]
    curves = {}
    for label, name in names.items():
        of_class = [(boxes[labels == label], scores[labels == label]) for boxes, scores, labels in found]
        true = [boxes[labels == label] for boxes, _, labels in truth]
        curves[name] = froc(of_class, true, fppi=fppi, overlap=overlap, box_offset=box_offset, duplicates=duplicates)
    return curves


def average_precision(detections: Sequence[Any], lesions: Sequence[Any]) -> dict[str, float]:
    """Compute COCO's average precision with torchmetrics.

    Args:
        detections: As in `froc`, with boxes (n, 4). At most 100 detections per image are counted, and labels are ignored.
        lesions: As in `froc`, with boxes (m, 4).

    Returns:
        "AP" (the mean over overlaps from 0.5 to 0.95), "AP50" and "AP75", 0 to 1; nan without lesions.

    Raises:
        ImportError: If torchmetrics or pycocotools is not installed.
        ValueError: As in `froc`.
    """
    try:
        metric = import_module("torchmetrics.detection").MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
    except (ImportError, ModuleNotFoundError) as error:
        raise ImportError(
            "average precision needs torchmetrics and pycocotools: pip install 'alignedfusion[detection]'"
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


def _gather(parts: list[np.ndarray]) -> Scored:
    # The first part is empty and belongs to no image.
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
