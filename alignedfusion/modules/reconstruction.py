"""Reconstruction of hidden and unmentioned attributes from the fused tokens (eq. 10)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.modules.fusions.base import Fusion, FusionOutput
from alignedfusion.modules.modalities import Masks


class Reconstruction(NamedTuple):
    """The reconstruction of every cell.

    Attributes:
        logits: (B, A, V_max) over each attribute's own values, -inf beyond the last of them.
        tokens: (B, A, D), the expected value token: softmax(logits) times the value tokens.
    """

    logits: Tensor
    tokens: Tensor


class MaskedTokenReconstructor(nn.Module):
    """Scores each attribute's candidate values from its fused token (F_rec of eq. 10).

    Args:
        dim: Token width D.
        fill: How a classifier uses the reconstructed tokens. "none" replaces nothing: the reconstruction adds a term to the
            loss, and the class also depends on which attributes are unmentioned. "once", as in the paper, replaces the tokens
            of unmentioned and hidden attributes after fusion; "two_pass" replaces them before fusion, and fuses again.
    """

    def __init__(self, dim: int, *, fill: str = "none") -> None:
        super().__init__()
        if fill not in ("once", "two_pass", "none"):
            raise ValueError(f"fill must be 'once', 'two_pass' or 'none', got {fill!r}")
        self.dim = dim
        self.fill = fill
        self.query = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.key = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, tokens: Tensor, values: Tensor, schema: AttributeSchema) -> Reconstruction:
        """Reconstruct every cell.

        Args:
            tokens: (B, A, D), the report tokens after fusion.
            values: (V, D), one token per candidate value, as `AttributeTokenizer.value_tokens` returns them.
            schema: The attributes, in the order of the values.

        Raises:
            ValueError: If the shapes do not fit the schema.
        """
        if tokens.shape[1] != len(schema) or values.shape[0] != sum(schema.num_values):
            raise ValueError(
                f"the schema has {len(schema)} attributes and {sum(schema.num_values)} values; got tokens "
                f"{tuple(tokens.shape)} and values {tuple(values.shape)}"
            )
        candidates = pad_sequence(values.split(schema.num_values), batch_first=True)  # (A, V_max, D)
        beyond = pad_sequence(values.new_zeros(len(values)).split(schema.num_values), True, padding_value=-torch.inf)

        scores = torch.einsum("bad,avd->bav", self.query(tokens), self.key(candidates)) * self.dim**-0.5
        logits = scores.float() + beyond.float()  # (B, A, V_max)

        expected = torch.einsum("bav,avd->bad", logits.softmax(-1).to(candidates.dtype), candidates)  # (B, A, D)
        return Reconstruction(logits, expected)

    def to_dict(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON; the weights are in the state dict."""
        return {"dim": self.dim, "fill": self.fill}

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"dim={self.dim}, fill={self.fill!r}"


def fill_unknown(
    fill: str,
    fusion: Fusion,
    tokens: dict[str, Tensor],
    fused: FusionOutput,
    rebuilt: Reconstruction,
    is_unknown: Tensor,
    is_valid: Masks,
    is_present: Masks,
) -> FusionOutput:
    """Replace the tokens of unknown attributes by the reconstructed ones.

    Args:
        fill: See `MaskedTokenReconstructor`.
        fusion: The fusion, which "two_pass" runs again.
        tokens: (B, N_m, D) for each modality m before fusion.
        fused: The same after fusion.
        rebuilt: The reconstruction.
        is_unknown: (B, A).
        is_valid: As in the fusion.
        is_present: As in the fusion.
    """
    if fill == "none":
        return fused
    if fill == "two_pass":
        filled = torch.where(is_unknown[..., None], rebuilt.tokens, tokens[REPORT])
        return fusion({**tokens, REPORT: filled}, is_valid=is_valid, is_present=is_present)
    filled = torch.where(is_unknown[..., None], rebuilt.tokens, fused.tokens[REPORT])
    # Not _replace: torch.compile of torch 2.8 with Python 3.10 stops at it.
    return FusionOutput({**fused.tokens, REPORT: filled}, fused.intermediate, fused.first_round)


def reconstruction_loss(logits: Tensor, codes: Tensor, is_hidden: Tensor) -> Tensor:
    """Mean cross-entropy over the hidden cells (eq. 10).

    Args:
        logits: (B, A, V_max), -inf beyond an attribute's last value.
        codes: (B, A), the values before hiding.
        is_hidden: (B, A), the cells that enter the loss: mentioned, then hidden.

    Returns:
        A scalar; 0 with a gradient path when nothing is hidden.
    """
    is_hidden = is_hidden & (codes >= 0)  # an unmentioned cell has no target
    batch, attributes, candidates = logits.shape
    cells = F.cross_entropy(
        logits.float().reshape(-1, candidates), codes.clamp(min=0).reshape(-1), reduction="none"
    ).reshape(batch, attributes)
    return torch.where(is_hidden, cells, 0.0).sum() / is_hidden.sum().clamp(min=1)
