"""Which unmentioned attribute would change the prediction most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.explanation.variants import CaseVariants
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.images import Images
from alignedfusion.modules.modalities import Masks


@dataclass(frozen=True)
class Questions:
    """The unmentioned attributes of a batch, by what their values would add to the prediction.

    Attributes:
        probabilities: (B, C), the prediction as it is.
        bits: (B, A), the expected information about the class; zero where mentioned.
        order: (B, A), indices of the attributes, the most informative first and the mentioned ones last.
        is_open: bool (B, A), True where unmentioned. The first `is_open[b].sum()` entries of `order[b]` are open.
        values: (B, A, V_max), the probabilities of the values, zero beyond an attribute's last. One for the value of a
            mentioned attribute.
        predictions: (B, A, V_max, C), the class probabilities after each answer. The prediction as it is where there is
            nothing to ask: for mentioned attributes, and beyond an attribute's last value.
    """

    probabilities: Tensor
    bits: Tensor
    order: Tensor
    is_open: Tensor
    values: Tensor
    predictions: Tensor


@torch.inference_mode()
def next_questions(
    model: AlignedFusionClassifier,
    image: Images | None,
    codes: Tensor,
    *,
    is_present: Masks | None = None,
    is_valid: Masks | None = None,
    batch_size: int = 256,
) -> Questions:
    """The expected information of every unmentioned attribute about the class, and what each answer would change.

    The model predicts p(class | v) with each candidate value v of the attribute set in turn, and the reconstructor gives p(v).
    The information is their mutual information, in bits:

    I = H(sum_v p(v) p(class | v)) - sum_v p(v) H(p(class | v)),  H(p) = -sum_c p_c log2 p_c.

    The first entropy is that of the mixture, not of the current prediction: the two agree for a model that follows Bayes'
    rule exactly, and the mixture is never negative for any other. An attribute whose value the others imply has one probable
    value, and gains nothing.

    Args:
        model: The classifier, with a reconstructor; it is left in evaluation mode.
        image: Images or precomputed tokens, as in the model's `forward`. Each image is encoded once.
        codes: int64 (B, A).
        is_present: (B,) per modality that some rows lack.
        is_valid: (B, N) per image modality whose tokens are padded.
        batch_size: Largest number of rows in one forward pass.

    Returns:
        Tensors on the model's device.

    Raises:
        TypeError: If the model is not an `AlignedFusionClassifier`.
        ValueError: For a model of another task than "multiclass" or without a reconstructor, or for images, codes or masks
            that the model refuses.
    """
    variants = CaseVariants(model, image, codes, is_present, is_valid, batch_size)
    if model.task != "multiclass":
        raise ValueError(
            f"next_questions measures information about one of several classes, and the model's task is {model.task!r}: use "
            f"explanation.contributions, or train a model for one label"
        )
    if model.reconstructor is None:
        raise ValueError(
            "next_questions needs the probabilities of unmentioned values, and this model has no reconstructor; build it with "
            "a MaskedTokenReconstructor, as presets.standard does"
        )
    codes = variants.codes
    is_open = codes == UNKNOWN
    everyone = torch.arange(len(codes), device=codes.device)
    probabilities = variants.outputs("logits", everyone, codes, {}).float().softmax(-1)  # (B, C)
    # A case without a report has one as soon as a question is answered.
    has_report = {REPORT: torch.ones_like(everyone, dtype=torch.bool)}
    values = variants.outputs("reconstruction", everyone, codes, has_report).float().softmax(-1)  # (B, A, V_max)
    width = values.shape[-1]
    values = torch.where(is_open[..., None], values, F.one_hot(codes.clamp(min=0), width).to(values))

    predictions = probabilities[:, None, None].repeat(1, codes.shape[1], width, 1)  # (B, A, V_max, C)
    is_value = (
        torch.arange(width, device=codes.device) < torch.tensor(model.schema.num_values, device=codes.device)[:, None]
    )
    case, attribute, value = (is_open[..., None] & is_value).nonzero().unbind(1)
    answered = codes[case]
    answered[torch.arange(len(case), device=codes.device), attribute] = value
    if len(case):
        logits = variants.outputs("logits", case, answered, {REPORT: torch.ones_like(case, dtype=torch.bool)})
        predictions[case, attribute, value] = logits.float().softmax(-1)

    bits = information(values, predictions).masked_fill(~is_open, 0.0)
    order = bits.masked_fill(~is_open, -1.0).argsort(dim=1, descending=True, stable=True)
    return Questions(probabilities, bits, order, is_open, values, predictions)


def information(values: Tensor, predictions: Tensor) -> Tensor:
    """Mutual information (...) in bits of a value and the class.

    Args:
        values: (..., V), the probabilities of the values.
        predictions: (..., V, C), the class probabilities given each value.
    """
    mixture = (values[..., None] * predictions).sum(-2)  # (..., C)
    gained = entropy(mixture) - (values * entropy(predictions)).sum(-1)
    return gained.clamp(min=0.0)  # a difference of equal entropies may be negative by rounding


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy (...) in bits of distributions (..., C)."""
    return torch.special.entr(probabilities).sum(-1) / math.log(2)
