"""DICOM images as a viewer shows them: rescaled, windowed, bright where the image is bright."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = (".dcm", ".dicom")


def is_dicom(path: str | Path | IO[bytes]) -> bool:
    """Whether a file is a DICOM file, by its name or by the letters DICM after its first 128 bytes."""
    if not isinstance(path, (str, Path)):
        return False
    if Path(path).suffix.lower() in _SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | Path, *, frame: int | None = None) -> Image.Image:
    """Read an image of a DICOM file as RGB.

    Stored values are rescaled (modality LUT), then the first window or VOI LUT of the file maps them to 0 to 255; without one,
    their minimum and maximum do, padding excluded. MONOCHROME1 is inverted, so that bright means bright. Colour images become
    RGB from any colour space or palette.

    Args:
        path: The file.
        frame: The frame of a file with several, from 0.

    Raises:
        ValueError: If the file holds no image, several frames and none was named, or a compression that no installed package
            decodes; the message names the file.
    """
    import pydicom
    from PIL import Image
    from pydicom.errors import InvalidDicomError

    try:
        data = pydicom.dcmread(path, force=Path(path).suffix.lower() in _SUFFIXES)
        if "PixelData" not in data:
            raise ValueError("it holds no image")
        pixels = _pick_frame(data, frame)
        shown = _to_rgb(pixels, data) if pixels.ndim == 3 else _to_gray(pixels, data)
    except (
        InvalidDicomError,
        AttributeError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ValueError(f"cannot read the DICOM file {str(path)!r}: {error}") from error
    return Image.fromarray(shown).convert("RGB")


def _pick_frame(data: Any, frame: int | None) -> np.ndarray:
    """The stored values (H, W) or (H, W, 3) of one frame."""
    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1 and frame is None:
        raise ValueError(
            f"it has {frames} frames: name one, read_dicom(path, frame=...), or save the one to be used as a file of its own"
        )
    if frame is not None and not 0 <= frame < frames:
        raise ValueError(f"it has {frames} frames, 0 to {frames - 1}, got frame={frame}")
    pixels: np.ndarray = data.pixel_array
    return pixels[frame or 0] if frames > 1 else pixels


def _to_gray(pixels: np.ndarray, data: Any) -> np.ndarray:
    """Stored values (H, W) as uint8 (H, W) or, of a palette, (H, W, 3)."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

    if data.PhotometricInterpretation == "PALETTE COLOR":
        bits = data.RedPaletteColorLookupTableDescriptor[2]
        return _scale(apply_color_lut(pixels, data).astype(np.float64), 0, 2**bits - 1)
    values = apply_modality_lut(pixels, data).astype(np.float64)
    if "VOILUTSequence" in data:
        bits = data.VOILUTSequence[0].LUTDescriptor[2]
        shown = _scale(apply_voi_lut(values.astype(np.int64), data, prefer_lut=True).astype(np.float64), 0, 2**bits - 1)
    elif "WindowCenter" in data and "WindowWidth" in data:
        low, high = apply_voi_lut(np.array([-1e9, 1e9]), data, prefer_lut=False)  # the ends of the window's output
        shown = _scale(apply_voi_lut(values, data, prefer_lut=False), float(low), float(high))
    else:
        is_padding = pixels == data.PixelPaddingValue if "PixelPaddingValue" in data else np.zeros(pixels.shape, bool)
        kept = values[~is_padding] if not is_padding.all() else values
        shown = _scale(values, float(kept.min()), float(kept.max()))
    return 255 - shown if data.PhotometricInterpretation == "MONOCHROME1" else shown


def _to_rgb(pixels: np.ndarray, data: Any) -> np.ndarray:
    """Colour values (H, W, 3), which pydicom has converted to RGB, as uint8."""
    return _scale(pixels.astype(np.float64), 0, 2 ** int(data.BitsStored) - 1)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` to `high` scaled to uint8, others clipped; all zero if both are equal."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    return (255.0 * (values - low) / (high - low)).clip(0, 255).round().astype(np.uint8)
