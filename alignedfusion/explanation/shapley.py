"""Shapley values: exact for few players, from sampled permutations for many."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_EXACT = 10
"""Largest number of players whose coalitions are all evaluated: 1,024 of them."""


class Coalitions(NamedTuple):
    """The coalitions to evaluate, and how their values become Shapley values.

    Attributes:
        members: bool (R, k), the members of each coalition; the first is empty, the last has all players.
        weights: float64 (Q, k, R). Each of the Q matrices turns the values of the coalitions into an independent, unbiased
            estimate of the Shapley values. Q = 1 if they are exact.
    """

    members: Tensor
    weights: Tensor

    def shapley_values(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Shapley values and their standard errors, (n, k, ...) each, from the values of the coalitions (n, R, ...).

        The errors are zero if the values are exact.
        """
        estimates = torch.einsum("qkr,nr...->qnk...", self.weights, values.double())
        mean = estimates.mean(0)
        return mean, estimates.std(0) / len(estimates) ** 0.5 if len(estimates) > 1 else torch.zeros_like(mean)


def choose_coalitions(players: int, *, permutations: int = 64, seed: int = 0) -> Coalitions:
    """All coalitions of up to `MAX_EXACT` players; those of random permutations of more.

    Args:
        players: Number of players k.
        permutations: Number of permutations, at least 4. Each is followed by its reverse, which lowers the variance; such a
            pair is one estimate.
        seed: Seed of the permutations.
    """
    if permutations < 4 or permutations % 2:
        raise ValueError(f"permutations must be an even number of at least 4, got {permutations}")
    return _all_coalitions(players) if players <= MAX_EXACT else _sampled_coalitions(players, permutations, seed)


def _all_coalitions(players: int) -> Coalitions:
    numbers = torch.arange(2**players)
    members = (numbers[:, None] >> torch.arange(players)) & 1 == 1  # (2^k, k)
    size = members.sum(1)
    # A player joins a coalition of s others with probability 1 / (k binom(k - 1, s)).
    joins = torch.tensor([1 / (players * math.comb(players - 1, s)) for s in range(players)], dtype=torch.float64)
    joins = torch.cat([joins, joins.new_zeros(1)])
    weights = torch.where(members, joins[(size - 1).clamp(min=0)][:, None], -joins[size][:, None])
    return Coalitions(members, weights.T[None])


def _sampled_coalitions(players: int, permutations: int, seed: int) -> Coalitions:
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(players, generator=generator) for _ in range(permutations // 2)])
    orders = torch.stack([orders, orders.flip(1)], dim=1)  # (pairs, 2, k)
    joined = torch.arange(players + 1)[:, None] > orders.argsort(-1)[..., None, :]  # (pairs, 2, k + 1, k)
    members, row = joined.flatten(0, 2).unique(dim=0, return_inverse=True)
    row = row.view(joined.shape[:3])  # the coalition after each step

    weights = torch.zeros(len(orders), players, len(members), dtype=torch.float64)
    pair = torch.arange(len(orders))[:, None, None].expand_as(orders)
    half = torch.tensor(0.5, dtype=torch.float64)
    weights.index_put_((pair, orders, row[..., 1:]), half, accumulate=True)
    weights.index_put_((pair, orders, row[..., :-1]), -half, accumulate=True)
    return Coalitions(members, weights)
