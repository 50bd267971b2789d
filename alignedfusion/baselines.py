"""The fusions we compare with, behind the same call as `IntermediateTokenFusion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attention import SelfAttentionBlock
from alignedfusion.fusion import REPORT, FusionOutput, blank, check_modalities, check_tokens


class JointSelfAttention(nn.Module):
    """All tokens of all modalities attend to each other: the paper's "Self-Attention" and "w/o IT" rows.

    With one modality it is the image-only or the attributes-only model: an `AlignedFusionClassifier` uses the modalities
    its fusion names and no others.

    Args:
        dim: Token width D.
        modalities: One or more names.
        depth: Blocks.
        num_heads: Attention heads; must divide `dim`.
        dropout: Probability inside the blocks.
    """

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
        self.modalities = check_modalities(modalities, at_least=1)
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.dim = dim
        # In one common set, a token must say where it is from.
        self.origin = nn.Parameter(torch.randn(len(self.modalities), dim) * 0.02)
        self.blocks = nn.ModuleList(SelfAttentionBlock(dim, num_heads=num_heads, dropout=dropout) for _ in range(depth))

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        *,
        is_valid: Mapping[str, Tensor] | None = None,
        is_present: Mapping[str, Tensor] | None = None,
    ) -> FusionOutput:
        """Fuse tokens (B, N_m, D) of all modalities; arguments as in `IntermediateTokenFusion`, and K = 0."""
        check_tokens(tokens, self.modalities, self.dim, is_valid, is_present)
        streams = [blank(tokens[m], m, is_valid, is_present) + self.origin[i] for i, m in enumerate(self.modalities)]
        joined = torch.cat(streams, dim=1)  # (B, sum of N_m, D)
        mask = self._mask(streams, is_valid or {}, is_present or {})

        for block in self.blocks:
            joined = block(joined, mask)

        split = joined.split([stream.shape[1] for stream in streams], dim=1)
        return FusionOutput(dict(zip(self.modalities, split, strict=True)), joined[:, :0])

    def _mask(
        self, streams: list[Tensor], is_valid: Mapping[str, Tensor], is_present: Mapping[str, Tensor]
    ) -> Tensor | None:
        if not is_valid and not is_present:
            return None
        parts = []
        for m, stream in zip(self.modalities, streams, strict=True):
            part = is_valid.get(m, torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device))
            parts.append(part & is_present[m][:, None] if m in is_present else part)
        mask = torch.cat(parts, dim=1)  # (B, sum of N_m)
        return mask | ~mask.any(1, keepdim=True)  # a row without any token attends to its zeros

    def to_dict(self) -> dict[str, Any]:
        """Settings that rebuild this module; the weights travel in the state dict."""
        block = self.blocks[0]
        assert isinstance(block, SelfAttentionBlock)
        return {
            "dim": self.dim,
            "modalities": list(self.modalities),
            "depth": len(self.blocks),
            "num_heads": block.num_heads,
            "dropout": block.dropout,
        }
