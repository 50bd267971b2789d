"""Linear heads per modality, each trained with its own loss, so that no modality dominates the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.modalities import Masks, mean_of_tokens, module_key

IMAGE, FUSED = "image", "fused"
"""Names of the branches other than "report": all images of a case together, and the fused tokens."""


class UnimodalHeads(nn.Module):
    """Linear heads on the tokens of each modality before it meets another one.

    If modalities are independent given the class, Bayes' rule is a sum:
    log p(class | all) = log p(class) + sum over m of c_m, with the contribution c_m = log p(class | m) - log p(class).
    Each c_m has its own term in the loss, so a modality that is learned fast takes no gradient from a slow one. The fused
    tokens add the interaction between modalities.

    A report contributes the sum over its attributes, unmentioned ones included, since an omission can be informative. A report
    that mentions nothing at all contributes zero. An image contributes the mean over its patches.

    With `first_round`, each modality has two heads, and its contribution is their mean: one reads its tokens before fusion,
    the other after the first round of `IntermediateTokenFusion`, in which each modality attends to itself (eq. 7) and has not
    met another one yet (eq. 8). The first adds up what single attributes and patches show, the second reads them in context.

    Args:
        dim: Token width D.
        modalities: Names of the modalities; "report" stands for the attributes, every other name for an image.
        num_classes: Classes C.
        dropout: Dropout probability before the linear layers.
        first_round: Whether there are heads on the tokens after the first round of fusion.
    """

    def __init__(
        self,
        dim: int,
        modalities: Sequence[str],
        num_classes: int,
        *,
        dropout: float = 0.1,
        first_round: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.heads = _heads(dim, modalities, num_classes, dropout)
        self.first_round_heads = _heads(dim, modalities, num_classes, dropout) if first_round else None
        self.branches = unimodal_branches(modalities)

    def token_contributions(
        self, tokens: Mapping[str, Tensor], first_round: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The contribution of each token, (B, N_m, C) for each modality m: of each attribute and of each image patch.

        Args:
            tokens: (B, N_m, D) for each modality m, before fusion.
            first_round: The same after the first round of fusion, for a module with `first_round`.
        """
        per_head = self._per_head(tokens, first_round)
        return {m: torch.stack([each[m] for each in per_head]).mean(0) for m in self.modalities}

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        is_valid: Masks,
        is_present: Masks,
        *,
        first_round: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Contributions (B, H, C) of the H heads of the branches "image" and "report", where the model has these modalities.

        Args:
            tokens: (B, N_m, D) for each modality m, before fusion.
            is_valid: (B, N_m) for modalities with padding, which contributes nothing.
            is_present: (B,) for modalities that some rows lack; they contribute nothing to the other rows.
            first_round: The tokens after the first round of fusion, for a module with `first_round`.
        """
        per_head = [
            self._add_up(contributions, is_valid, is_present) for contributions in self._per_head(tokens, first_round)
        ]
        return {branch: torch.stack([each[branch] for each in per_head], dim=1) for branch in self.branches}

    def report_parameters(self) -> list[nn.Parameter]:
        """Parameters of the report's heads."""
        heads = [self.heads] if self.first_round_heads is None else [self.heads, self.first_round_heads]
        return [parameter for each in heads if REPORT in each for parameter in each[REPORT].parameters()]

    def _per_head(
        self, tokens: Mapping[str, Tensor], first_round: Mapping[str, Tensor] | None
    ) -> list[dict[str, Tensor]]:
        """The contribution of each token (B, N_m, C), for one or two heads per modality."""
        heads: list[tuple[nn.ModuleDict, Mapping[str, Tensor]]] = [(self.heads, tokens)]
        if self.first_round_heads is not None:
            if first_round is None:
                raise ValueError(
                    "these heads read the tokens after the first round, and the fusion returned none: return them as "
                    "FusionOutput.first_round, or set has_first_round = False in the fusion"
                )
            heads.append((self.first_round_heads, first_round))
        return [
            {m: head(stream[m]) for m, head in zip(self.modalities, each.values(), strict=True)}
            for each, stream in heads
        ]

    def _add_up(self, per_token: Mapping[str, Tensor], is_valid: Masks, is_present: Masks) -> dict[str, Tensor]:
        """The contribution (B, C) of each branch: attributes add up, patches are averaged."""
        contributions: dict[str, Tensor] = {}
        for m, stream in per_token.items():
            contribution = mean_of_tokens(stream, m, is_valid, is_present)
            if m == REPORT:
                count = is_valid[m].sum(1, keepdim=True) if m in is_valid else stream.shape[1]
                contribution = contribution * count
            branch = REPORT if m == REPORT else IMAGE
            contributions[branch] = contributions[branch] + contribution if branch in contributions else contribution
        return contributions


def _heads(dim: int, modalities: Sequence[str], num_classes: int, dropout: float) -> nn.ModuleDict:
    return nn.ModuleDict({module_key(m): linear_head(dim, num_classes, dropout) for m in modalities})


def unimodal_branches(modalities: Sequence[str]) -> tuple[str, ...]:
    """The branches of single modalities: "image" for all images together, and "report"."""
    has_images = any(m != REPORT for m in modalities)
    return ((IMAGE,) if has_images else ()) + ((REPORT,) if REPORT in modalities else ())


def linear_head(width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """LayerNorm, dropout and a linear layer."""
    return nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, num_classes))
