"""Models in a folder: weights as safetensors, settings as JSON, no pickle.

This module handles files and formats and imports no model class: it reads and writes a dictionary of settings and a state dict.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from alignedfusion.modules.download import download, is_repository

WEIGHTS = "model.safetensors"
SETTINGS = "config.json"
CARD = "README.md"
FORMAT = 3
MAX_IMAGE_SIZE = 8192


def save(model: nn.Module, settings: Mapping[str, Any], folder: str | Path) -> bool:
    """Write `model.safetensors` and `config.json`. An earlier checkpoint stays as it is until both files are complete.

    Args:
        model: Model whose weights are written.
        settings: Settings of the model as plain JSON, from its `to_dict`.
        folder: Folder to write to; created if it does not exist.

    Returns:
        Whether the folder has another model than before, or has no card.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"library": "alignedfusion", "format": FORMAT, **settings}, indent=2) + "\n"
    weights_draft, settings_draft = folder / f"{WEIGHTS}.part", folder / f"{SETTINGS}.part"
    save_model(model, str(weights_draft))
    settings_draft.write_text(text, encoding="utf-8")
    drafts = {WEIGHTS: weights_draft, SETTINGS: settings_draft}
    is_same = all(
        (folder / name).is_file() and filecmp.cmp(draft, folder / name, shallow=False) for name, draft in drafts.items()
    )
    for name, draft in drafts.items():
        os.replace(draft, folder / name)
    return not is_same or not (folder / CARD).is_file()


def resolve_folder(
    folder: str | Path, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The folder of a model. A repository is downloaded first; arguments as in `download`."""
    if is_repository(folder):
        name = str(folder)
        # The settings come first, because another library's weights may be large. The weights come from the same commit, so
        # that files of two models never mix.
        commit = download(name, files=(SETTINGS,), revision=revision, token=token, cache_dir=cache_dir)
        if (commit / SETTINGS).is_file():
            _check_library(_parse(commit / SETTINGS), f"{SETTINGS} of the repository {name!r}")
            commit = download(name, files=(WEIGHTS, CARD), revision=commit.name, token=token, cache_dir=cache_dir)
        if absent := [file for file in (SETTINGS, WEIGHTS) if not (commit / file).is_file()]:
            raise FileNotFoundError(f"the repository {name!r} has no alignedfusion model: {absent[0]} is missing")
        return commit
    if revision is not None:
        raise ValueError(f"revision={revision!r} belongs to a repository, but {str(folder)!r} is not one; leave it out")
    return Path(folder)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a saved model, in the current format.

    Raises:
        FileNotFoundError: If a file of the model is missing.
        ValueError: If another library or an unsupported release wrote the settings, or they do not match the weights.
    """
    if absent := [name for name in (SETTINGS, WEIGHTS) if not (folder / name).is_file()]:
        verb = "is" if len(absent) == 1 else "are"
        raise FileNotFoundError(f"no saved model in {str(folder)!r}: {' and '.join(absent)} {verb} missing")
    path = folder / SETTINGS
    settings = _parse(path)
    try:
        _check_library(settings, repr(str(path)))
        if settings["format"] == 2:
            settings = _from_format_2(settings)
        _check_sizes(settings, _shapes(folder), path)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is incomplete or was edited ({type(error).__name__}: {error}): copy the model again"
        ) from error
    return settings


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of a folder into a model, in the dtype in which they were saved.

    Raises:
        ValueError: If the file is damaged, does not fit the model, or has weights that are not finite.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as weights:
            # Release 0.1.0 used other names, and had no slopes and no weight of the prior.
            keys = set(weights.keys())
            model.to(weights.get_tensor("head.2.weight").dtype)
        if "branch_slopes" not in keys:
            _load_older(model, path)
        else:
            load_model(model, str(path))
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): copy the model again") from error
    except RuntimeError as error:
        raise ValueError(f"the weights in {str(path)!r} do not fit the model in {SETTINGS}: {error}") from error
    if bad := [name for name, value in model.state_dict().items() if not value.isfinite().all()]:
        raise ValueError(
            f"{len(bad)} weights in {str(path)!r} are nan or infinite, such as {bad[0]!r}: train the model again"
        )


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON ({error}): copy the model again") from error


