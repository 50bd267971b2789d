"""What each modality says on its own. Added up, it keeps the richer one from drowning the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alignedfusion.attributes import REPORT
from alignedfusion.modules.fusions.intermediate import mean_of_tokens
from alignedfusion.modules.module_dict import ModuleDict

IMAGE, FUSED = "image", "fused"
"""Names of parts of the evidence beside "report": all images of a case together, and the fused tokens."""


class EvidenceHeads(nn.Module):
    """Linear heads on the tokens of each modality, before any of them meets another.

    If modalities are independent given the class, Bayes' rule adds up what they say:
    log p(class | all) = log p(class) + sum over m of e_m, with e_m = log p(class | m) - log p(class).
    Each e_m is trained to be right alone, so a modality that learns fast takes nothing from a slow one. What two of them say
    together is left to the fused tokens.

    A report's evidence is the sum of that of its attributes, unmentioned ones included (silence may tell something), but a
    report that mentions nothing at all is no evidence; an image's is the mean over its patches.

    Args:
        dim: Token width D.
        modalities: Their names; "report" stands for the attributes, every other for an image.
        num_classes: Classes C.
        dropout: Probability before the linear layers.
    """

    def __init__(self, dim: int, modalities: Sequence[str], num_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = ModuleDict({m: linear_head(dim, num_classes, dropout) for m in modalities})
        images = [m for m in modalities if m != REPORT]
        self.parts = ((IMAGE,) if images else ()) + ((REPORT,) if REPORT in modalities else ())

    def of_tokens(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What every single token says, (B, N_m, C) for each modality m: per attribute, and per image patch."""
        return {m: head(tokens[m]) for m, head in self.heads.items()}

    def forward(
        self, tokens: Mapping[str, Tensor], is_valid: Mapping[str, Tensor], is_present: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Evidence (B, C) of the parts "image" and "report", as far as there are such modalities.

        Args:
            tokens: (B, N_m, D) for each modality m, before fusion.
            is_valid: (B, N_m) for modalities with padding, which says nothing.
            is_present: (B,) for modalities that some rows lack; those say nothing there.
        """
        evidence: dict[str, Tensor] = {}
        for m, each in self.of_tokens(tokens).items():
            said = mean_of_tokens(each, m, is_valid, is_present)
            if m == REPORT:  # attributes add up, patches are a mean
                said = said * (is_valid[m].sum(1, keepdim=True) if m in is_valid else each.shape[1])
            part = REPORT if m == REPORT else IMAGE
            evidence[part] = evidence[part] + said if part in evidence else said
        return evidence


def linear_head(width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """LayerNorm, dropout and a linear layer."""
    return nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, num_classes))
