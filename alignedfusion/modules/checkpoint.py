"""Models in a folder: weights as safetensors, settings as JSON. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from alignedfusion.attributes import AttributeSchema
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor
from alignedfusion.modules.tokenizers import AttributeTokenizer, VisualTokenizer

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier

WEIGHTS = "model.safetensors"
SETTINGS = "config.json"
FORMAT = 2


def save(model: AlignedFusionClassifier, folder: str | Path) -> None:
    """Write a model: `model.safetensors` and `config.json`.

    The settings hold the schema, the class names, each backbone's name and its preprocessing. A checkpoint that was there
    before stays as it is until both files are written.
    """
    if not isinstance(model.tokenizer, AttributeTokenizer):
        raise ValueError(f"only models with an AttributeTokenizer can be saved, got {type(model.tokenizer).__name__}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "library": "alignedfusion",
        "format": FORMAT,
        "num_classes": model.num_classes,
        "class_names": list(model.class_names),
        "hide_probability": model.hide_probability,
        "hide_report_probability": model.hide_report_probability,
        "reconstruct": model.reconstruct,
        "dropout": model.dropout,
        "evidence": model.evidence is not None,
        "visual": _describe_visual(model.visual),
        "tokenizer": model.tokenizer.to_dict(),
        "fusion": _describe_fusion(model.fusion),
        "has_reconstructor": model.reconstructor is not None,
    }
    text = json.dumps(settings, indent=2) + "\n"
    weights_draft, settings_draft = folder / f"{WEIGHTS}.part", folder / f"{SETTINGS}.part"
    save_model(model, str(weights_draft))
    settings_draft.write_text(text)
    os.replace(weights_draft, folder / WEIGHTS)
    os.replace(settings_draft, folder / SETTINGS)


def load(
    cls: type[AlignedFusionClassifier],
    folder: str | Path,
    *,
    schema: AttributeSchema | None = None,
    visual: nn.Module | Mapping[str, nn.Module] | None = None,
    fusion: nn.Module | None = None,
) -> AlignedFusionClassifier:
    """Read a model that `save` wrote; arguments as in `AlignedFusionClassifier.from_pretrained`."""
    folder = Path(folder)
    settings = read_settings(folder)
    saved = AttributeSchema.from_dict(settings["tokenizer"]["schema"])
    if schema is not None and schema != saved:
        raise ValueError(
            f"the checkpoint in {str(folder)!r} has another schema: {saved.difference(schema)} given; encode your table "
            f"with the checkpoint's own schema, model.schema, or train anew"
        )
    tokenizer = AttributeTokenizer.from_dict(settings["tokenizer"])
    model = cls(
        _build_visual(settings["visual"], folder) if visual is None else visual,
        tokenizer,
        _build_fusion(settings["fusion"], folder) if fusion is None else fusion,
        MaskedTokenReconstructor(tokenizer.dim) if settings["has_reconstructor"] else None,
        settings["num_classes"],
        class_names=settings["class_names"],
        hide_probability=settings["hide_probability"],
        hide_report_probability=settings["hide_report_probability"],
        reconstruct=settings["reconstruct"],
        dropout=settings["dropout"],
        evidence=settings["evidence"],
    )
    with safe_open(str(folder / WEIGHTS), framework="pt") as weights:
        model.to(weights.get_tensor("head.2.weight").dtype)
    load_model(model, str(folder / WEIGHTS))
    return model.eval()


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a saved model, or an error that says what is wrong with the folder."""
    if absent := [name for name in (SETTINGS, WEIGHTS) if not (folder / name).is_file()]:
        raise FileNotFoundError(f"no saved model in {str(folder)!r}: {' and '.join(absent)} not there")
    return check_settings((folder / SETTINGS).read_text(), repr(str(folder / SETTINGS)))


def check_settings(text: str, where: str) -> dict[str, Any]:
    """The settings in the text of a `config.json`, or an error that says where it came from."""
    settings = json.loads(text)
    if not isinstance(settings, dict) or settings.get("library") != "alignedfusion":
        raise ValueError(f"{where} was not written by alignedfusion: it belongs to another library's model")
    if settings["format"] != FORMAT:
        cure = "update alignedfusion" if settings["format"] > FORMAT else "train the model anew"
        raise ValueError(f"{where} has format {settings['format']}, this release reads {FORMAT}: {cure}")
    return settings


def _describe_visual(visual: nn.Module | None) -> dict[str, Any] | None:
    if visual is None:
        return None
    if isinstance(visual, nn.ModuleDict):
        return {"each": {name: _describe_visual(module) for name, module in visual.items()}}
    # Not a subclass: what it does otherwise is in no settings.
    return visual.to_dict() if type(visual) is VisualTokenizer else {"own": type(visual).__name__}


def _build_visual(settings: dict[str, Any] | None, folder: Path) -> Any:
    if settings is None:
        return None
    if "each" in settings:
        return {name: _build_visual(each, folder) for name, each in settings["each"].items()}
    if "own" in settings:
        raise ValueError(
            f"the model in {str(folder)!r} was built with a visual module of your own ({settings['own']}): "
            f"pass one like it as visual="
        )
    return VisualTokenizer.from_dict(settings)


def _fusions() -> dict[str, Any]:
    # Here, for baselines stand above the classifier, which saves itself with this module.
    from alignedfusion.modules.fusions import published
    from alignedfusion.modules.fusions import simple as fusions
    from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion

    each = (
        IntermediateTokenFusion,
        fusions.JointSelfAttention,
        fusions.Concatenation,
        fusions.ElementwiseSum,
        fusions.CrossAttention,
        published.RemixFormerFusion,
        published.MSMAFusion,
    )
    return {fusion.__name__: fusion for fusion in each}


def is_rebuilt(fusion: nn.Module) -> bool:
    """Whether a fusion is one of the library's own, which loading builds by itself."""
    return _fusions().get(type(fusion).__name__) is type(fusion)


def _describe_fusion(fusion: nn.Module) -> dict[str, Any]:
    name = type(fusion).__name__
    if is_rebuilt(fusion):
        return {"type": name, **fusion.to_dict()}  # type: ignore[operator]
    return {"type": name, "own": True}


def _build_fusion(settings: dict[str, Any], folder: Path) -> Any:
    if settings.get("own"):
        raise ValueError(
            f"the model in {str(folder)!r} was built with a fusion of your own ({settings['type']}): pass one like it as "
            f"fusion="
        )
    arguments = {key: value for key, value in settings.items() if key != "type"}
    return _fusions()[settings["type"]](**arguments)
