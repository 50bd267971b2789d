"""Image files of any kind as 8-bit RGB, and errors that name the file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

In = TypeVar("In")
Out = TypeVar("Out")


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


def image_modalities(columns: Sequence[str]) -> tuple[str, ...]:
    """Names of the images of a case: one column alone is the modality "image", several go by their names."""
    return ("image",) if len(columns) == 1 else tuple(columns)


def image_paths(frame: pd.DataFrame, columns: Sequence[str], root: str | Path) -> dict[str, list[Path | None]]:
    """The image paths of a table by modality; None where a cell is empty: the case lacks the image."""
    return {
        modality: [
            None if is_empty else Path(root) / str(cell)
            for cell, is_empty in zip(frame[column], frame[column].isna(), strict=True)
        ]
        for modality, column in zip(image_modalities(columns), columns, strict=True)
    }


def token_width(paths: Mapping[str, Sequence[Path | None]]) -> int | None:
    """The width F of precomputed tokens; None if the files are images.

    Raises:
        ValueError: If some are tokens and some are not, or their widths differ.
    """
    files = {path for column in paths.values() for path in column if path is not None}
    tokens = {path for path in files if path.suffix == ".npy"}
    if not tokens:
        return None
    if tokens != files:
        raise ValueError("some images are .npy files of precomputed tokens and some are not; a model takes one kind")
    widths = {np.load(path, mmap_mode="r").shape[1] for path in tokens}
    if len(widths) > 1:
        raise ValueError(f"precomputed tokens must have one width, got {sorted(widths)}")
    return int(widths.pop())


def read_ahead(read: Callable[[In], Out], items: Iterable[In], size: int) -> Iterator[list[Out]]:
    """What `read` gives for each item, in order and `size` at a time; threads read the next ones while some are used."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(read, items)
        while step := list(itertools.islice(results, size)):
            yield step


def check_images(paths: Iterable[Path]) -> None:
    """Refuse files of images or tokens that cannot be used; image headers are read, pixels are not.

    Raises:
        ValueError: With what is wrong with the first few of them.
    """
    with ThreadPoolExecutor(8) as pool:
        faults = [fault for fault in pool.map(_fault, dict.fromkeys(paths)) if fault]
    if faults:
        more = f" ... and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(f"{len(faults)} image files cannot be used: {'; '.join(faults[:5])}{more}")


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
