"""Functions that build complete models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.modules.backbones import DEFAULT_BACKBONE, Backbone, check_timm_name, weights_sha256
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.fusions import Fusion, IntermediateTokenFusion, JointSelfAttention
from alignedfusion.modules.inputs import check_class_names
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor
from alignedfusion.modules.text_encoder import TextEncoder
from alignedfusion.modules.tokenizers import AttributeTokenizer, VisualTokenizer


def standard(
    schema: AttributeSchema,
    class_names: Sequence[str],
    *,
    backbone: Backbone | str | None = DEFAULT_BACKBONE,
    images: Sequence[str] = ("image",),
    num_features: int | None = None,
    dim: int = 128,
    depth: int = 1,
    text_encoder: TextEncoder | Tensor | None = None,
    task: str = "multiclass",
) -> AlignedFusionClassifier:
    """The model that `alignedfusion train` trains: a timm backbone, one round of fusion, reconstruction, unimodal heads.

    Args:
        schema: The attributes.
        class_names: Names of the classes, labels or numbers, in the order of the labels.
        backbone: Backbone for all images of a case, by name or with settings; None for precomputed image tokens.
        images: Names of the images of a case. Without images, the model uses attributes only.
        num_features: Width F of precomputed tokens, with `backbone=None`.
        dim: Token width D, a multiple of 64. With hundreds of cases a wider model overfits; with many thousands, try 384.
        depth: Number of rounds of fusion. With hundreds of cases one round generalises best, although the report tokens then do
            not depend on the image.
        text_encoder: Encoder of the values' prompts; None learns one vector per value.
        task: "multiclass", "multilabel" or "regression"; see `AlignedFusionClassifier`.
    """
    check_class_names(class_names)
    visual: VisualTokenizer | None = None
    fusion: Fusion
    if images:
        visual = build_visual(backbone, dim, num_features=num_features)
        fusion = IntermediateTokenFusion(dim, modalities=(*images, REPORT), depth=depth, dropout=0.1)
    else:
        fusion = JointSelfAttention(dim, modalities=(REPORT,), depth=depth, dropout=0.1)
    return AlignedFusionClassifier(
        visual,
        AttributeTokenizer(schema, dim, text_encoder=text_encoder),
        fusion,
        MaskedTokenReconstructor(dim),
        num_classes=len(class_names),
        class_names=class_names,
        task=task,
    )


def paper(
    schema: AttributeSchema, class_names: Sequence[str], *, text_encoder: TextEncoder | Tensor | None = None
) -> AlignedFusionClassifier:
    """The model exactly as in the paper: Swin, ClinicalBERT prompts, one round of fusion (eq. 6-8), p = 0.3, one head.

    Args:
        schema: The attributes.
        class_names: Names of the classes, in the order of the labels.
        text_encoder: ClinicalBERT by default, downloaded from the Hugging Face hub.
    """
    check_class_names(class_names)
    dim = 768
    return AlignedFusionClassifier(
        VisualTokenizer("swin_tiny_patch4_window7_224", dim, pretrained=True),
        AttributeTokenizer(schema, dim, text_encoder=TextEncoder() if text_encoder is None else text_encoder),
        IntermediateTokenFusion(dim, depth=1, num_heads=12),
        MaskedTokenReconstructor(dim, fill="once"),
        num_classes=len(class_names),
        class_names=class_names,
        hiding=HideAttributes(0.3),
        unimodal_heads=False,
    )


def build_visual(backbone: Backbone | str | None, dim: int, *, num_features: int | None = None) -> VisualTokenizer:
    """A `VisualTokenizer` with a backbone, or for precomputed tokens if `backbone` is None.

    Args:
        backbone: Name or settings of the backbone.
        dim: Token width D.
        num_features: Width F of precomputed tokens, with `backbone=None`.
    """
    if backbone is None:
        return VisualTokenizer(None, dim, num_features=num_features)
    if not isinstance(backbone, Backbone):
        backbone = Backbone(backbone)
    return VisualTokenizer(
        backbone.name or DEFAULT_BACKBONE,
        dim,
        pretrained=backbone.pretrained,
        tune=backbone.tune,
        image_size=backbone.image_size,
        num_features=num_features,
        timm_args=backbone.timm_args,
    )


def check_unused(backbone: Backbone, reason: str) -> None:
    """Raise a ValueError for settings of a backbone where there is none to use them.

    Args:
        backbone: The backbone that was asked for.
        reason: Why there is none.
    """
    asked = {name: value for name, value in vars(backbone).items() if value != getattr(Backbone(), name)}
    if asked:
        settings = ", ".join(f"{name}={value!r}" for name, value in asked.items())
        raise ValueError(f"no backbone is used, because {reason}; leave out {settings}")


def choose_backbone(tokens: TokenCache | None, backbone: Backbone) -> Backbone:
    """The backbone with its unset fields filled in, from the token cache if there is one.

    Args:
        tokens: The token cache that replaces the images, or None.
        backbone: The requested backbone.

    Raises:
        ValueError: If the requested backbone differs from the one that computed the tokens.
    """
    if tokens is None:
        return dataclasses.replace(backbone, name=backbone.name or DEFAULT_BACKBONE)
    if backbone.tune != "none" or backbone.pretrained is False:
        raise ValueError(
            "the backbone of stored tokens must be pretrained, with tune='none': `alignedfusion tune` trains one before tokens "
            "are stored"
        )
    settings = tokens.settings
    if backbone.name != settings["backbone"]:  # a name that the caller gave may be that of a repository or folder
        check_timm_name(settings["backbone"])
    for name, requested in (
        ("backbone", backbone.name),
        ("image_size", backbone.image_size),
        ("timm_args", backbone.timm_args),
    ):
        if requested is not None and requested != settings.get(name):
            raise ValueError(
                f"the tokens in {str(tokens.folder)!r} were computed with {name} {settings.get(name)}, not {requested}; leave "
                f"it out, or compute tokens in another folder"
            )
    pretrained = settings["weights"] or True if backbone.pretrained is True else backbone.pretrained
    return Backbone(settings["backbone"], pretrained, "none", settings["image_size"], settings.get("timm_args"))


def match_tokens(visual: VisualTokenizer, tokens: TokenCache, pretrained: object) -> None:
    """Give a visual tokenizer the preprocessing of a token cache, after checking that its weights are the same.

    Args:
        visual: A tokenizer with the backbone that `choose_backbone` returned.
        tokens: The token cache.
        pretrained: Source of the backbone's weights, for the error message.

    Raises:
        ValueError: If the tokens were computed with other weights.
    """
    if weights_sha256(visual.backbone) != tokens.settings["weights_sha256"]:
        weights = "timm's own" if pretrained is True else repr(str(pretrained))
        raise ValueError(
            f"the tokens in {str(tokens.folder)!r} were computed with other weights of {tokens.settings['backbone']!r} than "
            f"{weights}; pass the file of those weights, or compute the tokens again in another folder"
        )
    # timm may change a model's default preprocessing between releases.
    visual.preprocessing = tokens.settings["preprocessing"]


def check_tokens_of(model: AlignedFusionClassifier, tokens: TokenCache) -> None:
    """Raise a ValueError unless the backbone of a trained model computes the tokens of a cache."""
    settings = tokens.settings
    for modality, visual in model.visuals.items():
        backbone = getattr(visual, "backbone", None)
        is_same = (
            isinstance(visual, VisualTokenizer)
            and backbone is not None
            and visual.preprocessing == settings["preprocessing"]
            and weights_sha256(backbone) == settings["weights_sha256"]
            and _has_architecture(visual, settings["backbone"], settings.get("timm_args") or {})
        )
        if not is_same:
            raise ValueError(
                f"the tokens in {str(tokens.folder)!r} were computed with {settings['backbone']}, with another architecture, "
                f"other weights or a different preparation of images than the model has for {modality!r}; use the images, or "
                f"the tokens of its run"
            )


def _has_architecture(visual: VisualTokenizer, name: str, timm_args: Mapping[str, Any]) -> bool:
    """Whether a backbone is the named one: equal weights do not show its activation, for example."""
    if ":" in name:  # of a repository or folder, whose architecture and other arguments its config.json names
        return all(visual.timm_args.get(key) == value for key, value in timm_args.items())
    is_same = str(visual.architecture).partition(".")[0] == name.partition(".")[0]  # a tag names weights
    return is_same and visual.timm_args == dict(timm_args)
