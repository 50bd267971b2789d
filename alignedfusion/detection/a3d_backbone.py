"""The backbone of A3D (Yang et al. 2021): a 2-D DenseNet whose convolutions mix neighbouring CT slices.

It computes what the authors' public code computes. Four things differ on purpose: maps are upsampled to the size of the next
finer map, so that any image size works; batch norms are not synchronised over devices; convolutions without 2-D weights
start with Kaiming's normal distribution; and mixing matrices that are never used there (6,921 numbers) do not exist here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion.modules.backbones import create_backbone
from alignedfusion.modules.timm_source import TimmSource

# DenseNet-121 without its fourth block.
_BLOCKS = (6, 12, 24)
_GROWTH = 32


class A3DConv(nn.Module):
    """Mixes the slices with a learned matrix per input channel, then convolves each slice with the same 2-D kernel.

    The number of slices is part of the weights. With identity matrices this is a 2-D convolution of every slice; `weight` has
    the name and shape of that convolution's, so 2-D weights load directly.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the 2-D kernel.
        num_slices: Number of slices D, the same in input and output.
        stride: Stride within a slice.
        padding: Zero padding around a slice.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, num_slices: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        # Output slice first, input slice second, then the channel. The public code has the first two the other way round.
        self.mixing = nn.Parameter(torch.empty(num_slices, num_slices, in_channels))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight)
        self.reset_mixing()

    def reset_mixing(self, noise: float = 0.1) -> None:
        """Set the mixing matrices to the identity plus U(-noise, noise)."""
        with torch.no_grad():
            identity = torch.eye(len(self.mixing)).to(self.mixing)
            self.mixing.uniform_(-noise, noise).add_(identity[..., None])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps (B, C_in, D, H, W) into (B, C_out, D, H', W').

        Raises:
            ValueError: If the number of channels or slices is wrong.
        """
        slices, _, channels = self.mixing.shape
        if x.ndim != 5 or x.shape[1:3] != (channels, slices):
            raise ValueError(
                f"expected maps (B, {channels}, {slices}, H, W), because the weights are made for {slices} slices; got "
                f"{tuple(x.shape)}"
            )
        # One small matrix product per channel, without a permuted copy of the map.
        mixed = self.mixing.permute(2, 0, 1) @ x.flatten(3)  # (B, C_in, D, H * W)
        mixed = mixed.unflatten(3, x.shape[3:])  # (B, C_in, D, H, W)

        stride, padding = (1, self.stride, self.stride), (0, self.padding, self.padding)
        return F.conv3d(mixed, self.weight[:, :, None], None, stride, padding)  # (B, C_out, D, H', W')

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        (out_channels, in_channels, size, _), slices = self.weight.shape, len(self.mixing)
        return f"{in_channels}, {out_channels}, kernel_size={size}, num_slices={slices}, stride={self.stride}"


class _DenseLayer(nn.Sequential):
    """Adds `_GROWTH` channels to its input: (B, C, D, H, W) to (B, C + 32, D, H, W)."""

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


class _DenseNet(nn.Sequential):
    """Only dense layers mix slices. Modules have the names of the 2-D network, so that its weights are found."""

    def __init__(self, num_slices: int) -> None:
        super().__init__()
        channels = 2 * _GROWTH
        self.conv0 = _conv(1, channels, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3))
        self.norm0 = nn.BatchNorm3d(channels)
        self.relu0 = nn.ReLU(inplace=True)
        self.pool0 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.block_channels: list[int] = []
        for block, num_layers in enumerate(_BLOCKS, start=1):
            if block > 1:
                transition = nn.Sequential(
                    OrderedDict(
                        norm=nn.BatchNorm3d(channels),
                        relu=nn.ReLU(inplace=True),
                        conv=_conv(channels, channels // 2, 1),
                        pool=nn.AvgPool3d((1, 2, 2)),
                    )
                )
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
    """DenseNet-121 with A3D convolutions in its first three blocks. It returns one map of stride 4.

    `features(volume)` returns the maps of the dense blocks, (B, 256, D, H/4, W/4), (B, 512, D, H/8, W/8) and
    (B, 1024, D, H/16, W/16). A convolution over all slices turns each of them into a plane; planes are projected, upsampled
    and added, from the coarsest to the finest.

    Args:
        num_slices: Slices D of a volume.
        pretrained: 2-D weights to start from. True downloads those of timm's DenseNet-121, a path names a local file, and a
            mapping is a `state_dict` of timm or torchvision. False starts from random weights.
    """

    out_channels = 512

    def __init__(self, num_slices: int = 7, pretrained: bool | str | Path | Mapping[str, Tensor] = True) -> None:
        super().__init__()
        self.features = _DenseNet(num_slices)
        widths = self.features.block_channels
        self.reductions = nn.ModuleList([_conv(width, width, (num_slices, 1, 1)) for width in widths])
        self.laterals = nn.ModuleList([nn.Conv2d(width, self.out_channels, 1) for width in widths])
        for lateral in self.laterals:
            assert isinstance(lateral, nn.Conv2d)
            assert lateral.bias is not None
            nn.init.kaiming_uniform_(lateral.weight, a=1)  # no ReLU follows
            nn.init.zeros_(lateral.bias)

        if isinstance(pretrained, Mapping):
            self.load_2d(pretrained)
        elif pretrained is not False:
            self.load_2d(create_backbone(TimmSource("densenet121"), pretrained, None).state_dict())

    def reset_mixing(self, noise: float = 0.1) -> None:
        """Reset all mixing matrices. With `noise=0`, `features` applies the 2-D network to every slice by itself."""
        for module in self.modules():
            if isinstance(module, A3DConv):
                module.reset_mixing(noise)

    def load_2d(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of a 2-D DenseNet-121; mixing matrices, reductions and laterals stay as they are.

        The first convolution takes the kernels of the green channel, as the public code does.

        Raises:
            ValueError: If a tensor is missing or has another size.
        """
        state = self.state_dict()
        for name, own in state.items():
            if not name.startswith("features.") or name.endswith(".mixing"):
                continue
            given = weights.get(name, torch.empty(0))
            if name == "features.conv0.weight" and given.ndim == 4 and given.shape[1] == 3:
                given = given[:, 1:2]
            if given.numel() != own.numel():
                raise ValueError(
                    f"pretrained must be the weights of a 2-D DenseNet-121, with {own.numel()} numbers in {name!r}; got "
                    f"{given.numel()} there, and names such as {next(iter(weights), None)!r}"
                )
            state[name] = given.reshape(own.shape)  # k x k becomes 1 x k x k
        self.load_state_dict(state)

    def forward(self, volume: Tensor) -> OrderedDict[str, Tensor]:
        """Turn volumes (B, 1, D, H, W) into one map, {"0": (B, 512, H/4, W/4)}.

        Raises:
            ValueError: If the number of slices is not `num_slices`.
        """
        planes = []
        for x, reduction, lateral in zip(self.features(volume), self.reductions, self.laterals, strict=True):
            reduced = reduction(x).squeeze(2)  # (B, C, H/s, W/s)
            planes.append(lateral(reduced))  # (B, 512, H/s, W/s)

        plane = planes.pop()
        while planes:
            finer = planes.pop()
            plane = finer + F.interpolate(plane, size=finer.shape[2:], mode="nearest")
        return OrderedDict({"0": plane})


def _conv(in_channels: int, out_channels: int, kernel_size: int | tuple[int, int, int], **settings: Any) -> nn.Conv3d:
    conv = nn.Conv3d(in_channels, out_channels, kernel_size, bias=False, **settings)
    nn.init.kaiming_normal_(conv.weight)
    return conv
