"""DeepLesion: key slices with boxes and attributes, in the public layout or synthetic."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.datasets.deeplesion.cases import ATTRIBUTES, LEAKS, DeepLesion, LesionCases, collate, load
    from alignedfusion.datasets.deeplesion.key_slices import LESION_TYPES, KeySlice
    from alignedfusion.datasets.deeplesion.planes import read_planes
    from alignedfusion.datasets.deeplesion.synthetic import make_synthetic

__all__ = [
    "ATTRIBUTES",
    "LEAKS",
    "LESION_TYPES",
    "DeepLesion",
    "KeySlice",
    "LesionCases",
    "collate",
    "load",
    "make_synthetic",
    "read_planes",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "cases": ("ATTRIBUTES", "LEAKS", "DeepLesion", "LesionCases", "collate", "load"),
        "key_slices": ("LESION_TYPES", "KeySlice"),
        "planes": ("read_planes",),
        "synthetic": ("make_synthetic",),
    },
)
