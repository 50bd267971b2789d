"""Fusion inside detectors: feature maps that hear of report attributes, the A3D detector, and FROC."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.detection.a3d import a3d_detector
    from alignedfusion.detection.a3d_backbone import A3DBackbone, A3DConv
    from alignedfusion.detection.feature_maps import FeatureMapFusion, FeatureMapOutput
    from alignedfusion.detection.fused_detector import FusedDetector
    from alignedfusion.detection.metrics import FROC, average_precision, froc, plot_froc

__all__ = [
    "FROC",
    "A3DBackbone",
    "A3DConv",
    "FeatureMapFusion",
    "FeatureMapOutput",
    "FusedDetector",
    "a3d_detector",
    "average_precision",
    "froc",
    "plot_froc",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "a3d": ("a3d_detector",),
        "a3d_backbone": ("A3DBackbone", "A3DConv"),
        "metrics": ("FROC", "average_precision", "froc", "plot_froc"),
        "feature_maps": ("FeatureMapFusion", "FeatureMapOutput"),
        "fused_detector": ("FusedDetector",),
    },
)
