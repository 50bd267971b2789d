"""Fusion through intermediate tokens, the only bridge between modalities (eq. 6-8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.attention import SelfAttentionBlock
from alignedfusion.modules.module_dict import ModuleDict


class FusionOutput(NamedTuple):
    """What a fusion returns.

    Attributes:
        tokens: (B, N_m, D) for each modality m.
        intermediate: (B, K, D); K = 0 for a fusion without intermediate tokens.
        pooled: (B, P), from a fusion that pools by itself and says so by its `pooled_dim`; else None.
    """

    tokens: dict[str, Tensor]
    intermediate: Tensor
    pooled: Tensor | None = None


class IntermediateTokenFusion(nn.Module):
    """Each modality attends to itself and to the intermediate tokens it shares with the others (eq. 6-8).

    In every round each modality's tokens pass a self-attention block together with its intermediate tokens (eq. 6, 7);
    then the copies of each intermediate token are averaged and handed back (eq. 8). Image and report tokens never attend to
    each other. So the first round brings nothing across: it takes a second one for report tokens to see the image.

    Args:
        dim: Token width D.
        modalities: Two or more names.
        depth: Rounds.
        num_heads: Attention heads; must divide `dim`.
        topology: "pairwise" gives each pair of modalities intermediate tokens of its own, "shared" has some for all.
        num_tokens: Intermediate tokens per pair, or in all if shared: K = M (M - 1) / 2 times that, or just that. Four shared
            ones are the bottleneck of MBT (Nagrani et al. 2021).
        share_weights: One block per round for all modalities, instead of one each.
        dropout: Probability inside the blocks.
    """

    share: Tensor

    def __init__(
        self,
        dim: int,
        *,
        modalities: Sequence[str] = ("image", REPORT),
        depth: int = 2,
        num_heads: int = 6,
        topology: str = "pairwise",
        num_tokens: int = 1,
        share_weights: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.modalities = check_modalities(modalities, at_least=2)
        if topology not in ("pairwise", "shared"):
            raise ValueError(f"topology must be 'pairwise' or 'shared', got {topology!r}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.dim = dim
        self.topology = topology
        self.num_tokens = num_tokens
        self.share_weights = share_weights
        groups = [self.modalities] if topology == "shared" else list(combinations(self.modalities, 2))
        groups = [group for group in groups for _ in range(num_tokens)]
        # Which intermediate tokens a modality carries: those of the groups it belongs to.
        self.carried = {m: [k for k, group in enumerate(groups) if m in group] for m in self.modalities}
        self.intermediate = nn.Parameter(torch.randn(len(groups), dim) * 0.02)
        # The share of every copy, in the order of the modalities, in the token it is a copy of.
        owners = torch.tensor([k for m in self.modalities for k in self.carried[m]])
        is_copy = (owners == torch.arange(len(groups))[:, None]).float()
        self.register_buffer("share", is_copy / is_copy.sum(1, keepdim=True), persistent=False)  # (K, copies)
        keys = ("shared",) if share_weights else self.modalities
        self.rounds = nn.ModuleList(
            ModuleDict({key: SelfAttentionBlock(dim, num_heads=num_heads, dropout=dropout) for key in keys})
            for _ in range(depth)
        )

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        *,
        is_valid: Mapping[str, Tensor] | None = None,
        is_present: Mapping[str, Tensor] | None = None,
    ) -> FusionOutput:
        """Fuse the tokens of all modalities.

        Args:
            tokens: (B, N_m, D) for each modality m.
            is_valid: (B, N_m) for modalities with padding; False where padded. Unmentioned attributes are not padding.
            is_present: (B,) for modalities that some rows lack; their tokens there count for nothing.

        Returns:
            Tokens of the same shapes, those of padding and absent modalities meaningless but finite, and the intermediate
            tokens (B, K, D).

        Raises:
            ValueError: For a missing or unknown modality, or a shape that does not fit.
        """
        check_tokens(tokens, self.modalities, self.dim, is_valid, is_present)
        streams = {m: blank(tokens[m], m, is_valid, is_present) for m in self.modalities}
        batch = next(iter(streams.values())).shape[0]
        intermediate = self.intermediate.expand(batch, -1, -1)  # (B, K, D)
        masks = {m: extend(is_valid, m, len(self.carried[m])) for m in self.modalities}
        # Modalities that one block serves go through it side by side: a product for a dozen attributes costs almost nothing
        # beside the image's, but much as a product of its own.
        together = [self.modalities] if self.share_weights else [(m,) for m in self.modalities]

        for blocks in self.rounds:
            # Each modality attends to itself and to its own copy of the intermediate tokens.
            copies = [self._attend(blocks, names, streams, intermediate, masks) for names in together]  # type: ignore[arg-type]

            # Copies of one token become one again, so that the next round carries what the other side has said.
            intermediate = self._average(torch.cat(copies, dim=1), is_present, intermediate)

        return FusionOutput(streams, intermediate)

    def _attend(
        self,
        blocks: nn.ModuleDict,
        names: Sequence[str],
        streams: dict[str, Tensor],
        intermediate: Tensor,
        masks: Mapping[str, Tensor | None],
    ) -> Tensor:
        """Put some streams through their block, in place; returns their copies of the intermediate tokens side by side."""
        # A stream is let go when it is joined: what is held is one copy of an image, not two.
        pieces = [each for m in names for each in (intermediate[:, self.carried[m]], streams.pop(m))]
        joined = torch.cat(pieces, dim=1)  # (B, sum of k + N_m, D)
        counts = [each.shape[1] for each in pieces]
        del pieces
        if self.share_weights:
            lengths = [k + n for k, n in zip(counts[::2], counts[1::2], strict=True)]
            joined = blocks["shared"].within_sets(joined, lengths, [masks[m] for m in names])  # type: ignore[operator]
        else:
            joined = blocks[names[0]](joined, masks[names[0]])
        parts = joined.split(counts, dim=1)
        streams.update(zip(names, parts[1::2], strict=True))
        return torch.cat(parts[::2], dim=1)  # (B, copies, D)

    def _average(self, copies: Tensor, is_present: Mapping[str, Tensor] | None, before: Tensor) -> Tensor:
        """The mean of the copies (B, copies, D) of each intermediate token over the modalities present, (B, K, D)."""
        if not is_present:
            return (self.share[..., None].to(copies.dtype) * copies[:, None]).sum(2)
        everywhere = torch.ones(len(copies), dtype=torch.bool, device=copies.device)
        is_there = torch.stack([is_present.get(m, everywhere) for m in self.modalities for _ in self.carried[m]], dim=1)
        share = self.share * is_there[:, None]  # (B, K, copies)
        total = share.sum(-1, keepdim=True)
        mean = ((share / total.clamp(min=1e-6)).to(copies.dtype)[..., None] * copies[:, None]).sum(2)
        return torch.where(total > 0, mean, before)  # nobody there to carry it: it stays

    def to_dict(self) -> dict[str, Any]:
        """Settings that rebuild this module; the weights travel in the state dict."""
        block = next(iter(self.rounds[0].values()))  # type: ignore[operator]
        return {
            "dim": self.dim,
            "modalities": list(self.modalities),
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


def check_modalities(modalities: Sequence[str], *, at_least: int) -> tuple[str, ...]:
    """Refuse names that cannot be modalities of a fusion."""
    if isinstance(modalities, str) or len(set(modalities)) != len(modalities) or len(modalities) < at_least:
        raise ValueError(
            f"modalities must be {at_least} or more distinct names such as ('image', 'report'), got {modalities!r}"
        )
    return tuple(modalities)


def check_tokens(
    tokens: Mapping[str, Tensor],
    modalities: Sequence[str],
    dim: int,
    is_valid: Mapping[str, Tensor] | None,
    is_present: Mapping[str, Tensor] | None,
) -> None:
    """Refuse inputs of a fusion that do not fit its modalities and width, or each other."""
    if set(tokens) != set(modalities):
        raise ValueError(
            f"this fusion takes tokens of {sorted(modalities)}, got {sorted(tokens)}; a modality that rows lack is given as "
            f"zeros, with is_present saying which rows have it"
        )
    batch = tokens[modalities[0]].shape[0]
    for name, stream in tokens.items():
        if stream.ndim != 3 or stream.shape[-1] != dim or stream.shape[0] != batch:
            raise ValueError(f"tokens of {name!r} must be ({batch}, N, {dim}), got {tuple(stream.shape)}")
    for argument, masks, width in (("is_valid", is_valid, 2), ("is_present", is_present, 1)):
        for name, mask in (masks or {}).items():
            if name not in modalities:
                raise ValueError(f"{argument} names the modality {name!r}; this fusion has {sorted(modalities)}")
            check_mask(f"{argument}[{name!r}]", mask, tuple(tokens[name].shape[:width]))


def check_mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a mask of another type or shape."""
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"{name} must be bool of shape {shape}, got {mask.dtype} of shape {tuple(mask.shape)}")


