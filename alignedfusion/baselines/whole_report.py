"""The whole report as one text: the paper's "+ClinicalBERT" and "+BioBERT" rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignedfusion.attributes import UNKNOWN, AttributeSchema
from alignedfusion.modules.text_encoder import TextEncoder


class WholeReportTokenizer(nn.Module):
    """Turns all mentioned attributes of a report into one token, in the place of an `AttributeTokenizer`.

    The prompts of the mentioned attributes are joined to one text, whose [CLS] vector is projected to width D. Unmentioned
    attributes are left out of the text. There are no value tokens, so such a model has no reconstructor. Each distinct text is
    encoded once.

    Args:
        schema: The attributes and their candidate values.
        dim: Token width D.
        text_encoder: Frozen encoder of the texts.
    """

    def __init__(self, schema: AttributeSchema, dim: int, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.schema = schema
        self.dim = dim
        self.encoder = text_encoder
        self.prompts = [attribute.prompts() for attribute in schema]
        width = text_encoder.encode(["."]).shape[1]
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim)
        self._vectors: dict[tuple[int, ...], Tensor] = {}

    def text(self, codes: tuple[int, ...]) -> str:
        """The text of a report with these codes."""
        mentioned = [prompts[code] for prompts, code in zip(self.prompts, codes, strict=True) if code != UNKNOWN]
        return " ".join(mentioned) or "Nothing is mentioned."

    def value_tokens(self) -> Tensor:
        """An empty tensor (0, D): values have no tokens of their own."""
        return self.project.weight.new_zeros(0, self.dim)

    def forward(self, codes: Tensor, *, values: Tensor | None = None) -> Tensor:
        """Turn codes (B, A) into one token per report, (B, 1, D)."""
        self.schema.check_codes(codes)
        rows = [tuple(row) for row in codes.tolist()]
        if new := [row for row in dict.fromkeys(rows) if row not in self._vectors]:
            self._vectors.update(zip(new, self.encoder.encode([self.text(row) for row in new]), strict=True))
        vectors = torch.stack([self._vectors[row] for row in rows]).to(self.project.weight)
        tokens: Tensor = self.project(self.norm(vectors))[:, None]
        return tokens
