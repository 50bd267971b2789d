"""The base class of all fusions: everything that a classifier reads of a fusion is defined here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.modalities import Masks, blank, check_modalities, check_tokens, mean_of_tokens


class FusionOutput(NamedTuple):
    """The output of a fusion.

    Attributes:
        tokens: (B, N_m, D) for each modality m.
        intermediate: (B, K, D); K = 0 for a fusion without intermediate tokens.
        first_round: (B, N_m, D) for each modality m after the first round, in which it attended to itself alone; None for a
            fusion without such a state.
    """

    tokens: dict[str, Tensor]
    intermediate: Tensor
    first_round: dict[str, Tensor] | None = None


class Fusion(nn.Module):
    """Exchanges information between the tokens of several modalities.

    A subclass implements `fuse`. If it takes more arguments, it extends `to_dict`; if it does not pool by means, it overrides
    `pool` and `pooled_dim`; if some of its weights serve the report alone, it overrides `report_parameters`.

    Args:
        dim: Token width D.
        modalities: Names of the modalities. "report" stands for the attributes, every other name for an image.

    Attributes:
        dim: Token width D.
        modalities: Names of the modalities.
    """

    min_modalities = 1
    has_first_round = False
    """Whether the output has `first_round`, which `UnimodalHeads` read."""

    def __init__(self, dim: int, *, modalities: Sequence[str] = ("image", REPORT)) -> None:
        super().__init__()
        self.dim = dim
        self.modalities = check_modalities(modalities, at_least=self.min_modalities)

    def forward(
        self, tokens: Mapping[str, Tensor], *, is_valid: Masks | None = None, is_present: Masks | None = None
    ) -> FusionOutput:
        """Fuse the tokens of all modalities.

        Args:
            tokens: (B, N_m, D) for each modality m.
            is_valid: (B, N_m) for modalities with padding; False where padded. Unmentioned attributes are not padding.
            is_present: (B,) for modalities that some rows lack; their tokens in the other rows are ignored.

        Returns:
            Tokens of the same shapes and the intermediate tokens (B, K, D). Tokens of padding and of absent modalities are
            finite but have no meaning.

        Raises:
            ValueError: For a missing or unknown modality, or a shape that does not fit.
        """
        check_tokens(tokens, self.modalities, self.dim, is_valid, is_present)
        streams = {m: blank(tokens[m], m, is_valid, is_present) for m in self.modalities}
        return self.fuse(streams, is_valid or {}, is_present or {})

    def fuse(self, streams: dict[str, Tensor], is_valid: Masks, is_present: Masks) -> FusionOutput:
        """Fuse checked tokens (B, N_m, D), in which padding and absent modalities are zero."""
        raise NotImplementedError

    @property
    def pooled_dim(self) -> int:
        """Width P of the representation that `pool` returns."""
        return self.dim * len(self.modalities)

    def pool(self, fused: FusionOutput, is_valid: Masks | None = None, is_present: Masks | None = None) -> Tensor:
        """The representation (B, P) of a case: the mean token of each modality, then the intermediate tokens."""
        means = [mean_of_tokens(fused.tokens[m], m, is_valid, is_present) for m in self.modalities]
        return torch.cat([*means, fused.intermediate.flatten(1)], dim=-1)  # (B, (M + K) D)

    def report_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that serve the report's tokens alone; `training.fit` gives the others a lower learning rate."""
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON; the weights are in the state dict."""
        return {"dim": self.dim, "modalities": list(self.modalities)}


_READ_BY_CLASSIFIER = ("dim", "modalities", "pooled_dim", "pool", "report_parameters", "to_dict")


def check_fusion(fusion: nn.Module) -> None:
    """Raise a TypeError that names what a fusion lacks, if it does not have all that a classifier reads of it."""
    lacks = [name for name in _READ_BY_CLASSIFIER if not hasattr(fusion, name)]
    if isinstance(fusion, nn.Module) and type(fusion).forward is nn.Module.forward:
        lacks.append("forward")
    elif isinstance(fusion, Fusion) and type(fusion).forward is Fusion.forward and type(fusion).fuse is Fusion.fuse:
        lacks.append("fuse")
    if lacks:
        raise TypeError(
            f"the fusion {type(fusion).__name__} lacks {', '.join(lacks)}: derive it from "
            f"alignedfusion.modules.fusions.Fusion, which has all but `fuse`"
        )
