"""Functions that build whole models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.modules.backbones import weights_sha256
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
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
        hide_probability=0.3,
        hide_report_probability=0.0,
        evidence=False,
    )


def choose_backbone(
    tokens: TokenCache | None,
    backbone: str | None,
    pretrained: bool | str | Path,
    frozen: bool,
    image_size: int | None,
) -> tuple[str, bool | str | Path, int | None]:
    """Choose the backbone, its weights and its input size; a token cache requires those its tokens were computed with.

    Args:
        tokens: The token cache that replaces the images, or None.
        backbone: A timm model; None takes that of `tokens`, or vit_small_patch16_224.
        pretrained: As in `VisualTokenizer`.
        frozen: Whether the backbone is frozen.
        image_size: Side of the input in pixels; None takes that of `tokens`, or the backbone's own.

    Raises:
        ValueError: If an argument differs from what the tokens were computed with.
    """
    if tokens is None:
        return backbone or "vit_small_patch16_224", pretrained, image_size
    if not frozen or pretrained is False:
        raise ValueError("tokens come from a frozen, pretrained backbone: train a backbone on the images themselves")
    settings = tokens.settings
    for name, requested in (("backbone", backbone), ("image_size", image_size)):
        if requested is not None and requested != settings[name]:
            raise ValueError(
                f"the tokens in {str(tokens.folder)!r} were computed with {name} {settings[name]}, not {requested}; leave it "
                f"out, or compute tokens in another folder"
            )
    weights = settings["weights"] or True if pretrained is True else pretrained
    return settings["backbone"], weights, settings["image_size"]


def match_tokens(visual: VisualTokenizer, tokens: TokenCache, pretrained: bool | str | Path) -> None:
    """Give a visual tokenizer the preprocessing of a token cache, after checking that its weights are the same.

    Args:
        visual: Built with the backbone that `choose_backbone` returned.
        tokens: The token cache.
        pretrained: Source of the backbone's weights, for the error message.

    Raises:
        ValueError: If the tokens were computed with other weights.
    """
    if weights_sha256(visual.backbone) != tokens.settings["weights_sha256"]:
        weights = "timm's own" if pretrained is True else repr(str(pretrained))
        raise ValueError(
            f"the tokens in {str(tokens.folder)!r} were computed with other weights of {tokens.settings['backbone']!r} than "
            f"{weights}; give the file they were computed with as weights, or compute them again in another folder"
        )
    # timm may change a model's default preprocessing between releases.
    visual.preprocessing = tokens.settings["preprocessing"]
