"""Attributes hidden at random in training (eq. 9)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import UNKNOWN, check_probability
from alignedfusion.modules.modalities import check_mask


def hide_attributes(
    codes: Tensor,
    p: float = 0.3,
    *,
    whole: float = 0.0,
    sparse: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide each mentioned attribute with probability `p` (eq. 9), and optionally most of some reports or all of others.

    Args:
        codes: (B, A), `UNKNOWN` where unmentioned.
        p: Probability of hiding a cell, 0 to 1. The paper uses 0.3.
        whole: Probability of hiding all attributes of a row. With `p` alone, training contains almost no empty report.
        sparse: Probability that a row is hidden at a rate of its own, drawn uniformly from `p` to 1. With `p` alone, training
            contains almost no report that mentions two attributes of twenty.
        generator: Source of randomness; the global generator by default.

    Returns:
        The codes with hidden cells set to `UNKNOWN` (B, A), and is_hidden (B, A). Unmentioned cells are never marked as
        hidden, because they have no target to reconstruct.
    """
    check_probability("p", p)
    check_probability("whole", whole)
    check_probability("sparse", sparse)
    # With changing batch sizes, torch.compile refuses a generator argument, even one that is None.
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    draw = torch.rand(codes.shape, device=codes.device, **source)
    is_hidden = draw < p
    if sparse:
        is_sparse, rate = torch.rand((2, codes.shape[0], 1), device=codes.device, **source).unbind()
        is_hidden |= (is_sparse < sparse) & (draw < p + (1.0 - p) * rate)
    if whole:
        is_hidden |= torch.rand((codes.shape[0], 1), device=codes.device, **source) < whole
    is_hidden &= codes != UNKNOWN
    return codes.masked_fill(is_hidden, UNKNOWN), is_hidden


class HideAttributes(nn.Module):
    """Hides attributes in training (eq. 9), as `nn.Dropout` does with activations.

    Args:
        p: Probability of hiding a mentioned attribute.
        whole: Probability of hiding all attributes of a row. The paper uses 0.
        sparse: Probability that a row is hidden at a rate of its own, from `p` to 1. The paper uses 0.
    """

    def __init__(self, p: float = 0.3, *, whole: float = 0.0, sparse: float = 0.0) -> None:
        super().__init__()
        for name, probability in (("p", p), ("whole", whole), ("sparse", sparse)):
            check_probability(name, probability)
        self.p = p
        self.whole = whole
        self.sparse = sparse

    def forward(self, codes: Tensor, is_hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hide the given cells; without a mask, draw cells in training and hide none in evaluation.

        Args:
            codes: (B, A), `UNKNOWN` where unmentioned.
            is_hidden: bool (B, A), cells to hide.

        Returns:
            The codes with hidden cells set to `UNKNOWN` (B, A), and is_hidden (B, A).

        Raises:
            ValueError: For a mask of another type or shape.
        """
        if is_hidden is not None:
            check_mask("is_hidden", is_hidden, tuple(codes.shape))
            is_hidden = is_hidden & (codes != UNKNOWN)
            return codes.masked_fill(is_hidden, UNKNOWN), is_hidden
        if not self.training:
            return codes, torch.zeros_like(codes, dtype=torch.bool)
        return hide_attributes(codes, self.p, whole=self.whole, sparse=self.sparse)

    def extra_repr(self) -> str:
        """The probabilities."""
        return f"p={self.p}, whole={self.whole}, sparse={self.sparse}"
