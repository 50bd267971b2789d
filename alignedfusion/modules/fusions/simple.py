"""The usual fusions, behind the same call as `IntermediateTokenFusion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.attention import CrossAttentionBlock, SelfAttentionBlock
from alignedfusion.modules.fusions.intermediate import (
    FusionOutput,
    blank,
    check_modalities,
    check_tokens,
    mean_of_tokens,
)
from alignedfusion.modules.module_dict import ModuleDict

Masks = Mapping[str, Tensor]


class Fusion(nn.Module):
    """What the baselines share: their settings, their checks and their call.

    Args:
        dim: Token width D.
        modalities: One or more names.
        depth: Rounds.
        num_heads: Attention heads; must divide `dim`.
        dropout: Probability inside the blocks.
    """

    least = 1
    """Modalities it takes at least."""

    def __init__(
        self,
        dim: int,
        *,
        modalities: Sequence[str] = ("image", REPORT),
        depth: int = 2,
        num_heads: int = 6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.modalities = check_modalities(modalities, at_least=self.least)
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.dim = dim
        self.settings = {"depth": depth, "num_heads": num_heads, "dropout": dropout}
        self.build(depth, {"num_heads": num_heads, "dropout": dropout})

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Make the layers; `block` holds the settings of an attention block beside its width."""
        raise NotImplementedError

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse checked tokens, of which padding and absent modalities are zero."""
        raise NotImplementedError

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        *,
        is_valid: Masks | None = None,
        is_present: Masks | None = None,
    ) -> FusionOutput:
        """Fuse tokens (B, N_m, D) of all modalities; arguments as in `IntermediateTokenFusion`, and K = 0."""
        check_tokens(tokens, self.modalities, self.dim, is_valid, is_present)
        streams = {m: blank(tokens[m], m, is_valid, is_present) for m in self.modalities}
        # A row that is nothing but padding attends to its zeros: attention has no answer to an empty row.
        is_valid = {m: mask | ~mask.any(1, keepdim=True) for m, mask in (is_valid or {}).items()}
        return self.fuse(streams, is_valid, is_present or {})

    def self_attention(
        self, depth: int, block: dict[str, Any], modalities: Sequence[str] | None = None
    ) -> nn.ModuleList:
        """One block per round and modality, of all modalities or of some."""
        names = self.modalities if modalities is None else modalities
        return nn.ModuleList(
            ModuleDict({m: SelfAttentionBlock(self.dim, **block) for m in names}) for _ in range(depth)
        )

    def no_tokens(self, streams: Mapping[str, Tensor]) -> Tensor:
        """No intermediate tokens, (B, 0, D)."""
        return next(iter(streams.values()))[:, :0]

    def to_dict(self) -> dict[str, Any]:
        """Settings that rebuild this module; the weights travel in the state dict."""
        return {"dim": self.dim, "modalities": list(self.modalities), **self.settings}


class JointSelfAttention(Fusion):
    """All tokens of all modalities attend to each other: the paper's "Self-Attention" and "w/o IT" rows.

    With one modality it is the image-only or the attributes-only model: an `AlignedFusionClassifier` uses the modalities
    its fusion names and no others.
    """

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Make the layers."""
        # In one common set, a token must say where it is from.
        self.origin = nn.Parameter(torch.randn(len(self.modalities), self.dim) * 0.02)
        self.blocks = nn.ModuleList(SelfAttentionBlock(self.dim, **block) for _ in range(depth))

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse the tokens."""
        joined = torch.cat([streams[m] + self.origin[i] for i, m in enumerate(self.modalities)], dim=1)
        mask = joint_mask(streams, is_valid, is_present)
        for block in self.blocks:
            joined = block(joined, mask)
        split = joined.split([streams[m].shape[1] for m in self.modalities], dim=1)
        return FusionOutput(dict(zip(self.modalities, split, strict=True)), joined[:, :0])


class Concatenation(Fusion):
    """Each modality attends to itself; their means are put side by side."""

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Make the layers."""
        self.rounds = self.self_attention(depth, block)

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse the tokens."""
        for blocks in self.rounds:
            streams = {m: blocks[m](stream, is_valid.get(m)) for m, stream in streams.items()}  # type: ignore[index]
        return FusionOutput(streams, self.no_tokens(streams))


class ElementwiseSum(Concatenation):
    """Each modality attends to itself; their means are added up: the paper's "Element-wise Sum" row."""

    @property
    def pooled_dim(self) -> int:
        """Width P of what it pools."""
        return self.dim

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse the tokens."""
        tokens, intermediate, _ = super().fuse(streams, is_valid, is_present)
        means = [mean_of_tokens(stream, m, is_valid, is_present) for m, stream in tokens.items()]
        return FusionOutput(tokens, intermediate, torch.stack(means).sum(0))


class CrossAttention(Fusion):
    """In every round each modality attends to itself, then to all tokens of the others."""

    least = 2

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Make the layers."""
        self.rounds = self.self_attention(depth, block)
        self.crossings = nn.ModuleList(
            ModuleDict({m: CrossAttentionBlock(self.dim, **block) for m in self.modalities}) for _ in range(depth)
        )

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse the tokens."""
        for blocks, crossings in zip(self.rounds, self.crossings, strict=True):
            streams = {m: blocks[m](stream, is_valid.get(m)) for m, stream in streams.items()}  # type: ignore[index]
            crossed = {}
            for m, stream in streams.items():
                others = {other: each for other, each in streams.items() if other != m}
                context = torch.cat(list(others.values()), dim=1)
                crossed[m] = crossings[m](stream, context, joint_mask(others, is_valid, is_present))  # type: ignore[index]
            streams = crossed
        return FusionOutput(streams, self.no_tokens(streams))


def joint_mask(streams: Mapping[str, Tensor], is_valid: Masks, is_present: Masks) -> Tensor | None:
    """Which of the tokens of several modalities, side by side, may be attended to: (B, sum of N_m), or None for all."""
    if not is_valid and not is_present:
        return None
    parts = []
    for m, stream in streams.items():
        part = is_valid.get(m, torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device))
        parts.append(part & is_present[m][:, None] if m in is_present else part)
    mask = torch.cat(parts, dim=1)
    return mask | ~mask.any(1, keepdim=True)  # a row without any token attends to its zeros
