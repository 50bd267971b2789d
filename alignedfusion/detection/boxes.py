"""Checked arrays of boxes, scores and labels of one image, and the overlap of boxes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch


def overlaps(boxes: np.ndarray, truth: np.ndarray, box_offset: float, image: int) -> np.ndarray:
    """Return the intersection over union (n, m) of boxes (n, 2 d) and (m, 2 d)."""
    if not len(boxes) or not len(truth):
        return np.zeros((len(boxes), len(truth)))
    if boxes.shape[1] != truth.shape[1]:
        raise ValueError(
            f"image {image}: boxes of detections have {boxes.shape[1]} numbers, boxes of lesions {truth.shape[1]}"
        )
    half = boxes.shape[1] // 2
    low = np.maximum(boxes[:, None, :half], truth[None, :, :half])
    high = np.minimum(boxes[:, None, half:], truth[None, :, half:])
    shared = np.maximum(high - low + box_offset, 0).prod(-1)  # (n, m)
    sizes, true_sizes = ((each[:, half:] - each[:, :half] + box_offset).prod(-1) for each in (boxes, truth))
    union = sizes[:, None] + true_sizes - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def read_detections(found: Any, image: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (n, 4) or (n, 6) and scores (n,), from a mapping with "boxes" and "scores" or a pair of them."""
    if isinstance(found, Mapping) and {"boxes", "scores"} <= set(found):
        boxes, scores = found["boxes"], found["scores"]
    elif isinstance(found, (tuple, list)) and len(found) == 2:
        boxes, scores = found
    else:
        what = f"the keys {sorted(found)}" if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(
            f"image {image}: detections must be a mapping with 'boxes' and 'scores', or a pair of them; got {what}"
        )
    boxes, scores = read_boxes(boxes, image, "detection"), _as_array(scores, image, "scores")
    if scores.shape != (len(boxes),):
        raise ValueError(f"image {image}: {len(boxes)} detections need scores ({len(boxes)},), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"image {image}: a score must be a finite number, got {scores[~np.isfinite(scores)][0]}")
    return boxes, scores


def read_labelled(
    found: Any, image: int, what: str, known: Collection[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, scores (n,) and labels (n,) of a mapping; `what` is "detection" or "lesion", whose scores are ones."""
    if not isinstance(found, Mapping) or "labels" not in found:
        got = f"the keys {sorted(found)}" if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(f"image {image}: a {what} needs a mapping with 'boxes' and 'labels', got {got}")
    labels = _as_array(found["labels"], image, "labels")
    if what == "detection":
        boxes, scores = read_detections(found, image)
    else:
        boxes, scores = read_boxes(found, image, what), np.ones(len(labels))
    if labels.shape != (len(boxes),):
        raise ValueError(f"image {image}: {len(boxes)} {what}s need labels ({len(boxes)},), got {labels.shape}")
    if unknown := sorted(set(labels.tolist()) - set(known)):
        raise ValueError(f"image {image}: {what} label {unknown[0]:g} is not in names, which has {sorted(known)}")
    return boxes, scores, labels


def read_boxes(boxes: Any, image: int, what: str) -> np.ndarray:
    """Return boxes (n, 4) or (n, 6) of a tensor, an array or a mapping with "boxes"; errors name `image` and `what`."""
    if isinstance(boxes, Mapping):
        if "boxes" not in boxes:
            raise ValueError(f"image {image}: {what} boxes must be under the key 'boxes', got the keys {sorted(boxes)}")
        boxes = boxes["boxes"]
    array = _as_array(boxes, image, f"{what} boxes")
    if array.ndim in (1, 2) and len(array) == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] not in (4, 6):
        raise ValueError(f"image {image}: {what} boxes must be of shape (n, 4) or (n, 6), got {array.shape}")
    half = array.shape[1] // 2
    is_wrong = ~np.isfinite(array).all(1) | ~(array[:, half:] >= array[:, :half]).all(1)
    if is_wrong.any():
        raise ValueError(
            f"image {image}: {what} box {array[is_wrong][0].tolist()} is invalid: it needs finite numbers, and a second "
            f"corner that is not before the first (x1 y1 x2 y2, not x y width height)"
        )
    return array


def _as_array(values: Any, image: int, what: str) -> np.ndarray:
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().double()
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"image {image}: {what} must be a tensor or an array of numbers ({error})") from error
