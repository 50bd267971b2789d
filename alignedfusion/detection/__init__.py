"""Fusion inside detectors: feature maps that hear of report attributes, the A3D detector, and FROC."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignedfusion.detection.a3d import A3DBackbone, A3DConv, a3d_detector
    from alignedfusion.detection.evaluation import FROC, average_precision, froc, plot_froc
    from alignedfusion.detection.feature_maps import FeatureMapFusion, FeatureMapOutput
    from alignedfusion.detection.fused_detector import FusedDetector

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

_HOMES = {
    "a3d": ("A3DBackbone", "A3DConv", "a3d_detector"),
    "evaluation": ("FROC", "average_precision", "froc", "plot_froc"),
    "feature_maps": ("FeatureMapFusion", "FeatureMapOutput"),
    "fused_detector": ("FusedDetector",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"alignedfusion.detection.{home}"), name)
    raise AttributeError(f"module 'alignedfusion.detection' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
