"""Fuse medical images with what a report says about them, when reports leave things out.

Dimensions, in every docstring: `B` batch, `N` image tokens, `A` attributes, `K` intermediate tokens, `D` width, `V`
candidate values of all attributes together, `C` classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignedfusion.attributes import UNKNOWN, Attribute, AttributeSchema
    from alignedfusion.classifier import AlignedFusionClassifier
    from alignedfusion.fusion import IntermediateTokenFusion
    from alignedfusion.missing import hide_attributes
    from alignedfusion.reconstruction import MaskedTokenReconstructor, reconstruction_loss
    from alignedfusion.text import TextEncoder
    from alignedfusion.tokenizers import AttributeTokenizer, VisualTokenizer

__version__ = "0.1.0"

__all__ = [
    "UNKNOWN",
    "AlignedFusionClassifier",
    "Attribute",
    "AttributeSchema",
    "AttributeTokenizer",
    "IntermediateTokenFusion",
    "MaskedTokenReconstructor",
    "TextEncoder",
    "VisualTokenizer",
    "hide_attributes",
    "reconstruction_loss",
]

_HOMES = {
    "attributes": ("UNKNOWN", "Attribute", "AttributeSchema"),
    "classifier": ("AlignedFusionClassifier",),
    "fusion": ("IntermediateTokenFusion",),
    "missing": ("hide_attributes",),
    "reconstruction": ("MaskedTokenReconstructor", "reconstruction_loss"),
    "text": ("TextEncoder",),
    "tokenizers": ("AttributeTokenizer", "VisualTokenizer"),
}


def __getattr__(name: str) -> Any:
    # Names load on first use, so that the package costs nothing until a part of it is wanted.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"alignedfusion.{home}"), name)
    raise AttributeError(f"module 'alignedfusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