def _check_library(settings: Any, where: str) -> None:
    if not isinstance(settings, dict) or settings.get("library") != "alignedfusion":
        raise ValueError(f"{where} was not written by alignedfusion: it belongs to another library's model")
    if settings["format"] not in (2, FORMAT):
        advice = "update alignedfusion" if settings["format"] > FORMAT else "train the model again"
        raise ValueError(f"{where} has format {settings['format']}, this release reads 2 and {FORMAT}: {advice}")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the saved weights; only the header of the file is read."""
    path = folder / WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): copy the model again") from error


def _check_sizes(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check sizes against the weights before a model is built: a wrong size could take minutes or all memory."""
    tokenizer, fusion = settings["tokenizer"], settings["fusion"]
    identity = shapes.get("tokenizer.identity", ())
    sizes = {
        "tokenizer.dim": (tokenizer["dim"], identity[-1:]),
        "fusion.dim": (fusion.get("dim", tokenizer["dim"]), identity[-1:]),
        "tokenizer.schema": (len(tokenizer["schema"]["attributes"]), identity[:1]),
        "class_names": (len(settings["class_names"]), shapes.get("log_prior", ())),
    }
    if tokenizer["text_dim"] is not None:
        sizes["tokenizer.text_dim"] = (tokenizer["text_dim"], shapes.get("tokenizer.value_vectors", ())[-1:])
    for name, (size, shape) in sizes.items():
        if shape != (size,):
            raise ValueError(
                f"{str(path)!r} does not match the weights in its folder: {name} asks for {size}, the weights have "
                f"{shape[0] if shape else 'no such tensor'}; copy the model again"
            )
    for name in ("depth", "num_tokens"):
        if fusion.get(name, 1) > len(shapes) + sum(shapes.get("fusion.intermediate", ())):
            raise ValueError(f"{str(path)!r} asks for fusion.{name}={fusion[name]}, the weights have far fewer")
    visual = settings["visual"] or {}
    for module in visual.get("each", {"": visual}).values():
        if (module.get("image_size") or 0) > MAX_IMAGE_SIZE:
            raise ValueError(
                f"{str(path)!r} asks for images of {module['image_size']} pixels; {MAX_IMAGE_SIZE} is the maximum"
            )
        for name, value in (module.get("timm_args") or {}).items():
            limit = max(len(shapes), *map(max, filter(None, shapes.values())))
            if any(
                isinstance(size, (int, float)) and size > limit
                for size in (value if isinstance(value, list) else [value])
            ):
                raise ValueError(f"{str(path)!r} asks for timm_args with {name}={value}, the weights have far fewer")
        if (width := module.get("num_features")) is not None and width > max(map(max, filter(None, shapes.values()))):
            raise ValueError(f"{str(path)!r} asks for num_features={width}, no weight is as wide")


_RENAMED_WEIGHTS = {"weights": "branch_weights"}


def _load_older(model: nn.Module, path: Path) -> None:
    """Load weights of release 0.1.0 (format 2): with other names, without slopes (0) and without a weight of the prior (1)."""
    from safetensors.torch import load_file

    state = {name: model.state_dict()[name] for name in ("branch_slopes", "prior_weight")}
    for name, value in load_file(str(path)).items():
        renamed = _RENAMED_WEIGHTS.get(name, name)
        if renamed.startswith("evidence."):
            renamed = "unimodal_heads." + renamed.removeprefix("evidence.")
        state[renamed] = value
    model.load_state_dict(state)


def _from_format_2(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of release 0.1.0 in the current format."""
    visual = settings["visual"]
    if visual is not None:
        for module in visual["each"].values() if "each" in visual else [visual]:
            module.pop("keep_prefix_tokens", None)
    dim = settings["tokenizer"]["dim"]
    return {
        "visual": visual,
        "tokenizer": settings["tokenizer"],
        "fusion": settings["fusion"],
        "reconstructor": {"dim": dim, "fill": settings["reconstruct"]} if settings["has_reconstructor"] else None,
        "class_names": settings["class_names"],
        "hiding": {"p": settings["hide_probability"], "whole": settings["hide_report_probability"]},
        "dropout": settings["dropout"],
        "unimodal_heads": settings["evidence"],
    }
