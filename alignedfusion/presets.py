"""Functions that build whole models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor
from alignedfusion.modules.text_encoder import TextEncoder
from alignedfusion.modules.tokenizers import AttributeTokenizer, VisualTokenizer


def standard(
    schema: AttributeSchema,
    class_names: Sequence[str],
    *,
    backbone: str | None = "vit_small_patch16_224",
    pretrained: bool | str | Path = True,
    frozen: bool = True,
    images: Sequence[str] = ("image",),
    image_size: int | None = None,
    num_features: int | None = None,
    dim: int = 128,
    depth: int = 1,
    text_encoder: TextEncoder | Tensor | None = None,
) -> AlignedFusionClassifier:
    """The model that `alignedfusion train` trains: a timm backbone, one round of fusion, reconstruction, evidence heads.

    Args:
        schema: The attributes.
        class_names: The classes, in the order of the labels.
        backbone: A timm model for all images of a case; None if image tokens come precomputed.
        pretrained: See `VisualTokenizer`.
        frozen: Keep the backbone as it is. Right for hundreds of cases; with many thousands, train it too.
        images: Names of the images of a case.
        image_size: Side of the input in pixels; the backbone's own by default.
        num_features: Width of precomputed tokens, with `backbone=None`.
        dim: Token width D, a multiple of 64. Hundreds of cases overfit a wider one; many thousands may want 384.
        depth: Rounds of fusion. With hundreds of cases one generalises best, though report tokens then never see the image.
        text_encoder: Encodes the values' prompts; None learns one vector per value.
    """
    visual = VisualTokenizer(
        backbone, dim, pretrained=pretrained, frozen=frozen, image_size=image_size, num_features=num_features
    )
    return AlignedFusionClassifier(
        visual,
        AttributeTokenizer(schema, dim, text_encoder=text_encoder),
        IntermediateTokenFusion(
            dim, modalities=(*images, REPORT), depth=depth, num_heads=max(1, dim // 64), dropout=0.1
        ),
        MaskedTokenReconstructor(dim),
        num_classes=len(class_names),
        class_names=class_names,
    )


def paper(
    schema: AttributeSchema, class_names: Sequence[str], *, text_encoder: TextEncoder | Tensor | None = None
) -> AlignedFusionClassifier:
    """The paper's model to the letter: Swin, ClinicalBERT prompts, one round of fusion (eq. 6-8), p = 0.3, one head.

    Args:
        schema: The attributes.
        class_names: The classes, in the order of the labels.
        text_encoder: ClinicalBERT by default, fetched from the Hugging Face hub.
    """
    dim = 768
    return AlignedFusionClassifier(
        VisualTokenizer("swin_tiny_patch4_window7_224", dim, pretrained=True),
        AttributeTokenizer(schema, dim, text_encoder=TextEncoder() if text_encoder is None else text_encoder),
        IntermediateTokenFusion(dim, depth=1, num_heads=12),
        MaskedTokenReconstructor(dim),
        num_classes=len(class_names),
        class_names=class_names,
        hiding=HideAttributes(0.3),
        unimodal_heads=False,
    )
