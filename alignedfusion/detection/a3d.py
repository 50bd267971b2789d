"""The A3D lesion detector (Yang et al. 2021): a 2-D DenseNet that hears of neighbouring CT slices in every layer."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import (  # type: ignore[import-untyped]
    anchor_utils,
    faster_rcnn,
    mask_rcnn,
    transform,
)
from torchvision.ops import MultiScaleRoIAlign  # type: ignore[import-untyped]

from alignedfusion.modules.backbones import create_backbone

ANCHOR_SIZES = (16, 24, 32, 48, 96, 192)
"""Sides of the square anchors in pixels; each also comes half and twice as high as wide."""

STRIDE = 16
"""Of the deepest maps: images are filled up to a multiple of it, so that finer maps are exactly twice as large."""

# DenseNet-121 without its fourth block.
_BLOCKS = (6, 12, 24)
_GROWTH = 32


class A3DConv(nn.Module):
    """Slices are mixed by a learned matrix per input channel, then one 2-D kernel sees each of them.

    The number of slices is part of the weights. At identity mixing it is a 2-D convolution of every slice, and `weight` has
    that convolution's name and shape: its weights load as they are.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the 2-D kernel.
        num_slices: Number of slices D; the same in input and output.
        stride: Step within a slice.
        padding: Zeros around a slice.
        bias: Whether each output channel has an offset.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        num_slices: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        # From each input slice (second) to each output slice (first), of every channel.
        self.mixing = nn.Parameter(torch.empty(num_slices, num_slices, in_channels))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight)
        self.reset_mixing()

    def reset_mixing(self, noise: float = 0.1) -> None:
        """Start the mixing matrices at identity plus U(-noise, noise); 0 makes it a 2-D convolution of every slice."""
        with torch.no_grad():
            identity = torch.eye(len(self.mixing)).to(self.mixing)
            self.mixing.uniform_(-noise, noise).add_(identity[..., None])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps (B, C_in, D, H, W) into (B, C_out, D, H', W').

        Raises:
            ValueError: If the input has another number of channels or slices.
        """
        slices, _, channels = self.mixing.shape
        if x.ndim != 5 or x.shape[1:3] != (channels, slices):
            raise ValueError(
                f"expected maps (B, {channels}, {slices}, H, W), for {slices} slices are part of the weights; got "
                f"{tuple(x.shape)}"
            )
        # One small matrix product per channel; the map itself is never permuted.
        mixed = self.mixing.permute(2, 0, 1) @ x.flatten(3)  # (B, C_in, D, H * W)
        mixed = mixed.unflatten(3, x.shape[3:])  # (B, C_in, D, H, W)

        stride, padding = (1, self.stride, self.stride), (0, self.padding, self.padding)
        return F.conv3d(mixed, self.weight[:, :, None], self.bias, stride, padding)  # (B, C_out, D, H', W')

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        (out_channels, in_channels, size, _), slices = self.weight.shape, len(self.mixing)
        return f"{in_channels}, {out_channels}, kernel_size={size}, num_slices={slices}, stride={self.stride}"


def _normed_conv(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    """Norm, ReLU and a (depth, 1, 1) convolution."""
    conv = nn.Conv3d(in_channels, out_channels, (depth, 1, 1), bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm3d(in_channels), relu=nn.ReLU(inplace=True), conv=conv))


class _DenseLayer(nn.Sequential):
    """Adds `_GROWTH` channels to those that come in: (B, C, D, H, W) to (B, C + 32, D, H, W)."""

    def __init__(self, channels: int, num_slices: int) -> None:
        super().__init__()
        width = 4 * _GROWTH
        self.norm1 = nn.BatchNorm3d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = A3DConv(channels, width, 1, num_slices)
        self.norm2 = nn.BatchNorm3d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = A3DConv(width, _GROWTH, 3, num_slices, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], 1)


# What descriptions of the backbone leave open is chosen to give its map shapes and its 16.04 M parameters (16,035,921 at seven
# slices; of them 9.6 M in the reductions):
# - The stem and both convolutions of every dense layer are A3D. Transitions are not, for that would be 16.07 M: their 1 x 1
#   convolution is that of every slice. Stem (stride 2), max pooling and transitions shrink slices, but never their number.
# - Reductions are norm, ReLU and a (D, 1, 1) convolution without bias: the maps of dense blocks are not normalised yet.
# - Laterals have a bias, as in torchvision's feature pyramid, and nothing follows the additions.
# Without the reductions' norms or the laterals' biases it would be 16.03 M.


class _DenseNet(nn.Sequential):
    """Names of modules are those of the 2-D network, so that its weights are found."""

    def __init__(self, num_slices: int) -> None:
        super().__init__()
        channels = 2 * _GROWTH
        self.conv0 = A3DConv(1, channels, 7, num_slices, stride=2, padding=3)
        self.norm0 = nn.BatchNorm3d(channels)
        self.relu0 = nn.ReLU(inplace=True)
        self.pool0 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.block_channels: list[int] = []
        for block, num_layers in enumerate(_BLOCKS, start=1):
            if block > 1:
                transition = _normed_conv(channels, channels // 2, depth=1)
                transition.add_module("pool", nn.AvgPool3d((1, 2, 2)))
                self.add_module(f"transition{block - 1}", transition)
                channels //= 2
            layers = {f"denselayer{i + 1}": _DenseLayer(channels + i * _GROWTH, num_slices) for i in range(num_layers)}
            self.add_module(f"denseblock{block}", nn.Sequential(OrderedDict(layers)))
            channels += num_layers * _GROWTH
            self.block_channels.append(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name, module in self.named_children():
            x = module(x)
            if name.startswith("denseblock"):
                maps.append(x)
        return maps


class A3DBackbone(nn.Module):
    """DenseNet-121 with A3D convolutions, three blocks long; one map of stride 4 comes out.

    `features(volume)` gives the maps of the dense blocks, (B, 256, D, H/4, W/4), (B, 512, D, H/8, W/8) and
    (B, 1024, D, H/16, W/16).

    Args:
        num_slices: Slices D of a volume.
        pretrained: 2-D weights to start from. True takes those of timm's DenseNet-121 from the hub, a path those of a local
            file; a mapping is a `state_dict`, timm's or torchvision's. False starts at random.
    """

    out_channels = 512

    def __init__(self, num_slices: int = 7, pretrained: bool | str | Path | Mapping[str, Tensor] = False) -> None:
        super().__init__()
        self.features = _DenseNet(num_slices)
        widths = self.features.block_channels
        self.reductions = nn.ModuleList([_normed_conv(width, width, depth=num_slices) for width in widths])
        laterals = [nn.Conv2d(width, self.out_channels, 1) for width in widths]
        for lateral in laterals:
            nn.init.kaiming_uniform_(lateral.weight, a=1)  # no ReLU follows
        self.laterals = nn.ModuleList(laterals)

        if isinstance(pretrained, Mapping):
            self.load_2d(pretrained)
        elif pretrained is not False:
            self.load_2d(create_backbone("densenet121", pretrained, None).state_dict())

    def reset_mixing(self, noise: float = 0.1) -> None:
        """Start all mixing matrices anew; at noise 0, `features` does with every slice what the 2-D network does with it."""
        for module in self.modules():
            if isinstance(module, A3DConv):
                module.reset_mixing(noise)

    def load_2d(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a 2-D DenseNet-121; mixing matrices, reductions' convolutions and laterals stay as they are.

        Raises:
            ValueError: If a tensor is not there or has another shape.
        """
        state = self.state_dict()
        for name, mine in state.items():
            # A reduction normalises the same map as the 2-D network's next transition.
            source = re.sub(r"reductions\.(\d)\.norm", lambda m: f"features.transition{int(m[1]) + 1}.norm", name)
            if not source.startswith("features.") or name.endswith(".mixing"):
                continue
            given = weights.get(source, torch.empty(0))
            if name == "features.conv0.weight" and given.ndim == 4:
                given = given.sum(1, keepdim=True)  # one grey channel acts as three equal ones
            if given.numel() != mine.numel():
                raise ValueError(
                    f"pretrained must be a 2-D DenseNet-121's weights, {source!r} of {mine.numel()} numbers among them; got "
                    f"{given.numel()}, and names such as {next(iter(weights), None)!r}"
                )
            state[name] = given.reshape(mine.shape)  # 1 x 1 becomes 1 x 1 x 1
        self.load_state_dict(state)

    def forward(self, volume: Tensor) -> OrderedDict[str, Tensor]:
        """Turn volumes (B, 1, D, H, W) into one map, {"0": (B, 512, H/4, W/4)}.

        Raises:
            ValueError: For another number of slices.
        """
        planes = []
        for x, reduction, lateral in zip(self.features(volume), self.reductions, self.laterals, strict=True):
            reduced = reduction(x).squeeze(2)  # (B, C, H/s, W/s)
            planes.append(lateral(reduced))  # (B, 512, H/s, W/s)

        # What deep maps know of the whole goes into the finest one.
        plane = planes.pop()
        while planes:
            finer = planes.pop()
            plane = finer + F.interpolate(plane, size=finer.shape[2:], mode="nearest")
        return OrderedDict({"0": plane})


