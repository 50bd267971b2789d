"""Re-implementations of two published fusions of skin images and metadata, on tokens instead of their own backbones.

They follow what the publications say of the fusion itself; backbones, pairing of patients and training schedules are left
out, so their reported accuracies are not those of these modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.attention import CrossAttentionBlock
from alignedfusion.modules.fusions.intermediate import FusionOutput, mean_of_tokens
from alignedfusion.modules.fusions.simple import Fusion, Masks, joint_mask
from alignedfusion.modules.module_dict import ModuleDict


class RemixFormerFusion(Fusion):
    """RemixFormer's cross-modality fusion (Xu et al., MICCAI 2022), re-implemented.

    The mean token of each image attends to the patches of the other images; what comes back is put beside one embedding of
    the whole metadata.
    """

    least = 2

    @property
    def pooled_dim(self) -> int:
        """Width P of what it pools."""
        return self.dim * len(self.modalities)

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Make the layers."""
        images = [m for m in self.modalities if m != REPORT]
        self.rounds = self.self_attention(depth, block, images)
        self.exchange = ModuleDict({m: CrossAttentionBlock(self.dim, **block) for m in images})
        self.metadata = nn.Sequential(nn.LayerNorm(self.dim), nn.Linear(self.dim, self.dim), nn.GELU())

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse the tokens."""
        for blocks in self.rounds:
            streams = {
                m: stream if m == REPORT else blocks[m](stream, is_valid.get(m))  # type: ignore[index]
                for m, stream in streams.items()
            }
        parts = []
        for m, stream in streams.items():
            mean = mean_of_tokens(stream, m, is_valid, is_present)
            if m == REPORT:
                parts.append(self.metadata(mean))
                continue
            others = {other: each for other, each in streams.items() if other not in (m, REPORT)} or {m: stream}
            context = torch.cat(list(others.values()), dim=1)
            mask = joint_mask(others, is_valid, is_present)
            parts.append(self.exchange[m](mean[:, None], context, mask)[:, 0])
        return FusionOutput(streams, self.no_tokens(streams), torch.cat(parts, dim=-1))


class MSMAFusion(Fusion):
    """MSMA's multi-stage, multi-attention fusion (Shu et al., BSPC 2024), re-implemented from its abstract.

    First each image attends to itself, then the images to each other, then the metadata to all patches; the metadata also
    gate the channels of the images' means.
    """

    least = 2

    @property
    def pooled_dim(self) -> int:
        """Width P of what it pools."""
        return self.dim * len(self.modalities)

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Make the layers."""
        images = [m for m in self.modalities if m != REPORT]
        self.rounds = self.self_attention(depth, block)
        crossing = images if len(images) > 1 else []
        self.mutual = ModuleDict({m: CrossAttentionBlock(self.dim, **block) for m in crossing})
        self.metadata = CrossAttentionBlock(self.dim, **block)
        self.gate = nn.Linear(self.dim, self.dim)

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse the tokens."""
        for blocks in self.rounds:
            streams = {m: blocks[m](stream, is_valid.get(m)) for m, stream in streams.items()}  # type: ignore[index]
        images = {m: stream for m, stream in streams.items() if m != REPORT}
        if len(images) > 1:
            images = {m: self._mutual(m, images, is_valid, is_present) for m in images}
        parts = [mean_of_tokens(stream, m, is_valid, is_present) for m, stream in images.items()]
        if REPORT in streams:
            context = torch.cat(list(images.values()), dim=1)
            told = self.metadata(streams[REPORT], context, joint_mask(images, is_valid, is_present))
            said = mean_of_tokens(told, REPORT, is_valid, is_present)
            parts = [part * torch.sigmoid(self.gate(said)) for part in parts] + [said]
        return FusionOutput({**streams, **images}, self.no_tokens(streams), torch.cat(parts, dim=-1))

    def _mutual(self, m: str, images: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> Tensor:
        others = {other: stream for other, stream in images.items() if other != m}
        mask = joint_mask(others, is_valid, is_present)
        crossed: Tensor = self.mutual[m](images[m], torch.cat(list(others.values()), dim=1), mask)
        return crossed
