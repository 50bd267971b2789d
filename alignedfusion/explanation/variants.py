"""Outputs of a model for many versions of the same cases; each image is encoded once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from alignedfusion.evaluation.inference import encode_images, to_device
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.images import Images, blank_images, images_by_modality
from alignedfusion.modules.modalities import Masks, check_mask


class CaseVariants:
    """Cases whose attributes and images can be left out or changed.

    Args:
        model: The classifier; it is left in evaluation mode.
        image: As in the model's `forward`.
        codes: int64 (B, A).
        is_present: As in the model's `forward`.
        is_valid: As in the model's `forward`.
        batch_size: Largest number of rows in one forward pass.

    Attributes:
        codes: (B, A), with nothing mentioned for rows without a report.
        is_present: (B,) for each image modality, and for the report if it was given.
    """

    def __init__(
        self,
        model: AlignedFusionClassifier,
        image: Images | None,
        codes: Tensor,
        is_present: Masks | None,
        is_valid: Masks | None,
        batch_size: int,
    ) -> None:
        if not isinstance(model, AlignedFusionClassifier):
            raise TypeError(f"model must be an AlignedFusionClassifier, got {type(model).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.eval()
        self.batch_size = batch_size
        device = model.log_prior.device
        model.schema.check_codes(codes)
        is_present = to_device(dict(is_present or {}), device)
        self.is_valid: Masks = to_device(dict(is_valid or {}), device)
        self.codes = model.present_codes(codes.to(device), is_present)
        everywhere = torch.ones(len(codes), dtype=torch.bool, device=device)
        self.is_present: Masks = {**dict.fromkeys(model.image_modalities, everywhere), **is_present}
        images = images_by_modality(image, model.image_modalities, len(codes))
        for m, pixels in images.items():
            if m in self.is_valid and pixels.ndim == 3:
                check_mask(f"is_valid[{m!r}]", self.is_valid[m], tuple(pixels.shape[:2]))
        self.image = self._encode(images)

    def outputs(self, field: str, cases: Tensor, codes: Tensor, is_present: Masks) -> Tensor:
        """One field of the model's output (R, ...) for R versions of cases.

        Args:
            field: Name of the field, such as "contributions".
            cases: int64 (R,), the case of each row.
            codes: (R, A).
            is_present: (R,) per modality; those of `self.is_present` where a modality is left out.
        """
        rows = torch.arange(len(cases), device=cases.device)
        return torch.cat([self._batch(field, cases[i], codes[i], is_present, i) for i in rows.split(self.batch_size)])

    def _batch(self, field: str, cases: Tensor, codes: Tensor, is_present: Masks, rows: Tensor) -> Tensor:
        present = {m: mask[cases] for m, mask in self.is_present.items()}
        present |= {m: mask[rows] for m, mask in is_present.items()}
        with warnings.catch_warnings():
            # Rows without any input are intended here, and may fill a batch.
            warnings.filterwarnings("ignore", ".*so nothing is read")
            output = self.model(
                {m: tokens[cases] for m, tokens in self.image.items()} if self.image else None,
                codes,
                is_present=present,
                is_valid={m: mask[cases] for m, mask in self.is_valid.items()},
            )
        return output[field]

    def _encode(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoded: dict[str, list[Tensor]] = {m: [] for m in images}
        for rows in torch.arange(len(self.codes)).split(self.batch_size):
            batch = to_device({m: pixels[rows] for m, pixels in images.items()}, self.codes.device)
            # An absent image may hold anything, also a NaN.
            batch = blank_images(batch, {}, {m: mask[rows] for m, mask in self.is_present.items()})
            for m, tokens in encode_images(self.model, batch).items():
                encoded[m].append(tokens)
        return {m: torch.cat(tokens) for m, tokens in encoded.items()}
