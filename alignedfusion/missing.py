"""Missing attributes: hidden at random in training (eq. 9), and dropped reproducibly in experiments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from alignedfusion.attributes import UNKNOWN, AttributeSchema


def hide_attributes(
    codes: Tensor, p: float = 0.3, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Hide each mentioned attribute with probability `p` (eq. 9).

    Args:
        codes: (B, A), `UNKNOWN` where unmentioned.
        p: Probability, 0 to 1. The paper's is 0.3.
        generator: Source of randomness; the global one by default.

    Returns:
        The codes with hidden cells set to `UNKNOWN` (B, A), and is_hidden (B, A). Cells that were never mentioned are
        not hidden: there is nothing to name again.
    """
    _check_probability("p", p)
    draw = torch.rand(codes.shape, generator=generator, device=codes.device)
    is_hidden = (draw < p) & (codes != UNKNOWN)
    return codes.masked_fill(is_hidden, UNKNOWN), is_hidden


def drop_attributes(
    codes: Tensor, rate: float, schema: AttributeSchema, *, cases: Iterable[object] | None = None, seed: int = 0
) -> Tensor:
    """Drop each cell with probability `rate`, the same cells whoever asks.

    The draw of a cell depends on seed, case and attribute name alone: it stays the same over epochs, methods, row orders
    and column orders, and what is missing at a low rate is missing at every higher one.

    Args:
        codes: (B, A), one column per attribute of `schema`.
        rate: Share of cells that goes missing, 0 to 1.
        schema: Names the columns.
        cases: A name or number per row; its position by default.
        seed: Another seed, other cells.

    Returns:
        (B, A) codes, `UNKNOWN` where dropped.
    """
    _check_probability("rate", rate)
    schema.check_codes(codes)
    rows = list(range(len(codes))) if cases is None else list(cases)
    if len(rows) != len(codes):
        raise ValueError(f"cases must name every row: got {len(rows)} names for {len(codes)} rows")
    case_keys = np.array([_key(f"{seed}/{case}") for case in rows], dtype=np.uint64)
    name_keys = np.array([_key(name) for name in schema.names], dtype=np.uint64)
    draw = _mix(case_keys[:, None] ^ name_keys[None, :]).astype(np.float64) / 2.0**64  # (B, A), uniform
    return codes.masked_fill(torch.from_numpy(draw < rate).to(codes.device), UNKNOWN)


def _check_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(keys: np.ndarray) -> np.ndarray:
    # The finaliser of SplitMix64: after it, keys that differ in one bit have nothing in common.
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
