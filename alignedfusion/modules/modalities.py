"""Modalities: names, checks of their tokens and masks, and means that exclude padding and absent rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from alignedfusion.modules.inputs import can_read

Masks = Mapping[str, Tensor]
"""Boolean tensors by modality."""

_ESCAPED = "modality_"


def check_modalities(modalities: Sequence[str], *, at_least: int) -> tuple[str, ...]:
    """Raise a ValueError for names that cannot be the modalities of a fusion."""
    if isinstance(modalities, str) or len(set(modalities)) != len(modalities) or len(modalities) < at_least:
        raise ValueError(
            f"modalities must be {at_least} or more distinct names such as ('image', 'report'), got {modalities!r}"
        )
    return tuple(modalities)


def module_key(modality: str) -> str:
    """The key of a modality in an `nn.ModuleDict`.

    Any column of a table can name a modality. A key, however, must not contain a dot, be empty, or equal an attribute of the
    dictionary, such as "keys" or "type". Such names are replaced by their UTF-8 bytes in hexadecimal digits; all others stay
    as they are.
    """
    is_usable = modality and "." not in modality and not modality.startswith(_ESCAPED)
    return modality if is_usable and not hasattr(_NO_MODULES, modality) else _ESCAPED + modality.encode().hex()


_NO_MODULES = nn.ModuleDict()


def check_tokens(
    tokens: Mapping[str, Tensor],
    modalities: Sequence[str],
    dim: int,
    is_valid: Masks | None,
    is_present: Masks | None,
) -> None:
    """Raise a ValueError for tokens that do not fit the modalities and width of a fusion, or each other."""
    if not isinstance(tokens, Mapping):
        raise ValueError(
            f"a fusion takes a mapping of modalities to tokens with the keys {sorted(modalities)}, got {type(tokens).__name__}"
        )
    if set(tokens) != set(modalities):
        raise ValueError(
            f"this fusion takes tokens of {sorted(modalities)}, got {sorted(tokens)}; pass zeros for a modality that rows "
            f"lack, and mark the rows that have it in is_present"
        )
    batch = tokens[modalities[0]].shape[0]
    for name, stream in tokens.items():
        if stream.ndim != 3 or stream.shape[-1] != dim or stream.shape[0] != batch:
            fix = _fix_of_tokens(tuple(stream.shape), batch, dim)
            raise ValueError(f"tokens of {name!r} must be ({batch}, N, {dim}), got {tuple(stream.shape)}{fix}")
    for argument, masks, width in (("is_valid", is_valid, 2), ("is_present", is_present, 1)):
        for name, mask in as_masks(argument, masks).items():
            if name not in modalities:
                raise ValueError(f"{argument} names the modality {name!r}; this fusion has {sorted(modalities)}")
            check_mask(f"{argument}[{name!r}]", mask, tuple(tokens[name].shape[:width]))
    warn_of_inverted(tuple(modalities), is_valid or {}, is_present or {})


def _fix_of_tokens(shape: tuple[int, ...], batch: int, dim: int) -> str:
    """The end of the message for tokens of a wrong shape, if the shape shows the mistake."""
    if len(shape) == 4 and shape[:2] == (batch, dim):
        return ": a feature map becomes tokens by map.flatten(2).transpose(1, 2)"
    if len(shape) == 3 and shape[:2] == (batch, dim):
        return ": tokens.transpose(1, 2)"
    if len(shape) == 3 and shape[0] == batch:
        return f": torch.nn.Linear({shape[-1]}, {dim}) brings them to the width of the fusion"
    if len(shape) == 2 and shape[0] == batch:
        return ", one vector per row: take the backbone's output before pooling, or unsqueeze(1) for a single token"
    return ""


def as_masks(argument: str, masks: Masks | None) -> Masks:
    """The masks, or no masks for None; a ValueError for anything but a mapping."""
    if masks is not None and not isinstance(masks, Mapping):
        raise ValueError(
            f"{argument} must map modalities to masks, such as {{'image': mask}}, got {type(masks).__name__}"
        )
    return masks or {}


def warn_of_inverted(modalities: tuple[str, ...], is_valid: Masks, is_present: Masks) -> None:
    """Warn of masks in which nothing is True, as a mask with the opposite meaning of True would be.

    One absent modality is normal in a small batch, and so is its padding; no modality at all is not.
    """
    masks = {f"is_valid[{m!r}]": mask for m, mask in is_valid.items() if m not in is_present}
    if set(is_present) == set(modalities):
        masks["is_present"] = torch.stack(list(is_present.values()))
    for name, mask in masks.items():
        if mask.numel() and can_read(mask) and not mask.any():
            warnings.warn(
                f"{name} is False everywhere, so nothing is read: True marks what is there; invert a mask in which True marks "
                f"padding or absence, as in torch.nn.MultiheadAttention",
                stacklevel=2,
            )


def check_mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ValueError for a mask of another type or shape."""
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a bool tensor of shape {shape}, got {type(mask).__name__}")
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        fix = ": mask.bool()" if tuple(mask.shape) == shape else ""
        raise ValueError(f"{name} must be bool of shape {shape}, got {mask.dtype} of shape {tuple(mask.shape)}{fix}")


def blank(inputs: Tensor, modality: str, is_valid: Masks | None, is_present: Masks | None) -> Tensor:
    """Tokens (B, N, D), or images (B, channels, H, W), with padded tokens and absent rows set to zero.

    Masked attention multiplies values by zero, so a NaN in a padded or absent token would spread to all others.
    """
    if is_valid and modality in is_valid and inputs.ndim == 3:
        inputs = inputs.masked_fill(~is_valid[modality][..., None], 0.0)
    if is_present and modality in is_present:
        inputs = inputs.masked_fill(~is_present[modality].view(-1, *[1] * (inputs.ndim - 1)), 0.0)
    return inputs


def mean_of_tokens(stream: Tensor, modality: str, is_valid: Masks | None, is_present: Masks | None) -> Tensor:
    """The mean token (B, D) of a modality over its valid tokens; zero for rows without any, or without the modality."""
    if is_valid and modality in is_valid:
        weight = is_valid[modality][..., None].to(stream.dtype)
        mean = (stream * weight).sum(1) / weight.sum(1).clamp(min=1)
    else:
        mean = stream.mean(1) if stream.shape[1] else stream.sum(1)
    return mean.masked_fill(~is_present[modality][:, None], 0.0) if is_present and modality in is_present else mean


def share_of_mean(stream: Tensor, modality: str, is_valid: Masks | None, is_present: Masks | None) -> Tensor:
    """What each token adds to `mean_of_tokens`, (B, N, D): zero for padding and for rows without the modality."""
    stream = blank(stream, modality, is_valid, is_present)
    if is_valid and modality in is_valid:
        return stream / is_valid[modality].sum(1).clamp(min=1)[:, None, None]
    return stream / max(1, stream.shape[1])


def joint_mask(streams: Mapping[str, Tensor], is_valid: Masks | None, is_present: Masks | None) -> Tensor | None:
    """The attention mask (B, sum of N_m) of the concatenated tokens of several modalities; None if all may be attended to."""
    is_valid, is_present = is_valid or {}, is_present or {}
    if not is_valid and not is_present:
        return None
    masks = []
    for m, stream in streams.items():
        mask = is_valid.get(m, torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device))
        masks.append(mask & is_present[m][:, None] if m in is_present else mask)
    joined = torch.cat(masks, dim=1)
    return joined | ~joined.any(1, keepdim=True)  # a row without any token attends to its zeros
