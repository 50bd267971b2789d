"""Image files of any kind as 8-bit RGB, and errors that name the file."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def read_image(path: str | Path) -> Image.Image:
    """Read an image as RGB, upright.

    Grayscale becomes three equal channels, transparency is laid on black, and more than 8 bits (X-rays, 16-bit PNG or TIFF)
    are scaled linearly from the image's own minimum and maximum to 0 and 255.

    Raises:
        ValueError: If it is not an image, or damaged; the message names the file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {str(path)!r}: {error}") from error
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image, dtype=np.float64)
        low, high = pixels.min(), pixels.max()
        scaled = (pixels - low) / (high - low) * 255.0 if high > low else np.zeros_like(pixels)
        image = Image.fromarray(scaled.round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def find_unreadable(paths: Iterable[Path]) -> list[str]:
    """What is wrong with the files that cannot be used, one sentence each; image headers are read, pixels are not."""
    with ThreadPoolExecutor(8) as pool:
        return [fault for fault in pool.map(_fault, paths) if fault]


def _fault(path: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        return f"{path} does not exist"
    try:
        if path.suffix == ".npy":
            tokens = np.load(path, mmap_mode="r")
            return "" if tokens.ndim == 2 else f"{path} holds an array of shape {tokens.shape}, not tokens (N, F)"
        with Image.open(path) as image:
            image.verify()
    except (OSError, ValueError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{path} cannot be read ({type(error).__name__})"
    return ""
