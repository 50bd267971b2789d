"""Backbones from timm: their weights, input size and preprocessing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignedfusion.modules.download import endpoint, is_reachable
from alignedfusion.modules.timm_source import TimmSource, find_timm_model
from alignedfusion.modules.tuning import parse_tune

DEFAULT_BACKBONE = "vit_small_patch16_224"


@dataclass(frozen=True)
class Backbone:
    """The backbone that turns images into tokens, and its initial weights.

    Args:
        name: Name of a timm model, "hf-hub:owner/model" or "local-dir:FOLDER" (see `VisualTokenizer`). None takes the backbone
            of the token cache, or vit_small_patch16_224 without a cache.
        pretrained: True loads the weights of that name, a path loads a local file, False starts from random weights.
        tune: Weights that are trained. "none" keeps all as they are. "last:1" trains the last stage, "last:2" the last two; a
            stage is one block of a plain vision transformer. "lora" trains adapters of rank 8, "lora:16" of rank 16, beside all
            linear layers and convolutions, and needs the extra `lora`. "whole" trains all weights. Statistics of batch norm
            change only where weights are trained.
        image_size: Side of the square input in pixels; by default that of the timm model.
        timm_args: Arguments of `timm.create_model` that change the architecture (see `VisualTokenizer`).
    """

    name: str | None = None
    pretrained: bool | str | Path = True
    tune: str = "none"
    image_size: int | None = None
    timm_args: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        parse_tune(self.tune)


ANY_BACKBONE = Backbone()
"""Leaves the choice to a token cache or the default."""


def check_timm_name(name: str) -> None:
    """Refuse a backbone in a saved file that is not the plain name of a timm model.

    timm also accepts "hf-hub:owner/model" and "local-dir:path". A model folder from someone else must not decide which
    server is contacted or which files are read.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"the saved settings name the backbone {name!r}, which is not the plain name of a timm model, so it is not loaded "
            f"from there; if you trust it, build the module yourself, VisualTokenizer({name!r}, ...), and pass it as visual="
        )


def locate_weights(name: str) -> dict[str, str]:
    """The source of a timm model's weights, as timm's `pretrained_cfg_overlay`: empty for timm's own way of downloading them.

    Without a network, timm would retry for a minute, even for weights that the cache holds. The weights of "hf-hub:owner/model"
    are downloaded here.

    Raises:
        ValueError: If the hub cannot be reached and the cache does not hold the weights.
        FileNotFoundError: The same, for "hf-hub:owner/model".
    """
    import timm
    from huggingface_hub import try_to_load_from_cache

    if ":" in name:
        find_timm_model(name)
        return {}
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or is_reachable():
        return {}
    repository, _, revision = config.hf_hub_id.partition("@")
    file = config.hf_hub_filename or "pytorch_model.bin"
    safe = "model.safetensors" if file == "pytorch_model.bin" else file.removesuffix(".bin") + ".safetensors"
    for candidate in dict.fromkeys((safe, file)):
        if isinstance(path := try_to_load_from_cache(repository, candidate, revision=revision or None), str):
            return {"file": path}
    raise ValueError(
        f"the pretrained weights of {name!r} are not in the cache, and {endpoint()} cannot be reached: connect to the network, "
        f"pass a local file (--weights FILE, pretrained=FILE), start from random weights (--no-pretrained, "
        f"pretrained=False), or set HF_HOME to a cache folder that holds them"
    )


def create_backbone(
    source: TimmSource, pretrained: bool | str | Path, image_size: int | None, in_chans: int = 3
) -> Any:
    """A timm model without its head; arguments as in `VisualTokenizer`.

    Raises:
        ValueError: If timm has no such model, or its weights cannot be downloaded or do not fit.
    """
    import timm
    from timm.models import load_state_dict

    name = source.architecture
    weights = source.weights if isinstance(pretrained, bool) else Path(pretrained)
    if weights is not None and not weights.is_file():
        raise ValueError(
            f"no weights file at {str(pretrained)!r}; pretrained takes True, False or a local checkpoint's path"
        )
    from_timm = pretrained is True and source.config is None
    try:
        overlay = locate_weights(name) if from_timm else None
        backbone = timm.create_model(
            name,
            pretrained=from_timm,
            num_classes=0,
            in_chans=in_chans,
            pretrained_cfg_overlay=overlay or None,
            **source.arguments(),
        )
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        close = timm.list_models(f"*{name}*")[:5]
        hint = f"similar names: {close}" if close else "timm.list_models() lists them"
        raise ValueError(f"timm has no model {name!r}; {hint}") from error
    except TypeError as error:
        raise ValueError(f"timm cannot build {name!r} with timm_args={dict(source.args)}: {error}") from error
    except OSError as error:
        raise ValueError(
            f"the pretrained weights of {name!r} could not be downloaded ({type(error).__name__}); pass the path of a local "
            f"checkpoint as pretrained, or pretrained=False to start from random weights"
        ) from error
    if weights is not None and pretrained is not False:
        # weights_only is given because its default differs between releases of timm.
        state = load_state_dict(str(weights), weights_only=True)
        if image_size is not None and _misfits(backbone, state):  # saved at this size, as `alignedfusion tune` does
            _resize(backbone, name, image_size, in_chans)
        _load_local(backbone, name, weights, state)
    if image_size is not None:
        _resize(backbone, name, image_size, in_chans)
    return backbone


