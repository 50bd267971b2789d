"""Fusion of report attributes with the feature maps of any network: detector, segmenter or classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.detection.codes import as_codes
from alignedfusion.detection.global_read import GlobalRead, NormedMap, PointwiseWrite
from alignedfusion.detection.probing import find_maps, is_map
from alignedfusion.modules.attention import SelfAttentionBlock, resolve_heads
from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor, Reconstruction, reconstruction_loss
from alignedfusion.modules.tokenizers import AttributeTokenizer

READS = ("global", "pooled", "full")
MAX_POSITIONS = 4096
"""Largest number of positions for `read="full"`, whose memory can grow with their square."""
POOLED = {2: 16, 3: 8}
"""Side length of pooled maps with `read="pooled"`, by the number of spatial dimensions."""


class FeatureMapOutput(NamedTuple):
    """Output of `FeatureMapFusion`.

    Attributes:
        maps: The fused maps, in the structure, shapes and types of the input.
        loss: Reconstruction loss of the attributes hidden in training; 0 with a gradient path if none is hidden.
        reconstruction: Logits (B, A, V_max) of `MaskedTokenReconstructor`.
        intermediate: Intermediate token (B, 1, D).
    """

    maps: Any
    loss: Tensor
    reconstruction: Tensor
    intermediate: Tensor


class FeatureMapFusion(nn.Module):
    """Fuses feature maps and report attributes through an intermediate token (eq. 6-8) and writes the result into the maps.

    After two rounds both sides depend on each other. Then unmentioned attributes are reconstructed (eq. 10). The intermediate
    token and the mean report token form the message that is added to every map. The last layer starts at zero, so that the
    maps of a trained network are unchanged before training.

    Args:
        tokenizer: Turns codes into tokens; its width is D.
        channels: Channels of each map, in order. `for_model` finds them.
        read: "global": the intermediate token attends to all positions of all maps, and a gate per position scales the
            message; time and memory are linear in the number of positions. "pooled": all positions of maps pooled to
            16 x 16 (8 x 8 x 8) attend to each other. "full": all positions attend to each other, up to `max_positions`.
        num_heads: Attention heads; must divide D. Default: D / 64.
        hide_probability: Probability of hiding a mentioned attribute in training (eq. 9).
        dropout: Dropout probability inside the blocks.
        max_positions: Largest number of positions in all maps together, with `read="full"`.
        maps: Indices of the maps to fuse among those that `forward` finds; None fuses all. `for_model` sets them.

    Raises:
        ValueError: For an unknown `read`, no channels, or indices that are not one per map.
    """

    def __init__(
        self,
        tokenizer: AttributeTokenizer,
        channels: Sequence[int],
        *,
        read: str = "global",
        num_heads: int | None = None,
        hide_probability: float = 0.2,
        dropout: float = 0.0,
        max_positions: int = MAX_POSITIONS,
        maps: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if read not in READS:
            raise ValueError(f"read must be one of {READS}, got {read!r}")
        if not channels or min(channels) < 1:
            raise ValueError(
                f"channels must hold a positive number for each map, one map or more; got {list(channels)}"
            )
        if maps is not None and len(maps) != len(channels):
            raise ValueError(f"maps must have one index per entry of channels, got {list(maps)} and {list(channels)}")
        dim = tokenizer.dim
        heads = resolve_heads(dim, num_heads)
        self.tokenizer = tokenizer
        self.channels = tuple(channels)
        self.read = read
        self.hiding = HideAttributes(hide_probability)
        self.max_positions = max_positions
        self.maps = None if maps is None else tuple(maps)
        self.reconstructor = MaskedTokenReconstructor(dim)
        self.message = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU())
        if read == "global":
            self.intermediate = nn.Parameter(torch.randn(1, dim) * 0.02)
            self.of_report = nn.ModuleList(SelfAttentionBlock(dim, num_heads=heads, dropout=dropout) for _ in range(2))
            self.of_maps = nn.ModuleList(GlobalRead(channels, dim, num_heads=heads, dropout=dropout) for _ in range(2))
            self.write = nn.ModuleList(PointwiseWrite(c, dim) for c in channels)
        else:
            self.inward = nn.ModuleList(nn.Linear(c, dim) for c in channels)  # its bias is the level's embedding
            self.fusion = IntermediateTokenFusion(dim, depth=2, num_heads=heads, dropout=dropout)
            self.outward = nn.ModuleList(zero_linear(dim, c) for c in channels)

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        tokenizer: AttributeTokenizer,
        *,
        at: str,
        example: Any,
        side: str = "output",
        maps: Sequence[int | str] | None = None,
        **settings: Any,
    ) -> FeatureMapFusion:
        """Build a fusion for the maps of a submodule; one forward pass of the model finds their channels.

        Args:
            model: The network.
            tokenizer: Turns codes into tokens.
            at: Name of the submodule, as in `FusedDetector`.
            example: Input of the model: its argument, or a mapping of keyword arguments.
            side: "output" or "input" of the submodule.
            maps: Maps to fuse, by index (-1 is the last) or by a key of a mapping, such as "pool". None fuses all feature
                maps, except those that the submodule returns as it received them, such as the image.
            **settings: Further arguments of `FeatureMapFusion`.

        Raises:
            ValueError: If the submodule does not run or has no feature map, or there is no map of that index or name.
        """
        indices, found = find_maps(model, at, example, side, maps)
        return cls(tokenizer, [each.shape[1] for each in found], maps=indices, **settings)

    def forward(self, maps: Any, codes: Any = None, *, is_hidden: Tensor | None = None) -> FeatureMapOutput:
        """Fuse maps with codes.

        Args:
            maps: A tensor (B, C, H, W) or (B, C, D, H, W), or a nested list, tuple or dict with such tensors; everything
                else in it (masks, sizes, tensors without channels) is returned unchanged.
            codes: int64 (B, A), `UNKNOWN` where unmentioned; None if nothing is mentioned. One row serves all images of the
                batch, as for sliding windows of one image. Rows may also be dicts of attribute values, or lists of codes.
            is_hidden: bool (B, A), cells to hide and reconstruct; drawn at random in training, none otherwise.

        Raises:
            ValueError: If the maps have other channels than `channels`, or the codes do not fit them or the schema.
        """
        leaves, structure = tree_flatten(maps)
        places = self._places(leaves)
        levels = [leaves[i] for i in places]
        codes = self._rows(codes, levels[0])
        visible, is_hidden = self.hiding(codes, is_hidden)

        values = self.tokenizer.value_tokens()  # (V, D)
        report = self.tokenizer(visible, values=values)  # (B, A, D)
        if self.read == "global":
            normed = [NormedMap(level) for level in levels]
            fused, intermediate = self._exchange(normed, report)
        else:
            fused, intermediate, changes = self._attend(levels, report)

        rebuilt: Reconstruction = self.reconstructor(fused, values, self.tokenizer.schema)
        filled = torch.where((visible == UNKNOWN)[..., None], rebuilt.tokens, fused)
        message = self.message(torch.cat([intermediate.squeeze(1), filled.mean(1)], dim=-1))  # (B, D)

        for i, (level, place) in enumerate(zip(levels, places, strict=True)):
            if self.read == "global":
                leaves[place] = like(level, self.write[i](normed[i], message).unflatten(2, level.shape[2:]))
            else:
                leaves[place] = like(level, level + self._spread(i, changes[i], message, level))
        loss = reconstruction_loss(rebuilt.logits, codes, is_hidden)
        return FeatureMapOutput(tree_unflatten(leaves, structure), loss, rebuilt.logits, intermediate)

    def _exchange(self, maps: Sequence[NormedMap], report: Tensor) -> tuple[Tensor, Tensor]:
        token = self.intermediate.expand(len(report), 1, -1)  # (B, 1, D)
        for of_report, of_maps in zip(self.of_report, self.of_maps, strict=True):
            joined = of_report(torch.cat([token, report], dim=1))  # (B, 1 + A, D)
            report = joined[:, 1:]
            token = (joined[:, :1] + of_maps(maps, token)) / 2  # eq. 8
        return report, token

    def _attend(self, levels: Sequence[Tensor], report: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        pooled = [self._pool(level) for level in levels]
        tokens = [inward(each.flatten(2).mT) for inward, each in zip(self.inward, pooled, strict=True)]
        counts = [each.shape[1] for each in tokens]
        if self.read == "full" and sum(counts) > self.max_positions:
            raise ValueError(
                f"read='full' would compute attention between {sum(counts)} positions, more than max_positions="
                f"{self.max_positions}; read='global' or 'pooled' needs far less time and memory"
            )
        image = torch.cat(tokens, dim=1)  # (B, sum of N, D)
        fused = self.fusion({"image": image, REPORT: report})
        changes = (fused.tokens["image"] - image).split(counts, dim=1)
        shapes = [each.shape[2:] for each in pooled]
        planes = [change.mT.unflatten(2, shape) for change, shape in zip(changes, shapes, strict=True)]
        return fused.tokens[REPORT], fused.intermediate, planes

    def _pool(self, level: Tensor) -> Tensor:
        if self.read == "full":
            return level
        side = POOLED[level.ndim - 2]
        size = [min(side, length) for length in level.shape[2:]]
        pool = nn.AdaptiveAvgPool2d if level.ndim == 4 else nn.AdaptiveAvgPool3d
        return pool(tuple(size))(level)

    def _spread(self, level: int, change: Tensor, message: Tensor, features: Tensor) -> Tensor:
        update = change.flatten(2).mT + message[:, None]  # (B, N, D)
        plane: Tensor = self.outward[level](update).mT.unflatten(2, change.shape[2:])  # (B, C, *pooled)
        if plane.shape[2:] != features.shape[2:]:
            mode = "bilinear" if features.ndim == 4 else "trilinear"
            plane = F.interpolate(plane, size=features.shape[2:], mode=mode, align_corners=False)
        return plane.to(features.dtype)

    def _places(self, leaves: Sequence[Any]) -> list[int]:
        """Positions of the maps to fuse among all leaves."""
        found = [i for i, leaf in enumerate(leaves) if is_map(leaf)]
        chosen = range(len(found)) if self.maps is None else self.maps
        places = [found[i] for i in chosen if -len(found) <= i < len(found)]
        if tuple(leaves[i].shape[1] for i in places) != self.channels:
            which = "" if self.maps is None else f" at the indices {list(self.maps)}"
            raise ValueError(
                f"this fusion takes maps of {list(self.channels)} channels{which}; got {len(found)} maps of the shapes "
                f"{[tuple(leaves[i].shape) for i in found]}. FeatureMapFusion.for_model finds the channels of a submodule, "
                f"and its argument maps chooses among them"
            )
        return places

    def _rows(self, codes: Any, level: Tensor) -> Tensor:
        """Codes (B, A) for a map of B rows."""
        schema, batch = self.tokenizer.schema, len(level)
        if codes is None:
            return torch.full((batch, len(schema)), UNKNOWN, device=level.device)
        codes = as_codes(codes, schema)
        schema.check_codes(codes)
        if len(codes) == 1:
            codes = codes.expand(batch, -1)
        elif len(codes) != batch:
            raise ValueError(
                f"got {len(codes)} rows of codes for maps of {batch} images; give one row per image, or one row for all. "
                f"For n views of each image, use codes.repeat_interleave(n, 0)"
            )
        return codes.to(level.device)

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        chosen = "" if self.maps is None else f", maps={self.maps}"
        return f"channels={self.channels}, read={self.read!r}{chosen}"


def like(level: Tensor, fused: Tensor) -> Tensor:
    """Return the fused map in the memory layout of the map, so that later layers run the same kernels as before."""
    layout = torch.channels_last if level.ndim == 4 else torch.channels_last_3d
    is_last = level.is_contiguous(memory_format=layout) and not level.is_contiguous()
    return fused.contiguous(memory_format=layout) if is_last else fused


def zero_linear(width: int, out: int) -> nn.Linear:
    """Build a linear layer that returns zeros."""
    layer = nn.Linear(width, out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
