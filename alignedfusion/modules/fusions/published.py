"""Two published fusions of skin images and metadata, re-implemented on tokens instead of their own backbones.

They follow the published description of the fusion itself. Backbones, pairing of patients and training schedules are left
out, so the published accuracies do not apply to these modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.attention import CrossAttentionBlock
from alignedfusion.modules.fusions.base import FusionOutput
from alignedfusion.modules.fusions.simple import BlockFusion
from alignedfusion.modules.modalities import Masks, joint_mask, mean_of_tokens, module_key


class RemixFormerFusion(BlockFusion):
    """RemixFormer's cross-modality fusion (Xu et al., MICCAI 2022), re-implemented.

    The mean token of each image attends to the patches of the other images. The results are concatenated with one embedding of
    all metadata.
    """

    min_modalities = 2

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Create the layers."""
        images = [m for m in self.modalities if m != REPORT]
        self.rounds = self.self_attention(depth, block, images)
        self.exchange = nn.ModuleDict({module_key(m): CrossAttentionBlock(self.dim, **block) for m in images})
        self.metadata = nn.Sequential(nn.LayerNorm(self.dim), nn.Linear(self.dim, self.dim), nn.GELU())

    def attend(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Apply the blocks to the images; the report's tokens stay as they are."""
        images = {m: stream for m, stream in streams.items() if m != REPORT}
        for blocks in self.rounds:
            images = self.attend_to_itself(blocks, images, is_valid)
        return FusionOutput({m: images.get(m, stream) for m, stream in streams.items()}, self.no_tokens(streams))

    def pool(self, fused: FusionOutput, is_valid: Masks | None = None, is_present: Masks | None = None) -> Tensor:
        """The exchanged means of the images and the embedded mean of the report (B, M D)."""
        means = {m: mean_of_tokens(stream, m, is_valid, is_present) for m, stream in fused.tokens.items()}
        images = {m: stream for m, stream in fused.tokens.items() if m != REPORT}
        for m, exchange in zip(images, self.exchange.values(), strict=True):
            others = {other: stream for other, stream in images.items() if other != m} or {m: images[m]}
            context = torch.cat(list(others.values()), dim=1)
            means[m] = exchange(means[m][:, None], context, joint_mask(others, is_valid, is_present))[:, 0]
        if REPORT in means:
            means[REPORT] = self.metadata(means[REPORT])
        return torch.cat(list(means.values()), dim=-1)


class MSMAFusion(BlockFusion):
    """MSMA's multi-stage, multi-attention fusion (Shu et al., BSPC 2024), re-implemented from its abstract.

    Each image attends to itself, then the images to each other, then the metadata to all patches; the metadata also gate the
    channels of the images' means.
    """

    min_modalities = 2

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Create the layers."""
        images = [m for m in self.modalities if m != REPORT]
        self.rounds = self.self_attention(depth, block)
        crossing = images if len(images) > 1 else []
        self.mutual = nn.ModuleDict({module_key(m): CrossAttentionBlock(self.dim, **block) for m in crossing})
        self.metadata = CrossAttentionBlock(self.dim, **block)
        self.gate = nn.Linear(self.dim, self.dim)

    def attend(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Apply the blocks within each modality, then between the images."""
        for blocks in self.rounds:
            streams = self.attend_to_itself(blocks, streams, is_valid)
        images = {m: stream for m, stream in streams.items() if m != REPORT}
        crossed = dict(streams)
        for m, mutual in zip(images, self.mutual.values(), strict=False):
            others = {other: stream for other, stream in images.items() if other != m}
            context = torch.cat(list(others.values()), dim=1)
            crossed[m] = mutual(images[m], context, joint_mask(others, is_valid, is_present))
        return FusionOutput(crossed, self.no_tokens(streams))

    def pool(self, fused: FusionOutput, is_valid: Masks | None = None, is_present: Masks | None = None) -> Tensor:
        """The gated means of the images and the mean of the report that attended to them (B, M D)."""
        images = {m: stream for m, stream in fused.tokens.items() if m != REPORT}
        means = [mean_of_tokens(stream, m, is_valid, is_present) for m, stream in images.items()]
        if REPORT in fused.tokens:
            context = torch.cat(list(images.values()), dim=1)
            report = self.metadata(fused.tokens[REPORT], context, joint_mask(images, is_valid, is_present))
            report = mean_of_tokens(report, REPORT, is_valid, is_present)
            means = [mean * torch.sigmoid(self.gate(report)) for mean in means] + [report]
        return torch.cat(means, dim=-1)
