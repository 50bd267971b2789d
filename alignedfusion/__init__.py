"""Fuse medical images with attributes from reports, when reports are incomplete.

Dimensions in all docstrings: `B` batch, `N` image tokens, `A` attributes, `K` intermediate tokens, `D` width, `V` candidate
values of all attributes together, `C` classes.
"""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.attributes import UNKNOWN, Attribute, AttributeSchema
    from alignedfusion.modules.classifier import AlignedFusionClassifier
    from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
    from alignedfusion.modules.masking import hide_attributes
    from alignedfusion.modules.reconstruction import MaskedTokenReconstructor, reconstruction_loss
    from alignedfusion.modules.text_encoder import TextEncoder
    from alignedfusion.modules.tokenizers import AttributeTokenizer, VisualTokenizer

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
        "modules.classifier": ("AlignedFusionClassifier",),
        "modules.fusions.intermediate": ("IntermediateTokenFusion",),
        "modules.masking": ("hide_attributes",),
        "modules.reconstruction": ("MaskedTokenReconstructor", "reconstruction_loss"),
        "modules.text_encoder": ("TextEncoder",),
        "modules.tokenizers": ("AttributeTokenizer", "VisualTokenizer"),
    },
)
