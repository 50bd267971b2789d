"""Images of a case and their patches as pictures inside a page."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from torch import Tensor

from alignedfusion.modules.tokenizers import VisualTokenizer

_FAVOURS, _OPPOSES = (0, 114, 178), (213, 94, 0)
"""Blue and vermilion, which colour-blind people can tell apart."""


def picture(visual: Any, pixels: Tensor, size: tuple[int, int] | None = None) -> str | None:
    """What the model reads of an image, as a data URI; None for precomputed tokens.

    The patches lie on this picture exactly, because it is the prepared image: cropped and scaled.

    Args:
        visual: The module that reads the image.
        pixels: The prepared image (channels, H, W).
        size: Width and height of the file. They undo the distortion of a preprocessing that squashes images to a square.
    """
    from PIL import Image

    if pixels.ndim != 3 or not isinstance(visual, VisualTokenizer) or visual.preprocessing is None:
        return None
    channels = [np.array(visual.preprocessing[name]) for name in ("mean", "std")]
    array = pixels.float().cpu().permute(1, 2, 0).numpy() * channels[1] + channels[0]  # (H, W, channels)
    array = (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    if size is not None and visual.preprocessing.get("crop_mode") == "squash":
        side = max(image.size)
        image = image.resize((max(1, round(side * size[0] / max(size))), max(1, round(side * size[1] / max(size)))))
    return _uri(image, "JPEG", quality=88)


def overlay(patches: np.ndarray, limit: float) -> str:
    """Contributions of patches as a transparent picture, a data URI: blue above zero, vermilion below.

    Args:
        patches: (N,), row by row.
        limit: The contribution that is drawn opaque.
    """
    from PIL import Image

    height, width = grid(len(patches))
    array = np.zeros((height, width, 4), dtype=np.uint8)
    values = patches.reshape(height, width)
    array[..., :3] = np.where((values >= 0)[..., None], _FAVOURS, _OPPOSES)
    array[..., 3] = (np.clip(np.abs(values) / max(limit, 1e-12), 0, 1) * 255).round()
    return _uri(Image.fromarray(array), "PNG")


def grid(count: int) -> tuple[int, int]:
    """Rows and columns of a number of patches: a square, or one row if there is none."""
    side = math.isqrt(count)
    return (side, side) if side * side == count else (1, count)


def _uri(image: Any, kind: str, **settings: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
