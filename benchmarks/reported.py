"""The paper's published results: accuracy in % at 0, 10, 20, 30, 40 and 50 % missing. None stands for a dash in the paper."""

_OURS = (81.52, 81.27, 80.76, 80.76, 81.01, 81.52)
_ONCE = (None,) * 5
_JOINT = (77.97, 78.99, 78.23, 78.48, 78.73, 78.48)

REPORTED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "1a": {
        "Ours": _OURS,
        "FusionM4net": (76.70, 73.92, 72.65, 75.94, 75.18, 73.92),
        "FusionM4net (Miss Val.)": (76.70, 73.92, 72.65, 71.37, 69.11, 68.60),
        "Element-wise Sum": (77.22, 76.71, 73.67, 73.67, 74.18, 73.67),
        "Self-Attention": _JOINT,
        "RemixFormer": (81.30, *_ONCE),
        "MSMA": (78.99, *_ONCE),
        "Ours (Img Only)": (76.55, *_ONCE),
        "FusionM4net (Img Only)": (75.40, *_ONCE),
    },
    "1b": {
        "Ours": _OURS,
        "FusionM4net": (76.70, 76.45, 75.94, 77.46, 75.69, 74.93),
        "FusionM4net (Miss Val.)": (76.70, 76.20, 75.90, 72.40, 70.12, 69.11),
        "Element-wise Sum": (77.22, 75.44, 75.19, 74.94, 75.19, 74.94),
        "Self-Attention": (78.23, 78.14, 78.03, 78.11, 78.18, 78.23),
        "RemixFormer": (81.30, *_ONCE),
        "MSMA": (78.99, *_ONCE),
        "Ours (Img Only)": (76.55, *_ONCE),
        "FusionM4net (Img Only)": (75.40, *_ONCE),
    },
    "1c": {
        "Ours": (81.52, 81.52, 81.27, 81.01, 81.52, 81.77),
        "Self-Attention": (78.48, 78.48, 78.48, 78.73, 78.73, 78.73),
    },
    "1d": {
        "Ours": (82.73, 81.03, 82.56, 81.54, 82.56, 80.51),
        "Element-wise sum": (77.44, 72.82, 73.33, 73.32, 75.90, 71.28),
        "Self-Attention": (82.05, 81.54, 81.54, 82.03, 81.54, 81.53),
    },
    "2": {
        "Ours": _OURS,
        "Element-wise Sum": (70.22, 69.71, 68.67, 67.67, 66.18, 65.67),
        "Self-Attention": (71.70, 69.92, 68.65, 67.94, 67.18, 66.92),
        "FusionM4net": (77.97, 78.99, 78.23, 78.48, 78.73, 78.48),
        "Ours +ClinicalBERT": (74.27, 71.26, 69.14, 68.57, 68.07, 65.57),
        "Ours +BioBERT": (76.24, 73.14, 71.56, 70.65, 69.99, 66.35),
        "RemixFormer": (79.30, *_ONCE),
        "MSMA": (77.69, *_ONCE),
    },
    "4a": {"Ours": _OURS, "Ours w/o IT": _JOINT},
    "4b": {
        "Ours, p = 0": (81.01, *_ONCE),
        "Ours, p = 0.1": (81.04, *_ONCE),
        "Ours, p = 0.2": (80.25, *_ONCE),
        "Ours, p = 0.3": (81.52, *_ONCE),
        "Ours, p = 0.4": (80.07, *_ONCE),
        "Ours, p = 0.5": (79.75, *_ONCE),  # printed as 0.7975
    },
}
