"""Image files of any kind as 8-bit RGB, with errors that name the file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from alignedfusion.datasets.dicom import is_dicom, read_dicom

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

In = TypeVar("In")
Out = TypeVar("Out")


def read_image(path: str | Path | IO[bytes]) -> Image.Image:
    """Read an image as RGB, upright.

    Grayscale becomes three equal channels, transparency becomes black, and more than 8 bits (X-rays, 16-bit PNG or TIFF) are
    scaled linearly from the image's own minimum and maximum to 0 and 255. Of a float image only finite pixels count; NaN
    becomes black, and infinity the nearest of the two. DICOM files are read by `dicom.read_dicom`.

    Raises:
        ValueError: If the file is no image, damaged, too large (see `max_pixels`), or has several frames; the message names
            the file.
    """
    from PIL import Image, ImageOps

    if is_dicom(path):
        return read_dicom(path)  # type: ignore[arg-type]
    try:
        with _open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
        if image.mode.startswith("I") or image.mode == "F":
            image = Image.fromarray(_to_8_bits(np.array(image, dtype=np.float64)))
    except _damages() as error:
        raise ValueError(f"cannot read the image {str(path)!r}: {error}") from error
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def max_pixels() -> int | None:
    """The limit on the pixels of an image: `PIL.Image.MAX_IMAGE_PIXELS`, or the variable ALIGNEDFUSION_MAX_PIXELS."""
    from PIL import Image

    if text := os.environ.get("ALIGNEDFUSION_MAX_PIXELS"):
        if not text.isdigit():
            raise ValueError(f"ALIGNEDFUSION_MAX_PIXELS must be a number of pixels, got {text!r}")
        Image.MAX_IMAGE_PIXELS = int(text)
    return Image.MAX_IMAGE_PIXELS


def read_tokens(path: str | Path) -> np.ndarray:
    """Read precomputed tokens (N, F), float32, from a `.npy` file.

    Raises:
        ValueError: If the file holds no such array, or numbers that are not finite; the message names the file.
    """
    try:
        tokens = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the tokens {str(path)!r}: {error}") from error
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 2 or not tokens.size:
        raise ValueError(f"{str(path)!r} holds an array of shape {np.shape(tokens)}, not tokens (N, F)")
    tokens = tokens.astype(np.float32)
    if not np.isfinite(tokens).all():
        raise ValueError(f"the tokens in {str(path)!r} are not all finite")
    return tokens


@contextmanager
def _open(path: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    """An image of one frame, not larger than the limit; its pixels are not read yet."""
    from PIL import Image

    if str(path).lower().endswith((".nii", ".nii.gz")):
        raise ValueError(
            "a NIfTI file holds a volume: save a slice as an image, or read it with MONAI (see the page on medical images)"
        )
    limit = max_pixels()
    with Image.open(path) as image:
        if limit is not None and image.width * image.height > limit:
            raise ValueError(
                f"it has {image.width} x {image.height} pixels, more than {limit:,}: reduce it, or set "
                f"ALIGNEDFUSION_MAX_PIXELS"
            )
        # A phone's MPO file is a photo with further views of it; its first frame is the photo.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"it has {image.n_frames} frames: save the one to be used as a file of its own")
        yield image


def _damages() -> tuple[type[Exception], ...]:
    from PIL import Image

    return (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Float pixels (H, W) scaled to uint8; the array is overwritten."""
    is_finite = np.isfinite(pixels)
    if not is_finite.any():
        raise ValueError("it has no finite pixel")
    low, high = pixels.min(where=is_finite, initial=np.inf), pixels.max(where=is_finite, initial=-np.inf)
    if low == high:
        return np.zeros(pixels.shape, dtype=np.uint8)
    np.nan_to_num(pixels, copy=False, nan=low, posinf=high, neginf=low)
    pixels -= low
    pixels *= 255.0 / (high - low)
    return pixels.round(out=pixels).astype(np.uint8)


def image_modalities(columns: Sequence[str]) -> tuple[str, ...]:
    """The modalities of image columns: one column is the modality "image", several are named after their columns."""
    return ("image",) if len(columns) == 1 else tuple(columns)


def image_paths(frame: pd.DataFrame, columns: Sequence[str], root: str | Path) -> dict[str, list[Path | None]]:
    """The image paths of a table by modality; None for an empty cell, which means that the case lacks the image."""
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
        ValueError: If only some of the files are tokens, or their widths differ.
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
    """Yield the results of `read` in order, `size` at a time; threads read the next items in the meantime."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(read, items)
        while step := list(itertools.islice(results, size)):
            yield step


def check_images(paths: Iterable[Path]) -> None:
    """Refuse files of images or tokens that cannot be used. Images are decoded, because a header does not show damage.

    Raises:
        ValueError: With the faults of the first few files.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        faults = [fault for fault in pool.map(_fault, dict.fromkeys(paths)) if fault]
    if faults:
        more = f" ... and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"{len(faults)} image files cannot be used: {'; '.join(faults[:5])}{more}; correct the paths or --image-root, "
            f"leave out these rows, or empty the cells of images that do not exist"
        )


def _fault(path: Path) -> str:
    if not path.is_file():
        return f"{path} does not exist"
    if is_dicom(path):
        return _dicom_fault(path)
    try:
        if path.suffix == ".npy":
            tokens = np.load(path, mmap_mode="r")
            return "" if tokens.ndim == 2 else f"{path} holds an array of shape {tokens.shape}, not tokens (N, F)"
        with _open(path) as image:
            image.draft("L", (1, 1))  # a JPEG is decoded at an eighth of its size
            image.load()
    except _damages() as error:
        reason = "" if str(path) in str(error) else f": {error}"
        return f"{path} cannot be read ({type(error).__name__}{reason})"
    return ""


def _dicom_fault(path: Path) -> str:
    try:
        read_dicom(path)
    except ValueError as error:
        return str(error)
    return ""
