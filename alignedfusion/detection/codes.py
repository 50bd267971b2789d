"""Codes of images and of regions, in the forms that data loaders return them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou  # type: ignore[import-untyped]

from alignedfusion.attributes import UNKNOWN, AttributeSchema


def as_codes(rows: Any, schema: AttributeSchema) -> Tensor:
    """Turn rows of attribute values or of codes into a tensor of codes; tensors are returned as they are.

    Args:
        rows: Codes (B, A), as a tensor, an array, or a list of lists, arrays or tensors; or one dict of attribute values, a
            list of them or a DataFrame.
        schema: Schema of the values.

    Raises:
        ValueError: If rows differ in length, or hold something else than integers.
    """
    if isinstance(rows, Tensor):
        return rows
    if isinstance(rows, Mapping):
        rows = [rows]
    if hasattr(rows, "columns") or any(isinstance(row, Mapping) for row in rows):
        return schema.encode(rows)
    try:
        codes = torch.stack([torch.as_tensor(row) for row in rows])
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"codes must be int64 (B, {len(schema)}), or one dict of attribute values per image; cannot read them: {error}"
        ) from error
    return codes if codes.is_floating_point() else codes.long()


def match_codes(codes: Tensor, boxes: Tensor, regions: Tensor, *, overlap: float = 0.5) -> Tensor:
    """Give each region of an image the codes of the lesion that it overlaps most.

    Args:
        codes: int64 (m, A), one row per lesion.
        boxes: Boxes (m, 4) of the lesions, x1 y1 x2 y2.
        regions: Boxes (n, 4), such as proposals, in the same pixels.
        overlap: Smallest intersection over union. A region below it gets `UNKNOWN` for all attributes.

    Returns:
        int64 (n, A).

    Raises:
        ValueError: If the numbers of lesions differ.
    """
    if len(codes) != len(boxes):
        raise ValueError(
            f"each lesion needs one row of codes and one box, got {len(codes)} rows and {len(boxes)} boxes"
        )
    # One more row and column, for regions without a lesion.
    rows = torch.cat([codes, codes.new_full((1, codes.shape[1]), UNKNOWN)]).to(regions.device)  # (m + 1, A)
    iou = torch.cat([box_iou(regions, boxes.to(regions)), regions.new_zeros(len(regions), 1)], dim=1)  # (n, m + 1)
    best, lesion = iou.max(1)
    return rows[lesion.masked_fill(best < overlap, len(codes))]
