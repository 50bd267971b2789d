"""Fusion through intermediate tokens, the only bridge between modalities (eq. 6-8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.attention import SelfAttentionBlock
from alignedfusion.modules.fusions.base import Fusion, FusionOutput
from alignedfusion.modules.modalities import Masks, module_key


class IntermediateTokenFusion(Fusion):
    """Each modality attends to itself and to the intermediate tokens it shares with the others (eq. 6-8).

    In every round each modality's tokens pass a self-attention block together with its intermediate tokens (eq. 6, 7);
    then the copies of each intermediate token are averaged and passed to the next round (eq. 8). Image and report tokens never
    attend to each other. So with one round, the report tokens do not depend on the image; with two rounds, they do. After the
    first round each modality has attended to itself alone: these tokens are `FusionOutput.first_round`.

    Args:
        dim: Token width D.
        modalities: Two or more names of modalities.
        depth: Number of rounds.
        num_heads: Attention heads; must divide `dim`. Heads of width 64 by default.
        topology: "pairwise" gives each pair of modalities its own intermediate tokens, "shared" gives all modalities the same
            ones.
        num_tokens: Number of intermediate tokens per pair of modalities, or in total if shared: K is M (M - 1) / 2 times this
            number, or this number. Four shared tokens are the bottleneck of MBT (Nagrani et al. 2021).
        share_weights: Whether all modalities share one block per round, instead of one block each.
        dropout: Dropout probability inside the blocks.
    """

    share: Tensor
    min_modalities = 2
    has_first_round = True

    def __init__(
        self,
        dim: int,
        *,
        modalities: Sequence[str] = ("image", REPORT),
        depth: int = 2,
        num_heads: int | None = None,
        topology: str = "pairwise",
        num_tokens: int = 1,
        share_weights: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, modalities=modalities)
        if topology not in ("pairwise", "shared"):
            raise ValueError(f"topology must be 'pairwise' or 'shared', got {topology!r}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.topology = topology
        self.num_tokens = num_tokens
        self.share_weights = share_weights
        groups = [self.modalities] if topology == "shared" else list(combinations(self.modalities, 2))
        groups = [group for group in groups for _ in range(num_tokens)]
        # Which intermediate tokens a modality carries: those of the groups it belongs to.
        self.carried = {m: [k for k, group in enumerate(groups) if m in group] for m in self.modalities}
        self.intermediate = nn.Parameter(torch.randn(len(groups), dim) * 0.02)
        # The weight of every copy, in the order of the modalities, in the mean of the copies of its token.
        owners = torch.tensor([k for m in self.modalities for k in self.carried[m]])
        is_copy = (owners == torch.arange(len(groups))[:, None]).float()
        self.register_buffer("share", is_copy / is_copy.sum(1, keepdim=True), persistent=False)  # (K, copies)
        keys = ("shared",) if share_weights else tuple(map(module_key, self.modalities))
        self.rounds = nn.ModuleList(
            nn.ModuleDict({key: SelfAttentionBlock(dim, num_heads=num_heads, dropout=dropout) for key in keys})
            for _ in range(depth)
        )

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse checked tokens (B, N_m, D), in which padding and absent modalities are zero."""
        batch = next(iter(streams.values())).shape[0]
        intermediate = self.intermediate.expand(batch, -1, -1)  # (B, K, D)
        masks = {m: extend(is_valid, m, len(self.carried[m])) for m in self.modalities}
        # Modalities that share a block pass it together: the products for a dozen attributes cost almost nothing as part of the
        # image's products, but much as products of their own.
        together = [self.modalities] if self.share_weights else [(m,) for m in self.modalities]

        first_round: dict[str, Tensor] | None = None
        for blocks in self.rounds:
            # Each modality attends to itself and to its own copy of the intermediate tokens.
            copies = [
                self._attend(block, names, streams, intermediate, masks)
                for block, names in zip(blocks.values(), together, strict=True)  # type: ignore[operator]
            ]

            # Up to here no modality has met another (eq. 7 comes before eq. 8).
            first_round = dict(streams) if first_round is None else first_round

            # Average the copies of each token, so that the next round passes information to the other modalities.
            intermediate = self._average(torch.cat(copies, dim=1), is_present, intermediate)

        return FusionOutput(streams, intermediate, first_round)

    def _attend(
        self,
        block: SelfAttentionBlock,
        names: Sequence[str],
        streams: dict[str, Tensor],
        intermediate: Tensor,
        masks: Mapping[str, Tensor | None],
    ) -> Tensor:
        """Apply a block to some streams, in place. Returns their copies of the intermediate tokens, concatenated."""
        # Streams are released once they are concatenated, so that memory holds one copy of an image's tokens, not two.
        pieces = [piece for m in names for piece in (intermediate[:, self.carried[m]], streams.pop(m))]
        joined = torch.cat(pieces, dim=1)  # (B, sum of k + N_m, D)
        counts = [piece.shape[1] for piece in pieces]
        del pieces
        if self.share_weights:
            lengths = [k + n for k, n in zip(counts[::2], counts[1::2], strict=True)]
            joined = block.within_sets(joined, lengths, [masks[m] for m in names])
        else:
            joined = block(joined, masks[names[0]])
        pieces = list(joined.split(counts, dim=1))
        streams.update(zip(names, pieces[1::2], strict=True))
        return torch.cat(pieces[::2], dim=1)  # (B, copies, D)

    def _average(self, copies: Tensor, is_present: Masks, before: Tensor) -> Tensor:
        """The mean of the copies (B, copies, D) of each intermediate token over the modalities present, (B, K, D)."""
        if not is_present:
            return (self.share[..., None].to(copies.dtype) * copies[:, None]).sum(2)
        everywhere = torch.ones(len(copies), dtype=torch.bool, device=copies.device)
        is_carried = torch.stack(
            [is_present.get(m, everywhere) for m in self.modalities for _ in self.carried[m]], dim=1
        )
        share = self.share * is_carried[:, None]  # (B, K, copies)
        total = share.sum(-1, keepdim=True)
        mean = ((share / total.clamp(min=1e-6)).to(copies.dtype)[..., None] * copies[:, None]).sum(2)
        return torch.where(total > 0, mean, before)  # a token stays as it is if all its modalities are absent

    @property
    def pooled_dim(self) -> int:
        """Width P of the representation that `pool` returns: the means of M modalities and K intermediate tokens."""
        return self.dim * (len(self.modalities) + len(self.intermediate))

    def report_parameters(self) -> Iterator[nn.Parameter]:
        """The blocks of the report, unless it shares them."""
        if REPORT in self.modalities and not self.share_weights:
            for blocks in self.rounds:
                yield from blocks[REPORT].parameters()  # type: ignore[index]

    def to_dict(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON; the weights are in the state dict."""
        block = next(iter(self.rounds[0].values()))  # type: ignore[operator]
        return {
            **super().to_dict(),
            "depth": len(self.rounds),
            "num_heads": block.num_heads,
            "topology": self.topology,
            "num_tokens": self.num_tokens,
            "share_weights": self.share_weights,
            "dropout": block.dropout,
        }

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"modalities={self.modalities}, topology={self.topology!r}, share_weights={self.share_weights}"


def extend(is_valid: Masks, modality: str, count: int) -> Tensor | None:
    """The padding mask (B, count + N) of tokens that follow `count` intermediate tokens, which are always valid."""
    if modality not in is_valid:
        return None
    mask = is_valid[modality]
    return torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)
