"""The A3D lesion detector: torchvision's Faster R-CNN on the A3D backbone, for stacks of CT slices.

The public code trains a Mask R-CNN with another sampling of proposals; losses, sampling and non-maximum suppression here are
torchvision's, and there is no mask head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.detection import anchor_utils, faster_rcnn, transform  # type: ignore[import-untyped]
from torchvision.ops import MultiScaleRoIAlign  # type: ignore[import-untyped]

from alignedfusion.detection.a3d_backbone import A3DBackbone

ANCHOR_SIZES = (16, 24, 32, 48, 96, 192)
"""Side lengths of the square anchors in pixels. Each anchor also comes half and twice as high as wide."""

STRIDE = 16
"""Stride of the deepest maps. Images are padded to a multiple of it, so that each finer map is exactly twice as large."""


class _VolumeTransform(transform.GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's batching with slices in place of colours: images (D, H, W) become volumes (B, 1, D, H, W)."""

    def __init__(self, num_slices: int, mean: float, std: float) -> None:
        super().__init__(None, None, [mean] * num_slices, [std] * num_slices, size_divisible=STRIDE)
        self.num_slices = num_slices

    def normalize(self, image: Tensor) -> Tensor:
        # Batching would pad missing slices with zeros.
        if len(image) != self.num_slices:
            raise ValueError(
                f"expected images ({self.num_slices}, H, W), one plane per slice; got {tuple(image.shape)}"
            )
        return super().normalize(image)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def batch_images(self, images: list[Tensor], size_divisible: int = STRIDE) -> Tensor:
        return super().batch_images(images, size_divisible)[:, None]  # (B, 1, D, H, W)


def a3d_detector(
    num_classes: int = 2,
    *,
    num_slices: int = 7,
    pretrained: bool | str | Path | Mapping[str, Tensor] = True,
    anchor_sizes: Sequence[int] = ANCHOR_SIZES,
    head_width: int = 2048,
    image_mean: float = 114.5,
    image_std: float = 57.6,
    score_threshold: float = 0.05,
) -> Any:
    """Build torchvision's Faster R-CNN on `A3DBackbone`; it is called as any torchvision detector.

    Images are float (D, H, W), with the slice of the boxes in the middle; a tensor (B, D, H, W) works in place of a list.
    Images are not resized.

    Args:
        num_classes: Classes C, with the background.
        num_slices: Slices D of an image.
        pretrained: As in `A3DBackbone`.
        anchor_sizes: Side lengths of the anchors in pixels.
        head_width: Width of the two fully connected layers.
        image_mean: Subtracted from images. The defaults are ImageNet's for a grey image on a scale of 0 to 255, as
            `datasets.deeplesion` returns it; on a scale of 0 to 1, use 0.449 and 0.226.
        image_std: Images are divided by it.
        score_threshold: Boxes with a lower score are left out.
    """
    detector = faster_rcnn.FasterRCNN(
        A3DBackbone(num_slices, pretrained),
        num_classes,
        rpn_anchor_generator=anchor_utils.AnchorGenerator((tuple(anchor_sizes),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=faster_rcnn.TwoMLPHead(A3DBackbone.out_channels * 7**2, head_width),
        box_score_thresh=score_threshold,
    )
    detector.roi_heads.box_predictor = faster_rcnn.FastRCNNPredictor(head_width, num_classes)
    detector.transform = _VolumeTransform(num_slices, image_mean, image_std)
    return detector
