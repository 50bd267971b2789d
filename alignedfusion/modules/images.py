"""Images before tokenization: the module that reads each modality, and rows that lack an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from alignedfusion.modules.modalities import Masks, blank, check_mask, module_key
from alignedfusion.modules.tokenizers import VisualTokenizer

Images = Tensor | Mapping[str, Tensor]


def resolve_visual(visual: nn.Module | Mapping[str, nn.Module] | None, modalities: Sequence[str]) -> nn.Module | None:
    """The module that reads all image modalities, or a ModuleDict with one module each; None if there are no images.

    Raises:
        ValueError: If modules and modalities do not match, or one module is given for two modalities.
    """
    if not modalities:
        return None
    if visual is None:
        raise ValueError(f"the fusion has the image modalities {list(modalities)}; visual must not be None")
    if isinstance(visual, nn.Module) and not isinstance(visual, nn.ModuleDict):
        return visual
    if set(visual) != set(modalities):
        raise ValueError(
            f"visual must have the keys {sorted(modalities)}, got {sorted(visual)}; all modalities of the fusion other than "
            f"'report' are images"
        )
    if len({id(module) for module in visual.values()}) != len(visual):
        raise ValueError("visual has one module for several modalities; pass the module itself to share it among all")
    return nn.ModuleDict({module_key(m): visual[m] for m in modalities})


def images_by_modality(image: Images | None, modalities: Sequence[str], batch: int) -> dict[str, Tensor]:
    """Images (B, ...) by modality; a single tensor belongs to the only image modality.

    Raises:
        ValueError: For a missing or unknown modality, or another number of images than `batch`.
    """
    if not modalities:
        return {}
    if image is None:
        raise ValueError(f"this model needs images of {list(modalities)}; got None")
    if not isinstance(image, Mapping):
        if len(modalities) > 1:
            raise ValueError(f"this model takes a mapping of images with the keys {sorted(modalities)}")
        image = {modalities[0]: image}
    if set(image) != set(modalities):
        raise ValueError(
            f"images must have the keys {sorted(modalities)}, got {sorted(image)}; pass zeros for an image that rows lack, and "
            f"mark the rows that have it in is_present"
        )
    for m, pixels in image.items():
        if not isinstance(pixels, Tensor):
            raise ValueError(
                f"images of {m!r} must be a tensor, got {type(pixels).__name__}: visual.transform() makes tensors of PIL images"
            )
        if pixels.shape[0] != batch:  # len() would fix the size of every batch when traced
            fix = "; a single image needs a batch dimension, image[None]" if pixels.ndim == 3 else ""
            raise ValueError(f"got {pixels.shape[0]} images of {m!r} for {batch} rows of codes{fix}")
    return dict(image)


def blank_images(images: Mapping[str, Tensor], is_valid: Masks, is_present: Masks) -> dict[str, Tensor]:
    """Images (B, channels, H, W) or tokens (B, N, F) with padded tokens and absent rows set to zero.

    This happens before the first layer: a NaN in an ignored row would make the gradient of every weight of that layer NaN.
    """
    for m, pixels in images.items():
        if m in is_valid and pixels.ndim == 3:
            check_mask(f"is_valid[{m!r}]", is_valid[m], tuple(pixels.shape[:2]))
    return {m: blank(pixels, m, is_valid, is_present) for m, pixels in images.items()}


def describe_visual(visual: nn.Module | None, modalities: Sequence[str]) -> dict[str, Any] | None:
    """Settings of the module that reads the images, or of one module each, as plain JSON."""
    if visual is None:
        return None
    if isinstance(visual, nn.ModuleDict):
        return {"each": {m: describe_visual(visual[module_key(m)], ()) for m in modalities}}
    # A subclass counts as a module of the user's own: its settings may not rebuild it.
    return visual.to_dict() if type(visual) is VisualTokenizer else {"own": type(visual).__name__}


def build_visual(settings: Mapping[str, Any] | None) -> nn.Module | dict[str, Any] | None:
    """Modules with random weights from what `describe_visual` returned.

    Raises:
        ValueError: For a module that this library does not have.
    """
    if settings is None:
        return None
    if "each" in settings:
        return {m: build_visual(module) for m, module in settings["each"].items()}
    if "own" in settings:
        raise ValueError(
            f"the model was built with a visual module of your own ({settings['own']}): pass one like it as visual="
        )
    return VisualTokenizer.from_dict(dict(settings))
