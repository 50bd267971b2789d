"""One linear head per modality, each trained with its own loss, so that no modality dominates the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.modalities import Masks, mean_of_tokens, module_key

IMAGE, FUSED = "image", "fused"
"""Names of the branches other than "report": all images of a case together, and the fused tokens."""


class UnimodalHeads(nn.Module):
    """Linear heads on the tokens of each modality before it meets another one.

    In a model with `IntermediateTokenFusion` these are the tokens after the first round, in which each modality attends to
    itself: the branch of a modality is then as good as a model of its own. Other fusions have no such state, and the heads read
    the tokens before fusion.

    If modalities are independent given the class, Bayes' rule is a sum:
    log p(class | all) = log p(class) + sum over m of c_m, with the contribution c_m = log p(class | m) - log p(class).
    Each c_m has its own term in the loss, so a modality that is learned fast takes no gradient from a slow one. The fused
    tokens add the interaction between modalities.

    A report contributes the sum over its attributes, unmentioned ones included, since an omission can be informative. A report
    that mentions nothing at all contributes zero. An image contributes the mean over its patches.

    Args:
        dim: Token width D.
        modalities: Names of the modalities; "report" stands for the attributes, every other name for an image.
        num_classes: Classes C.
        dropout: Dropout probability before the linear layers.
    """

    def __init__(self, dim: int, modalities: Sequence[str], num_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.heads = nn.ModuleDict({module_key(m): linear_head(dim, num_classes, dropout) for m in modalities})
        images = [m for m in modalities if m != REPORT]
        self.branches = ((IMAGE,) if images else ()) + ((REPORT,) if REPORT in modalities else ())

    def token_contributions(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The contribution of each token, (B, N_m, C) for each modality m: of each attribute and of each image patch."""
        return {m: head(tokens[m]) for m, head in zip(self.modalities, self.heads.values(), strict=True)}

    def forward(self, tokens: Mapping[str, Tensor], is_valid: Masks, is_present: Masks) -> dict[str, Tensor]:
        """Contributions (B, C) of the branches "image" and "report", where the model has these modalities.

        Args:
            tokens: (B, N_m, D) for each modality m, which depend on no other modality.
            is_valid: (B, N_m) for modalities with padding, which contributes nothing.
            is_present: (B,) for modalities that some rows lack; they contribute nothing to the other rows.
        """
        contributions: dict[str, Tensor] = {}
        for m, per_token in self.token_contributions(tokens).items():
            contribution = mean_of_tokens(per_token, m, is_valid, is_present)
            if m == REPORT:  # attributes add up, patches are averaged
                count = is_valid[m].sum(1, keepdim=True) if m in is_valid else per_token.shape[1]
                contribution = contribution * count
            branch = REPORT if m == REPORT else IMAGE
            contributions[branch] = contributions[branch] + contribution if branch in contributions else contribution
        return contributions


def linear_head(width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """LayerNorm, dropout and a linear layer."""
    return nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, num_classes))
