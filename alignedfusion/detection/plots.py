"""Plots of FROC curves, and of detections with and without the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignedfusion.detection.boxes import read_boxes, read_detections
from alignedfusion.detection.froc_curve import FROC


def plot_froc(results: Mapping[str, FROC], path: str | Path, *, title: str, log: bool = False) -> None:
    """Plot one curve per result, with markers at the requested points.

    Args:
        results: Results by name.
        path: File to write.
        title: Title of the plot.
        log: Whether the axis of false positives is logarithmic.
    """
    from matplotlib.figure import Figure

    if not results:
        raise ValueError("there is no result to plot")
    points = [point for result in results.values() for point in result.fppi]
    left, right = (min(points) / 4 if log else 0.0), 1.25 * max(points)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, result) in enumerate(results.items()):
        percent = 100 * result.curve_sensitivity
        axes.step(  # past its last point a curve stays level
            np.append(result.curve_fppi, max(right, result.curve_fppi[-1])),
            np.append(percent, percent[-1]),
            where="post",
            color=f"C{number}",
            label=f"{name} (mean {100 * result.mean:.1f})",
        )
        heights = [100 * value for value in result.sensitivity]
        axes.plot(result.fppi, heights, color=f"C{number}", linestyle="", marker="os^Dv"[number % 5])
    if log:
        axes.set_xscale("log", base=2)
        ticks = sorted(set(points))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(left, right)
    axes.set_ylim(0, 102)
    axes.set_xlabel("false positives per image")
    axes.set_ylabel("sensitivity (%)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def plot_detections(
    image: Any,
    detections: Mapping[str, Any],
    path: str | Path,
    *,
    lesions: Any = (),
    min_score: float = 0.5,
    captions: Mapping[str, str] | None = None,
) -> None:
    """Draw the detections of one image side by side, such as those with and without the report.

    Detections are solid orange boxes with their scores, lesions dashed green boxes.

    Args:
        image: (H, W), (1, H, W) or (3, H, W), as a tensor or an array. Of a stack of slices, pass one slice.
        detections: Detections by name, each as in `froc`; one panel is drawn for each.
        path: File to write.
        lesions: True boxes (m, 4), or a mapping with "boxes".
        min_score: Detections with a lower score are not drawn.
        captions: Text under a panel by name, such as the attributes that the report mentions.

    Raises:
        ValueError: For an image of another shape, boxes that are not (n, 4), no detections, or captions of other names.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    pixels = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image, dtype=np.float64)
    if pixels.ndim == 3 and len(pixels) in (1, 3):
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    elif pixels.ndim != 2:
        raise ValueError(f"image must be of shape (H, W), (1, H, W) or (3, H, W), got {pixels.shape}")
    if not detections:
        raise ValueError("detections must name at least one panel")
    if "boxes" in detections and "scores" in detections:
        raise ValueError("detections maps names of panels to detections; for one panel, pass {'detections': found}")
    captions = captions or {}
    if others := sorted(set(captions) - set(detections)):
        raise ValueError(f"captions has {others}, which detections does not name; it names {list(detections)}")
    spread = float(pixels.max() - pixels.min()) or 1.0
    figure = Figure(figsize=(4.0 * len(detections), 4.4), layout="constrained")
    panels = figure.subplots(1, len(detections), squeeze=False)[0]
    for axes, (name, found) in zip(panels, detections.items(), strict=True):
        axes.imshow((pixels - pixels.min()) / spread, cmap="gray", vmin=0, vmax=1)
        boxes, scores = read_detections(found, 0)
        drawn = [(box, "C2", "--", "") for box in read_boxes(lesions, 0, "lesion")]
        drawn += [(box, "C1", "-", f"{s:.2f}") for box, s in zip(boxes, scores, strict=True) if s >= min_score]
        for box, color, style, text in drawn:
            if len(box) != 4:
                raise ValueError(f"boxes must have 4 numbers to be drawn on a slice, got {len(box)}")
            x1, y1, x2, y2 = box
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linestyle=style))
            axes.text(x1, y1, text, color=color, fontsize="small", verticalalignment="bottom")
        axes.set_title(name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(captions.get(name, ""))
    figure.savefig(path, dpi=150)
