"""Checks of labels, class names, devices and pixels, with the likely fix in the message.

Types and shapes are checked at every call. Values are checked on the CPU; on a GPU, where reading a value waits for the device,
the range of images is checked once per module. `torch.compile` and exporters skip all checks of values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""The label of a case that has no class, as in `torch.nn.functional.cross_entropy`."""

MAX_PIXEL = 100.0
"""Largest plausible value of a prepared image: pixels from 0 to 255 exceed it, normalised ones do not come near it."""

_PREPARE = "visual.transform() prepares PIL images"


def can_read(values: Tensor) -> bool:
    """Whether the values of a tensor can be checked without waiting for a device."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def check_class_names(class_names: Sequence[str], count: int | None = None) -> None:
    """Raise a ValueError for class names that are not distinct names, or not `count` of them."""
    if isinstance(class_names, (str, int)) or len(set(class_names)) != len(class_names):
        fix = f"; for {class_names} unnamed classes, range({class_names})" if isinstance(class_names, int) else ""
        raise ValueError(
            f"class_names must be distinct names in the order of the labels, such as ['nevus', 'melanoma'], got "
            f"{class_names!r}{fix}"
        )
    if count is not None and len(class_names) != count:
        raise ValueError(f"class_names must name {count} classes, got {len(class_names)}: {list(class_names)}")


def check_widths(dim: int, modules: Mapping[str, Any]) -> None:
    """Raise a ValueError for modules by name (or None) of another width than that of the fusion."""
    for name, module in modules.items():
        if module is not None and module.dim != dim:
            raise ValueError(f"{name} and fusion must have the same width, got dim={module.dim} and dim={dim}")


def check_labels(labels: Tensor, batch: int, class_names: Sequence[str]) -> None:
    """Raise a ValueError for labels that are not class indices (B,), int64.

    On a GPU a label out of range is an assertion that does not wait for the device.
    """
    wanted = f"labels must be class indices, an int64 tensor of shape ({batch},)"
    if not isinstance(labels, Tensor):
        is_text = isinstance(labels, (list, tuple)) and any(isinstance(label, str) for label in labels)
        fix = "torch.tensor([model.class_names.index(name) for name in labels])" if is_text else "torch.tensor(labels)"
        raise ValueError(f"{wanted}, got {type(labels).__name__}: {fix}")
    if labels.dtype != torch.int64 or tuple(labels.shape) != (batch,):
        fix = ""
        if tuple(labels.shape) == (batch, len(class_names)):
            fix = ": these look one-hot, labels.argmax(1) gives indices"
        elif tuple(labels.shape) == (batch, 1):
            fix = ": labels.squeeze(1).long()"
        elif tuple(labels.shape) == (batch,):
            fix = ": labels.long()"
        raise ValueError(f"{wanted}, got {labels.dtype} of shape {tuple(labels.shape)}{fix}")
    if torch.compiler.is_compiling() or labels.is_meta:
        return
    is_right = ((labels >= 0) & (labels < len(class_names))) | (labels == IGNORED)
    if labels.is_cuda:
        torch._assert_async(is_right.all(), "a label is out of range; run on the CPU to see which")
    elif not is_right.all():
        row = int((~is_right).nonzero()[0])
        raise ValueError(
            f"label {int(labels[row])} in row {row} is out of range: {len(class_names)} classes take labels 0 to "
            f"{len(class_names) - 1}, and {IGNORED} is ignored"
        )


def check_device(name: str, values: Tensor, device: torch.device) -> None:
    """Raise a ValueError for inputs on another device than the model."""
    if values.device != device:
        raise ValueError(
            f"{name} must be on the model's device {str(device)!r}, got {str(values.device)!r}: {name}.to({str(device)!r})"
        )


def check_pixels(pixels: Tensor, preprocessing: Mapping[str, Any], backbone: Any) -> None:
    """Raise a ValueError for images (B, channels, H, W) that were not prepared for a backbone.

    Args:
        pixels: The images.
        preprocessing: Preprocessing of the backbone, see `backbones.resolve_preprocessing`.
        backbone: The timm model.
    """
    channels = preprocessing["input_size"][0]
    shape = tuple(pixels.shape)
    if pixels.ndim != 4 or pixels.shape[1] != channels:
        fix = f"; {_PREPARE}"
        if pixels.ndim == 3 and channels in (pixels.shape[0], pixels.shape[-1]):
            fix = ": a single image needs a batch dimension, image[None]"
        elif pixels.ndim == 4 and pixels.shape[-1] == channels:
            fix = ": channels come second, image.permute(0, 3, 1, 2)"
        elif pixels.ndim == 4 and pixels.shape[1] == 1:
            fix = f": repeat a grayscale image, image.expand(-1, {channels}, -1, -1), or build the backbone with in_chans=1"
        elif pixels.ndim == 3:
            fix = f": grayscale images need channels, image[:, None].expand(-1, {channels}, -1, -1)"
        raise ValueError(f"expected images (B, {channels}, height, width), got a tensor of shape {shape}{fix}")
    if not pixels.is_floating_point():
        raise ValueError(
            f"expected prepared images of a float type, got {pixels.dtype}; {_PREPARE}: {_steps(preprocessing)}"
        )
    patches = getattr(backbone, "patch_embed", None)
    size = getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", False) else None
    if size is not None and shape[2:] != tuple(size):
        raise ValueError(
            f"this backbone takes images of {size[0]} x {size[1]} pixels, got {shape[2]} x {shape[3]}; {_PREPARE}, "
            f"and image_size sets another size"
        )


def check_range(pixels: Tensor, preprocessing: Mapping[str, Any]) -> None:
    """Raise a ValueError for float images with values that no prepared image has, such as 255."""
    if pixels.numel() and (largest := float(pixels.detach().amax())) > MAX_PIXEL:
        raise ValueError(
            f"images have values up to {largest:.0f}: they are not normalised; {_PREPARE}: {_steps(preprocessing)}"
        )


def _steps(preprocessing: Mapping[str, Any]) -> str:
    mean, std = ([round(value, 3) for value in preprocessing[name]] for name in ("mean", "std"))
    return f"it scales 0 to 255 to 0 to 1, subtracts the mean {mean} and divides by {std}"
