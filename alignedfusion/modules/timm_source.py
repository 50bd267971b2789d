"""Names of timm models: of timm itself, of a repository on the model hub, or of a local folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignedfusion.modules.download import download

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MLP_LAYERS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked", "GatedMlp")
"""Layers of timm that `mlp_layer` can name; timm itself takes this argument as a class only."""

_GIVEN_ELSEWHERE = {
    "img_size": "image_size",
    "in_chans": "in_chans",
    "num_classes": "no head",
    "features_only": "tokens",
}


@dataclass(frozen=True)
class TimmSource:
    """What a name of a timm model stands for.

    Args:
        architecture: Name of the model in timm.
        args: Further arguments of `timm.create_model`, as plain JSON.
        config: The `pretrained_cfg` of a repository or folder; None for timm's own.
        image_size: Side of the square input for which its weights were saved; None for timm's own.
        weights: Its file of weights; None for timm's own.
    """

    architecture: str
    args: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    image_size: int | None = None
    weights: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of `timm.create_model`."""
        import timm.layers

        args = {name: tuple(value) if isinstance(value, list) else value for name, value in self.args.items()}
        if "mlp_layer" in args:
            args["mlp_layer"] = getattr(timm.layers, self.args["mlp_layer"])
        if self.image_size is not None:
            args["img_size"] = self.image_size
        if self.config is not None:
            args["pretrained_cfg"] = dict(self.config)
        return args


def find_timm_model(name: str, timm_args: Mapping[str, Any] | None = None, *, weights: bool = True) -> TimmSource:
    """Find out what a name stands for; "hf-hub:owner/model" is downloaded unless the cache holds it.

    Args:
        name: Name of a timm model, "hf-hub:owner/model" (optionally with "@revision"), or "local-dir:FOLDER". A repository or
            folder has `config.json` in timm's format.
        timm_args: Arguments of `timm.create_model` that change the architecture. They replace those in `config.json`.
        weights: Whether the weights of a repository or folder are needed too.

    Raises:
        ValueError: If an argument is not plain JSON or is given elsewhere, or the repository or folder has no timm model.
        FileNotFoundError: If the repository does not exist, or the hub cannot be reached and the cache has no copy.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"a timm model is given by its name, got {type(name).__name__}: a module of your own that returns tokens (B, N, D) "
            f"is passed to AlignedFusionClassifier, as visual="
        )
    args = dict(timm_args or {})
    check_timm_args(args)
    prefix, _, place = name.partition(":")
    if prefix in ("hf-hub", "hf_hub") and place:
        repository, _, revision = place.partition("@")
        folder = download(repository, files=[CONFIG], revision=revision or None)
        for file in WEIGHTS if weights else ():  # one after the other: many repositories have both
            if not any((folder / other).is_file() for other in WEIGHTS):
                download(repository, files=[file], revision=folder.name)
    elif prefix == "local-dir" and place:
        folder = Path(place)
    else:
        return TimmSource(name, args)
    return _read_folder(name, folder, args, weights)


def check_timm_args(args: Mapping[str, Any]) -> None:
    """Refuse arguments of `timm.create_model` that name files or have an argument of their own, and values beyond JSON.

    A saved model has such arguments too. They must not decide which file is read.
    """
    import timm

    for name, value in args.items():
        if name in _GIVEN_ELSEWHERE or name in inspect.signature(timm.create_model).parameters:
            raise ValueError(
                f"timm_args cannot have {name!r}: it takes arguments that change the architecture, such as depth or "
                f"mlp_layer; image_size, in_chans and pretrained are arguments of their own"
            )
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, (str, int, float, bool)) for item in values):
            raise ValueError(
                f"timm_args has {name}={value!r}; values are numbers, strings, True or False, or lists of them; name layers, "
                f"such as mlp_layer='SwiGLUPacked' and act_layer='silu'"
            )
        if name == "mlp_layer" and value not in MLP_LAYERS:
            raise ValueError(f"timm_args has mlp_layer={value!r}; known are {', '.join(MLP_LAYERS)}")


def _read_folder(name: str, folder: Path, args: dict[str, Any], weights: bool) -> TimmSource:
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "architecture" not in config or "pretrained_cfg" not in config:
        raise ValueError(
            f"{name!r} is not a timm model: {str(folder)!r} has no {CONFIG} with 'architecture' and 'pretrained_cfg'; wrap "
            f"models of transformers or open_clip in a module of your own, as 'Encoders by name' in the documentation does"
        )
    args = {**config.get("model_args", {}), **args}
    size = args.pop("img_size", None)
    for given in ("in_chans", "num_classes"):
        args.pop(given, None)
    check_timm_args(args)
    file = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights and file is None:
        raise ValueError(f"{name!r} has no weights: {str(folder)!r} has none of {', '.join(WEIGHTS)}")
    return TimmSource(
        config["architecture"],
        args,
        config["pretrained_cfg"],
        size if size is None or isinstance(size, int) else size[0],
        file if weights else None,
    )
