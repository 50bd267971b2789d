"""Attention between an intermediate token and all positions of dense maps, in both directions and in linear time.

Positions are never projected one by one. A score q K x equals (K^T q) x, and a weighted sum of V x equals V times the weighted
sum of x. So one dot product per head and position is enough, and the layer norm before both is applied through the mean and
the deviation of each position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion.modules.attention import resolve_heads


class NormedMap:
    """A map with a layer norm over the channels of each position, which is applied without a copy of the map.

    Args:
        features: (B, C, *spatial).

    Attributes:
        flat: The map without the norm, (B, C, N).
    """

    def __init__(self, features: Tensor) -> None:
        self.flat = features.flatten(2)
        if len(features):
            variance, self.mean = torch.var_mean(self.flat, dim=1, correction=0, keepdim=True)  # (B, 1, N)
        else:  # no image, or no region of interest: torch would warn
            variance = self.mean = self.flat[:, :1]
        self.scale = (variance + 1e-5).rsqrt()

    def product(self, vectors: Tensor) -> Tensor:
        """Return the products (B, h, N) of vectors (B, h, C) with the normed positions."""
        product = torch.bmm(vectors, self.flat.to(vectors.dtype))
        return (product - self.mean * vectors.sum(-1, keepdim=True)) * self.scale

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the sums (B, h, C) of the normed positions with weights (B, h, N)."""
        scaled = weights * self.scale
        return torch.bmm(scaled, self.flat.to(scaled.dtype).mT) - (scaled * self.mean).sum(-1, keepdim=True)


class GlobalRead(nn.Module):
    """The intermediate token's row of self-attention (eq. 7) over itself and all positions of all maps, and its MLP.

    Args:
        channels: Channels of each map.
        dim: Token width D.
        num_heads: Attention heads; must divide `dim`.
        dropout: Probability on both residual branches.
    """

    def __init__(self, channels: Sequence[int], dim: int, *, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = resolve_heads(dim, num_heads)
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.levels = nn.ModuleList(nn.Linear(c, 2 * dim) for c in channels)  # keys and values; biases embed the level
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, maps: Sequence[NormedMap], token: Tensor) -> Tensor:
        """Update the token.

        Args:
            maps: The maps, with C channels and N positions each.
            token: (B, 1, D).

        Returns:
            The updated token (B, 1, D).
        """
        heads = self.num_heads
        query, key, value = self.query_key_value(self.norm(token)).unflatten(-1, (3, heads, -1))[:, 0].unbind(1)
        query = query * query.shape[-1] ** -0.5  # (B, h, d)

        # Scores of the token itself and of every position.
        scores = [(query * key).sum(-1, keepdim=True)]  # (B, h, 1)
        for each, level in zip(maps, self.levels, strict=True):
            weight, bias = _of_heads(level, heads, 0)
            folded = torch.einsum("bhd,hdc->bhc", query, weight)
            scores.append(each.product(folded) + torch.einsum("bhd,hd->bh", query, bias)[..., None])
        precision = torch.promote_types(query.dtype, torch.float32)
        shares = torch.cat(scores, dim=-1).softmax(-1, dtype=precision).to(query.dtype)  # (B, h, 1 + sum of N)

        # The weighted sum of positions first, then the value projection.
        own, *rest = shares.split([1, *(each.flat.shape[-1] for each in maps)], dim=-1)
        mixed = own * value
        for each, share, level in zip(maps, rest, self.levels, strict=True):
            weight, bias = _of_heads(level, heads, 1)
            mixed = mixed + torch.einsum("bhc,hdc->bhd", each.weighted_sum(share), weight)
            mixed = mixed + share.sum(-1, keepdim=True) * bias

        token = token + F.dropout(self.out(mixed.flatten(1))[:, None], self.dropout, self.training)
        return token + F.dropout(self.mlp(self.norm_mlp(token)), self.dropout, self.training)


class PointwiseWrite(nn.Module):
    """Adds a message to each position, scaled by a gate: the position's attention to the message instead of to itself.

    The added term is a zero-initialised projection of the message, times one gate per position and head.

    Args:
        channels: Channels C of the map.
        dim: Width D of the message.
        num_heads: Gates per position.
        width: Width of queries and keys per head.
    """

    def __init__(self, channels: int, dim: int, *, num_heads: int = 4, width: int = 8) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(channels, 2 * num_heads * width)
        self.key = nn.Linear(dim, num_heads * width)
        self.value = nn.Linear(dim, num_heads * channels)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, features: NormedMap, message: Tensor) -> Tensor:
        """Return the changed map (B, C, N) for a map and a message (B, D)."""
        heads = self.num_heads
        weight = self.query_key.weight.expand(len(message), -1, -1)  # (B, 2 h w, C)
        projected = features.product(weight) + self.query_key.bias[:, None]
        query, own = projected.unflatten(1, (2, heads, -1)).unbind(1)  # (B, h, w, N)
        other = self.key(message).unflatten(1, (heads, -1))[..., None]  # (B, h, w, 1)

        # A softmax over two scores is the sigmoid of their difference.
        gate = ((query * (other - own)).sum(2) / math.sqrt(query.shape[2])).sigmoid()  # (B, h, N)
        value = self.value(message).unflatten(1, (heads, -1)).mT  # (B, C, h)
        flat = features.flat
        with torch.autocast(flat.device.type, enabled=False):  # autocast would round a float32 map
            return torch.baddbmm(flat, value.to(flat.dtype), gate.to(flat.dtype))  # no second map in memory


def _of_heads(level: nn.Module, heads: int, part: int) -> tuple[Tensor, Tensor]:
    """Return weight (h, d, C) and bias (h, d) of the key (0) or value (1) projection."""
    assert isinstance(level, nn.Linear)
    return level.weight.unflatten(0, (2, heads, -1))[part], level.bias.unflatten(0, (2, heads, -1))[part]