def _resize(backbone: Any, name: str, image_size: int, in_chans: int) -> None:
    """Set the input size of a backbone. A wrong size raises a ValueError; timm itself raises assertions without a message."""
    native = resolve_preprocessing(backbone, None)["input_size"]
    try:
        if hasattr(backbone, "set_input_size"):
            backbone.set_input_size(img_size=image_size)
        elif image_size != native[-1]:
            mode = backbone.training
            with torch.inference_mode():
                backbone.eval().forward_features(torch.zeros(1, in_chans, image_size, image_size))
            backbone.train(mode)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"timm's {name!r} does not take images of {image_size} pixels; leave image_size out for its own "
            f"{native[-1]}, or choose another model"
        ) from error


def _misfits(backbone: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """The tensors of a backbone that a file lacks, or has in another shape."""
    wanted = backbone.state_dict().items()
    return [key for key, value in wanted if key not in state or state[key].shape != value.shape]


def _load_local(backbone: Any, name: str, path: Path, state: Mapping[str, torch.Tensor]) -> None:
    wanted = backbone.state_dict()
    if wrong := _misfits(backbone, state):
        raise ValueError(
            f"{str(path)!r} does not fit timm's {name!r}: {len(wrong)} of {len(wanted)} tensors are missing or have another "
            f"shape, such as {wrong[0]!r}; the file has names such as {next(iter(state), None)!r}. Save the state_dict of the "
            f"timm model itself, and pass arguments of timm.create_model that it needs as timm_args, and the image_size that "
            f"it was saved for"
        )
    if unused := _unused(backbone, state):
        raise ValueError(
            f"{str(path)!r} does not fit timm's {name!r}, which would leave out {len(unused)} of its tensors, such as "
            f"{unused[0]!r}; choose the timm model that they belong to, or pass arguments of timm.create_model that add them "
            f"as timm_args, such as init_values for 'gamma'"
        )
    backbone.load_state_dict({key: state[key] for key in wanted})


def _unused(backbone: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Weights of a file that belong into a backbone's own modules, and that it does not have.

    Without its head a backbone is complete, and so it is without modules of pretraining, such as a decoder.
    """
    heads = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    own = {*backbone.state_dict(), *(name for name, _ in backbone.named_buffers(remove_duplicate=False))}
    modules = {name.partition(".")[0] for name in own if "." in name} - {head.partition(".")[0] for head in heads}
    return [
        name
        for name, value in state.items()
        if name not in own and name.partition(".")[0] in modules and value.is_floating_point()
    ]


def resolve_preprocessing(backbone: Any, image_size: int | None, in_chans: int = 3) -> dict[str, Any]:
    """Arguments of `timm.data.create_transform` that prepare images as in the backbone's training; plain JSON.

    If the backbone takes another number of channels than three, all of them have the average mean and deviation.
    """
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(backbone)
    size = (in_chans, *(config["input_size"][1:] if image_size is None else (image_size, image_size)))
    if in_chans != len(config["mean"]):
        for name in ("mean", "std"):
            config[name] = [sum(config[name]) / len(config[name])] * in_chans
    return {
        "input_size": list(size),
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "crop_pct": 1.0,
        "crop_mode": "squash",  # the whole image is used: a finding may lie at its edge
    }


def count_prefix_tokens(backbone: Any) -> int:
    """Number of class and register tokens before the patch tokens. VOLO and CoaT have one that they do not declare."""
    declared = getattr(backbone, "num_prefix_tokens", None)
    if declared is not None:
        return int(declared)
    return int(any(name.startswith("cls_token") for name, _ in backbone.named_parameters(recurse=False)))


def weights_sha256(backbone: nn.Module) -> str:
    """SHA-256 of a model's weights.

    Position embeddings are left out: they are interpolated to the image size, and rounding differs between machines.
    """
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        if "pos" not in name:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