class _VolumeTransform(transform.GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's batching, with slices in place of colours: images (D, H, W) become volumes (B, 1, D, H, W)."""

    def __init__(self, num_slices: int, min_size: int | None, max_size: int, mean: float, std: float) -> None:
        super().__init__(min_size, max_size, [mean] * num_slices, [std] * num_slices, size_divisible=STRIDE)
        self.num_slices = num_slices
        self.resizes = min_size is not None

    def normalize(self, image: Tensor) -> Tensor:
        # Batching would fill up missing slices with zeros, without a word.
        if len(image) != self.num_slices:
            raise ValueError(
                f"expected images ({self.num_slices}, H, W), one plane per slice; got {tuple(image.shape)}"
            )
        return super().normalize(image)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return super().resize(image, target) if self.resizes else (image, target)

    def batch_images(self, images: list[Tensor], size_divisible: int = STRIDE) -> Tensor:
        return super().batch_images(images, size_divisible)[:, None]  # (B, 1, D, H, W)


def a3d_detector(
    num_classes: int = 2,
    *,
    num_slices: int = 7,
    masks: bool = False,
    pretrained: bool | str | Path | Mapping[str, Tensor] = False,
    anchor_sizes: Sequence[int] = ANCHOR_SIZES,
    head_width: int = 2048,
    min_size: int | None = None,
    max_size: int = 1333,
    image_mean: float = 114.5,
    image_std: float = 57.6,
    score_threshold: float = 0.05,
) -> Any:
    """Faster R-CNN, or Mask R-CNN, on `A3DBackbone`; it is torchvision's, and called as any detector of it.

    Images are float (D, H, W), the slice with the boxes in the middle; a tensor (B, D, H, W) is fine for a list of them.

    Args:
        num_classes: Classes C, with the background.
        num_slices: Slices D of an image.
        masks: Whether there is a mask head; targets need "masks" then.
        pretrained: As in `A3DBackbone`.
        anchor_sizes: Sides of the anchors in pixels.
        head_width: Width of the two fully connected layers.
        min_size: Shorter side that images are resized to; None takes them as they are.
        max_size: Where that would make the longer side longer, it becomes this; of no effect without `min_size`.
        image_mean: What is subtracted from images. The defaults are ImageNet's for a grey image, on a scale of 0 to 255,
            which is what `datasets.deeplesion` gives; for one of 0 to 1 they are 0.449 and 0.226.
        image_std: What they are divided by.
        score_threshold: Boxes that score less are left out.
    """
    pools = {"box_roi_pool": MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)}
    if masks:
        pools["mask_roi_pool"] = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    detector = (mask_rcnn.MaskRCNN if masks else faster_rcnn.FasterRCNN)(
        A3DBackbone(num_slices, pretrained),
        num_classes,
        rpn_anchor_generator=anchor_utils.AnchorGenerator((tuple(anchor_sizes),), ((0.5, 1.0, 2.0),)),
        box_head=faster_rcnn.TwoMLPHead(A3DBackbone.out_channels * 7**2, head_width),
        box_score_thresh=score_threshold,
        **pools,
    )
    detector.roi_heads.box_predictor = faster_rcnn.FastRCNNPredictor(head_width, num_classes)
    detector.transform = _VolumeTransform(num_slices, min_size, max_size, image_mean, image_std)
    return detector
