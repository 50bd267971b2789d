"""The attention blocks every fusion is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def resolve_heads(dim: int, num_heads: int | None) -> int:
    """The number of attention heads: the given one, or the largest divisor of the width that leaves heads of 64 or wider.

    Raises:
        ValueError: If the width is not divisible by the given number.
    """
    if dim < 1:
        raise ValueError(f"dim is the width of the tokens, 1 or more; got {dim}")
    if num_heads is None:
        return next(heads for heads in range(max(1, dim // 64), 0, -1) if dim % heads == 0)
    if num_heads < 1 or dim % num_heads:
        raise ValueError(
            f"dim must be divisible by num_heads, got dim={dim} and num_heads={num_heads}; leave num_heads out, and it "
            f"follows from dim"
        )
    return num_heads


class SelfAttentionBlock(nn.Module):
    """Pre-norm transformer block on `torch.nn.functional.scaled_dot_product_attention` (F_SA of eq. 7).

    Args:
        dim: Width D.
        num_heads: Attention heads; must divide `dim`. Heads of width 64 by default, see `resolve_heads`.
        mlp_ratio: Width of the feed-forward layer, relative to D.
        dropout: Dropout probability of both residual branches and within the feed-forward layer. Attention weights have none:
            it would rule out the fast attention kernels on CPUs.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, mlp_ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = resolve_heads(dim, num_heads)
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, int(dim * mlp_ratio)), nn.GELU(), nn.Dropout(dropout), nn.Linear(int(dim * mlp_ratio), dim)
        )

    def forward(self, tokens: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """Let tokens (B, N, D) attend to each other.

        Args:
            tokens: (B, N, D).
            is_valid: (B, N), False for padding, which no token attends to. Each row needs one valid token. Leave it out
                without padding: attention is fastest without a mask.

        Returns:
            (B, N, D).
        """
        return self.within_sets(tokens, [tokens.shape[1]], [is_valid])

    def within_sets(self, tokens: Tensor, lengths: Sequence[int], is_valid: Sequence[Tensor | None]) -> Tensor:
        """Apply the block to several sets of tokens at once; each token attends only to the tokens of its own set.

        The linear layers run once on all sets together, which is faster than one call of `forward` per set.

        Args:
            tokens: (B, N, D), the sets concatenated.
            lengths: Number of tokens N_i of each set; the sum is N.
            is_valid: (B, N_i) for each set as in `forward`, or None.

        Returns:
            (B, N, D).
        """
        qkv = rearrange(self.qkv(self.norm_attention(tokens)), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.num_heads)
        attended = []
        for set_qkv, mask in zip(qkv.split(list(lengths), dim=3), is_valid, strict=True):
            query, key, value = set_qkv.unbind(0)
            mixed = F.scaled_dot_product_attention(
                query,
                key,
                value,
                # True marks tokens that take part, in a boolean attn_mask as in is_valid.
                attn_mask=None if mask is None else mask[:, None, None, :],  # (B, 1, 1, N_i)
            )
            attended.append(rearrange(mixed, "b h n d -> b n (h d)"))
        mixed = self.out(attended[0] if len(lengths) == 1 else torch.cat(attended, dim=1))  # (B, N, D)

        tokens = tokens + F.dropout(mixed, self.dropout, self.training)
        return tokens + F.dropout(self.mlp(self.norm_mlp(tokens)), self.dropout, self.training)

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}"


class CrossAttentionBlock(nn.Module):
    """Pre-norm transformer block whose tokens attend to the tokens of another set.

    Args:
        dim: Width D.
        num_heads: Attention heads; must divide `dim`. Heads of width 64 by default, see `resolve_heads`.
        dropout: Dropout probability, as in `SelfAttentionBlock`.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        block = SelfAttentionBlock(dim, num_heads=num_heads, dropout=dropout)
        self.num_heads, self.dropout = block.num_heads, block.dropout
        self.norm_query, self.norm_context = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm_mlp, self.mlp = block.norm_mlp, block.mlp

    def forward(self, tokens: Tensor, context: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """Let tokens (B, N, D) attend to a context (B, M, D); is_valid (B, M) is False for padding of the context."""
        query = rearrange(self.query(self.norm_query(tokens)), "b n (h d) -> b h n d", h=self.num_heads)
        key, value = rearrange(
            self.key_value(self.norm_context(context)), "b m (kv h d) -> kv b h m d", kv=2, h=self.num_heads
        )
        attn_mask = None if is_valid is None else is_valid[:, None, None, :]  # (B, 1, 1, M)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        mixed = self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        tokens = tokens + F.dropout(mixed, self.dropout, self.training)
        return tokens + F.dropout(self.mlp(self.norm_mlp(tokens)), self.dropout, self.training)
