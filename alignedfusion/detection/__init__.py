"""Detectors conditioned on report attributes, the A3D detector, and FROC."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.detection.a3d import a3d_detector
    from alignedfusion.detection.a3d_backbone import A3DBackbone, A3DConv
    from alignedfusion.detection.codes import match_codes
    from alignedfusion.detection.feature_maps import FeatureMapFusion, FeatureMapOutput
    from alignedfusion.detection.froc_curve import FROC
    from alignedfusion.detection.fused_detector import FusedDetector
    from alignedfusion.detection.metrics import average_precision, froc, froc_per_class
    from alignedfusion.detection.plots import plot_detections, plot_froc

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
    "froc_per_class",
    "match_codes",
    "plot_detections",
    "plot_froc",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "a3d": ("a3d_detector",),
        "a3d_backbone": ("A3DBackbone", "A3DConv"),
        "codes": ("match_codes",),
        "feature_maps": ("FeatureMapFusion", "FeatureMapOutput"),
        "froc_curve": ("FROC",),
        "fused_detector": ("FusedDetector",),
        "metrics": ("average_precision", "froc", "froc_per_class"),
        "plots": ("plot_detections", "plot_froc"),
    },
)
