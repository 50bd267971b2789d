"""Common fusions, called like `IntermediateTokenFusion`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.attention import CrossAttentionBlock, SelfAttentionBlock, resolve_heads
from alignedfusion.modules.fusions.base import Fusion, FusionOutput
from alignedfusion.modules.modalities import Masks, joint_mask, mean_of_tokens, module_key


class BlockFusion(Fusion):
    """Base class of the fusions that consist of attention blocks and have no intermediate tokens (K = 0).

    Args:
        dim: Token width D.
        modalities: Names of the modalities.
        depth: Number of rounds.
        num_heads: Attention heads; must divide `dim`. Heads of width 64 by default.
        dropout: Dropout probability inside the blocks.
    """

    def __init__(
        self,
        dim: int,
        *,
        modalities: Sequence[str] = ("image", REPORT),
        depth: int = 2,
        num_heads: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, modalities=modalities)
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        block = {"num_heads": resolve_heads(dim, num_heads), "dropout": dropout}
        self.settings = {"depth": depth, **block}
        self.build(depth, block)

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Create the layers; `block` holds the arguments of an attention block other than its width."""
        raise NotImplementedError

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse checked tokens (B, N_m, D), in which padding and absent modalities are zero."""
        # A row of padding alone attends to its zeros: attention over an empty set is undefined.
        is_valid = {m: mask | ~mask.any(1, keepdim=True) for m, mask in is_valid.items()}
        return self.attend(streams, is_valid, is_present)

    def attend(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Apply the blocks; no row of `is_valid` is empty."""
        raise NotImplementedError

    def self_attention(
        self, depth: int, block: dict[str, Any], modalities: Sequence[str] | None = None
    ) -> nn.ModuleList:
        """One block per round and modality, for all modalities or for some."""
        keys = [module_key(m) for m in (self.modalities if modalities is None else modalities)]
        return nn.ModuleList(
            nn.ModuleDict({key: SelfAttentionBlock(self.dim, **block) for key in keys}) for _ in range(depth)
        )

    def attend_to_itself(self, blocks: Any, streams: dict[str, Tensor], is_valid: Masks) -> dict[str, Tensor]:
        """The tokens of each modality after its own block; `blocks` has one per modality, in the same order."""
        return {
            m: block(stream, is_valid.get(m))
            for (m, stream), block in zip(streams.items(), blocks.values(), strict=True)
        }

    def no_tokens(self, streams: dict[str, Tensor]) -> Tensor:
        """No intermediate tokens, (B, 0, D)."""
        return next(iter(streams.values()))[:, :0]

    def report_parameters(self) -> Iterator[nn.Parameter]:
        """The blocks of the report."""
        for layers in (getattr(self, "rounds", ()), getattr(self, "crossings", ())):
            for blocks in layers:
                if REPORT in blocks:
                    yield from blocks[REPORT].parameters()

    def to_dict(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON; the weights are in the state dict."""
        return {**super().to_dict(), **self.settings}


class JointSelfAttention(BlockFusion):
    """All tokens of all modalities attend to each other: the paper's "Self-Attention" and "w/o IT" rows.

    With one modality it is the image-only or the attributes-only model: an `AlignedFusionClassifier` uses only the modalities
    of its fusion.
    """

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Create the layers."""
        # The modalities share one set of tokens, so each token carries an embedding of its modality.
        self.origin = nn.Parameter(torch.randn(len(self.modalities), self.dim) * 0.02)
        self.blocks = nn.ModuleList(SelfAttentionBlock(self.dim, **block) for _ in range(depth))

    def attend(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Apply the blocks; no row of `is_valid` is empty."""
        joined = torch.cat([streams[m] + self.origin[i] for i, m in enumerate(self.modalities)], dim=1)
        mask = joint_mask(streams, is_valid, is_present)
        for block in self.blocks:
            joined = block(joined, mask)
        split = joined.split([streams[m].shape[1] for m in self.modalities], dim=1)
        return FusionOutput(dict(zip(self.modalities, split, strict=True)), self.no_tokens(streams))


class Concatenation(BlockFusion):
    """Each modality attends to itself; the means of the modalities are concatenated."""

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Create the layers."""
        self.rounds = self.self_attention(depth, block)

    def attend(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Apply the blocks; no row of `is_valid` is empty."""
        for blocks in self.rounds:
            streams = self.attend_to_itself(blocks, streams, is_valid)
        return FusionOutput(streams, self.no_tokens(streams))


class ElementwiseSum(Concatenation):
    """Each modality attends to itself; the means of the modalities are added: the paper's "Element-wise Sum" row."""

    @property
    def pooled_dim(self) -> int:
        """Width P of the sum."""
        return self.dim

    def pool(self, fused: FusionOutput, is_valid: Masks | None = None, is_present: Masks | None = None) -> Tensor:
        """The sum (B, D) of the modalities' mean tokens."""
        means = [mean_of_tokens(fused.tokens[m], m, is_valid, is_present) for m in self.modalities]
        return torch.stack(means).sum(0)


class CrossAttention(BlockFusion):
    """In every round each modality attends to itself, then to all tokens of the others."""

    min_modalities = 2

    def build(self, depth: int, block: dict[str, Any]) -> None:
        """Create the layers."""
        self.rounds = self.self_attention(depth, block)
        self.crossings = nn.ModuleList(
            nn.ModuleDict({module_key(m): CrossAttentionBlock(self.dim, **block) for m in self.modalities})
            for _ in range(depth)
        )

    def attend(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Apply the blocks; no row of `is_valid` is empty."""
        for blocks, crossings in zip(self.rounds, self.crossings, strict=True):
            streams = self.attend_to_itself(blocks, streams, is_valid)
            crossed = {}
            for (m, stream), crossing in zip(streams.items(), crossings.values(), strict=True):  # type: ignore[operator]
                others = {other: tokens for other, tokens in streams.items() if other != m}
                context = torch.cat(list(others.values()), dim=1)
                crossed[m] = crossing(stream, context, joint_mask(others, is_valid, is_present))
            streams = crossed
        return FusionOutput(streams, self.no_tokens(streams))
