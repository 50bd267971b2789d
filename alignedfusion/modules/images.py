"""Images on their way to tokens: which module reads which, and what a row lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alignedfusion.modules.fusions.intermediate import check_mask
from alignedfusion.modules.module_dict import ModuleDict

Images = Tensor | Mapping[str, Tensor]


def visual_of(visual: nn.Module | Mapping[str, nn.Module] | None, modalities: Sequence[str]) -> nn.Module | None:
    """The module that reads every image modality, or a ModuleDict of one each; None if there is none.

    Raises:
        ValueError: If modules and modalities do not match, or one module has two names.
    """
    if not modalities:
        return None
    if visual is None:
        raise ValueError(f"the fusion has the image modalities {list(modalities)}; visual must not be None")
    if isinstance(visual, nn.Module) and not isinstance(visual, nn.ModuleDict):
        return visual
    if set(visual) != set(modalities):
        raise ValueError(f"visual must have the keys {sorted(modalities)}, got {sorted(visual)}")
    if len({id(module) for module in visual.values()}) != len(visual):
        raise ValueError("visual names one module for several modalities; pass the module itself to share it among all")
    return ModuleDict(dict(visual.items()))


def images_by_modality(image: Images | None, modalities: Sequence[str], batch: int) -> dict[str, Tensor]:
    """Images (B, ...) by modality, one tensor standing for the only one.

    Raises:
        ValueError: For a missing or unknown modality, or another number of images than `batch`.
    """
    if not modalities:
        return {}
    if image is None:
        raise ValueError(f"this model needs images of {list(modalities)}; got None")
    if isinstance(image, Tensor):
        if len(modalities) > 1:
            raise ValueError(f"this model takes a mapping of images with the keys {sorted(modalities)}")
        image = {modalities[0]: image}
    if set(image) != set(modalities):
        raise ValueError(
            f"images must have the keys {sorted(modalities)}, got {sorted(image)}; an image that rows lack "
            f"is given as zeros, with is_present saying which rows have it"
        )
    for m, pixels in image.items():
        if pixels.shape[0] != batch:  # len() would fix the size of every batch when traced
            raise ValueError(f"got {pixels.shape[0]} images of {m!r} for {batch} rows of codes")
    return dict(image)


def blanked(pixels: Tensor, modality: str, is_valid: Mapping[str, Tensor], is_present: Mapping[str, Tensor]) -> Tensor:
    """Images (B, channels, H, W) or tokens (B, N, F), zero where padded or absent.

    This comes before the first weight: a NaN there would come back as the gradient of every weight it met.
    """
    if modality in is_valid and pixels.ndim == 3:
        check_mask(f"is_valid[{modality!r}]", is_valid[modality], tuple(pixels.shape[:2]))
        pixels = pixels.masked_fill(~is_valid[modality][..., None], 0.0)
    if modality in is_present:
        pixels = pixels.masked_fill(~is_present[modality].view(-1, *[1] * (pixels.ndim - 1)), 0.0)
    return pixels
