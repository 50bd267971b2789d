"""Other uses of the reconstruction: none, other weights and gradients of its loss, and predictions from completed reports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion import AlignedFusionClassifier, MaskedTokenReconstructor
from alignedfusion.attributes import UNKNOWN, AttributeSchema
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.modules.reconstruction import Reconstruction, reconstruction_loss


class WeightedReconstruction(AlignedFusionClassifier):
    """A classifier whose reconstruction loss has another weight than 1.

    Args:
        *arguments: Arguments of the classifier.
        weight: The weight.
        **named: Named arguments of the classifier.
    """

    def __init__(self, *arguments: Any, weight: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.weight = weight

    def forward(self, image: Any, codes: Tensor, labels: Tensor | None = None, **named: Any) -> ClassifierOutput:
        """The classifier's output with the other loss."""
        _, is_hidden = self.hiding(codes)
        output = super().forward(image, codes, labels, is_hidden=is_hidden, **named)
        if output.loss is None or output.reconstruction is None:
            return output
        change = (self.weight - 1.0) * reconstruction_loss(output.reconstruction, codes, is_hidden)
        return ClassifierOutput(**{**output, "loss": output.loss + change})


def without_reconstruction(*arguments: Any, **named: Any) -> AlignedFusionClassifier:
    """A classifier without its reconstructor. All other initial weights are the same as with it, as are the random draws."""
    model = AlignedFusionClassifier(*arguments, **named)
    model.reconstructor = None
    return model


class DetachedReconstructor(MaskedTokenReconstructor):
    """A reconstructor whose loss trains its own weights alone, not the tokens that it shares with the classifier."""

    def forward(self, tokens: Tensor, values: Tensor, schema: AttributeSchema) -> Reconstruction:
        """See `MaskedTokenReconstructor`."""
        return super().forward(tokens.detach(), values.detach(), schema)


class Completed(nn.Module):
    """A trained model that sees reports whose unmentioned attributes are filled in.

    p(class | report) is the mean of p(class | completed report) over completions. A completion draws the attributes one after
    the other, each given the image, what is mentioned and what was drawn before, so that drawn values fit each other.

    Args:
        model: The model that predicts.
        reconstructor: The model whose reconstruction fills in values.
        draws: Number of completions; 0 for one completion with the most probable values.
    """

    def __init__(self, model: AlignedFusionClassifier, reconstructor: AlignedFusionClassifier, draws: int) -> None:
        super().__init__()
        self.model = model
        self.reconstructor = reconstructor
        self.draws = draws

    @property
    def visuals(self) -> Any:
        """The modules that read the model's images."""
        return self.model.visuals

    def forward(self, image: Any, codes: Tensor, **masks: Any) -> ClassifierOutput:
        """The logarithm of the mean probability of the classes."""
        if self.draws:
            generator = torch.Generator().manual_seed(0)
            completions = [self._draw(image, codes, masks, generator) for _ in range(self.draws)]
        else:
            probable = self.reconstructor(image, codes, **masks).reconstruction.argmax(-1)
            completions = [torch.where(codes == UNKNOWN, probable, codes)]
        logits = torch.stack([self.model(image, filled, **masks).logits.log_softmax(-1) for filled in completions])
        return ClassifierOutput(logits=logits.logsumexp(0))

    def _draw(self, image: Any, codes: Tensor, masks: dict[str, Any], generator: torch.Generator) -> Tensor:
        codes = codes.clone()
        for a in torch.randperm(codes.shape[1], generator=generator).tolist():
            is_open = codes[:, a] == UNKNOWN
            if is_open.any():
                some = {m: tokens[is_open] for m, tokens in image.items()}
                present = {
                    name: None if value is None else {m: mask[is_open] for m, mask in value.items()}
                    for name, value in masks.items()
                }
                logits = self.reconstructor(some, codes[is_open], **present).reconstruction[:, a]
                codes[is_open, a] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        return codes
