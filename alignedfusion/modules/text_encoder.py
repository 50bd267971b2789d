"""A frozen text encoder, which returns the [CLS] vectors of prompts (eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignedfusion.modules.download import endpoint, is_reachable

CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"


class TextEncoder:
    """A frozen Hugging Face encoder that turns each prompt into its [CLS] vector.

    It is not an `nn.Module`. `AttributeTokenizer` encodes its prompts once and stores the vectors in the model, so neither
    training nor a saved model runs the encoder.

    Args:
        name: Name of a model on the Hugging Face hub, or the path of a local folder.
        device: Device to run it on.
        batch_size: Prompts per forward pass.
    """

    def __init__(self, name: str = CLINICAL_BERT, *, device: str | torch.device = "cpu", batch_size: int = 64) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.name = str(name)
        self.device = torch.device(device)
        self.batch_size = batch_size
        # Without a network transformers would retry for a minute, even for a model that the cache holds.
        local_only = not Path(self.name).is_dir() and not is_reachable()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.name, local_files_only=local_only)
            self.model: Any = AutoModel.from_pretrained(self.name, local_files_only=local_only)
            self.model.eval().to(self.device)
        except (OSError, ValueError) as error:
            offline = f", and {endpoint()} cannot be reached" if local_only else ""
            raise ValueError(
                f"no text encoder at {self.name!r}{offline}: give the name of a model on the Hugging Face hub, which needs a "
                f"network or a cache that holds it (HF_HOME), or a folder with config.json, weights and tokenizer files"
            ) from error

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts; each distinct prompt is encoded once.

        Returns:
            float32 (len(prompts), H) on the CPU, where H is the encoder's width.
        """
        distinct = list(dict.fromkeys(prompts))
        vectors = []
        for start in range(0, len(distinct), self.batch_size):
            batch = self.tokenizer(
                distinct[start : start + self.batch_size], padding=True, truncation=True, return_tensors="pt"
            )
            hidden = self.model(**batch.to(self.device)).last_hidden_state  # (batch, tokens, H)
            vectors.append(hidden[:, 0].float().cpu())
        position = {prompt: row for row, prompt in enumerate(distinct)}
        return torch.cat(vectors)[[position[prompt] for prompt in prompts]]