def blank(
    stream: Tensor, modality: str, is_valid: Mapping[str, Tensor] | None, is_present: Mapping[str, Tensor] | None
) -> Tensor:
    """Tokens (B, N, D) with padding and absent rows set to zero: NaN there would pass through a masked attention."""
    if is_valid and modality in is_valid:
        stream = stream.masked_fill(~is_valid[modality][..., None], 0.0)
    if is_present and modality in is_present:
        stream = stream.masked_fill(~is_present[modality][:, None, None], 0.0)
    return stream


def mean_of_tokens(
    stream: Tensor, modality: str, is_valid: Mapping[str, Tensor], is_present: Mapping[str, Tensor]
) -> Tensor:
    """The mean token (B, D) of a modality, padding left out; zero where a row lacks the modality."""
    if modality in is_valid:
        weight = is_valid[modality][..., None].to(stream.dtype)
        mean = (stream * weight).sum(1) / weight.sum(1).clamp(min=1)
    else:
        mean = stream.mean(1)
    return mean.masked_fill(~is_present[modality][:, None], 0.0) if modality in is_present else mean


def extend(is_valid: Mapping[str, Tensor] | None, modality: str, count: int) -> Tensor | None:
    """The padding mask (B, count + N) of tokens that follow `count` intermediate tokens, which are always valid."""
    if not is_valid or modality not in is_valid:
        return None
    mask = is_valid[modality]
    return torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)
