"""Fusions of several modalities' tokens, all derived from `Fusion`."""

from typing import Any

from torch import nn

from alignedfusion.modules.fusions.base import Fusion, FusionOutput
from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
from alignedfusion.modules.fusions.published import MSMAFusion, RemixFormerFusion
from alignedfusion.modules.fusions.simple import Concatenation, CrossAttention, ElementwiseSum, JointSelfAttention

__all__ = [
    "Concatenation",
    "CrossAttention",
    "ElementwiseSum",
    "Fusion",
    "FusionOutput",
    "IntermediateTokenFusion",
    "JointSelfAttention",
    "MSMAFusion",
    "RemixFormerFusion",
    "build_fusion",
    "describe_fusion",
]

_KINDS: dict[str, type[Fusion]] = {
    kind.__name__: kind
    for kind in (
        IntermediateTokenFusion,
        JointSelfAttention,
        Concatenation,
        ElementwiseSum,
        CrossAttention,
        RemixFormerFusion,
        MSMAFusion,
    )
}


def describe_fusion(fusion: nn.Module) -> dict[str, Any]:
    """The class and the arguments of a fusion as plain JSON; "own" marks a class that this library does not have."""
    name = type(fusion).__name__
    is_ours = _KINDS.get(name) is type(fusion)
    return {"type": name, **({} if is_ours else {"own": True}), **fusion.to_dict()}  # type: ignore[operator]


def build_fusion(settings: dict[str, Any]) -> Fusion:
    """A fusion with random weights from what `describe_fusion` returned.

    Raises:
        ValueError: For a class that this library does not have.
    """
    name = settings["type"]
    if settings.get("own") or name not in _KINDS:
        raise ValueError(f"the model was built with a fusion of your own ({name}): pass one like it as fusion=")
    return _KINDS[name](**{key: value for key, value in settings.items() if key != "type"})
