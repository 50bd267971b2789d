"""Fuse medical images with what a report says about them, when reports leave things out.

Dimensions, in every docstring: `B` batch, `N` image tokens, `A` attributes, `K` intermediate tokens, `D` width, `V`
candidate values of all attributes together, `C` classes.
"""

from typing import TYPE_CHECKING

from alignedfusion.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "attributes": ("UNKNOWN", "Attribute", "AttributeSchema"),
        "classifier": ("AlignedFusionClassifier",),
        "fusion": ("IntermediateTokenFusion",),
        "missing": ("hide_attributes",),
        "reconstruction": ("MaskedTokenReconstructor", "reconstruction_loss"),
        "text": ("TextEncoder",),
        "tokenizers": ("AttributeTokenizer", "VisualTokenizer"),
    },
)
