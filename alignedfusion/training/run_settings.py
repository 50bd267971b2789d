"""The settings of a run, `settings.json`: what determines its result, and whether a folder holds the same run already."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.modules.checkpoint import WEIGHTS
from alignedfusion.tables.files import read_json, write_json
from alignedfusion.training.distributed import is_main_process, num_processes
from alignedfusion.training.fitting import find_checkpoints

if TYPE_CHECKING:
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.modules.backbones import Backbone
    from alignedfusion.training.settings import TrainingSettings

SETTINGS = "settings.json"
METRICS_FILE = "metrics.json"
_FIX = "copy the run again, or train it again"


def describe_run(
    manifest: Manifest, backbone: Backbone, text_encoder: str | None, dim: int, settings: TrainingSettings
) -> dict[str, Any]:
    """The content of `settings.json`: everything that determines the result of a run."""
    described: dict[str, Any] = {
        "images": list(manifest.images),
        "label": manifest.columns.labels[0] if len(manifest.columns.labels) == 1 else list(manifest.columns.labels),
        "task": manifest.columns.task,
        "attributes": list(manifest.attributes),
        "key": manifest.columns.key,
        "group": manifest.columns.group,
        "subgroups": list(manifest.columns.subgroups),
        "options": {name: option.to_dict() for name, option in manifest.options.items()},
        "cases": manifest.fingerprint(),
        "model": {
            "backbone": asdict(replace(backbone, pretrained=str(backbone.pretrained))),
            "text_encoder": text_encoder,
            "dim": dim,
        },
        "training": asdict(settings),
    }
    if manifest.tokens is not None:
        described["tokens"] = {name: manifest.tokens.settings[name] for name in ("weights_sha256", "dtype")}
    elif not isinstance(backbone.pretrained, bool) and Path(backbone.pretrained).is_file():
        described["weights_sha256"] = hashlib.sha256(Path(backbone.pretrained).read_bytes()).hexdigest()
    if num_processes() > 1:  # the effective batch size is that of all processes together
        described["training"]["processes"] = num_processes()
    return described


def open_run(folder: Path, settings: dict[str, Any], *, weights: str = WEIGHTS) -> dict[str, Any] | None:
    """Start a run or continue one. Returns its metrics if it is finished, otherwise None.

    Args:
        folder: Folder of the run.
        settings: Everything that determines its result.
        weights: File of the trained weights.

    Raises:
        ValueError: If the folder holds a run with other settings.
    """
    file = folder / SETTINGS
    has_begun = bool(find_checkpoints(folder / "checkpoints")) or (folder / weights).is_file()
    if not file.is_file() or not has_begun:  # a run that failed in its first epoch starts again
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, settings)
        return None
    # Older runs have no other task, and do not hold the hash of their weights.
    unrecorded = {name: settings[name] for name in ("weights_sha256",) if name in settings}
    before = {"task": "multiclass", **unrecorded, **read_settings(folder)}
    if before != settings:
        changed = "; ".join(_changes(before, settings))
        raise ValueError(
            f"{str(folder)!r} holds a run with other settings ({changed}); choose another folder, or delete it"
        )
    metrics_file = folder / METRICS_FILE
    return read_json(metrics_file, _FIX) if metrics_file.is_file() else None


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder."""
    settings: dict[str, Any] = read_json(folder / SETTINGS, _FIX, keys=("images", "label", "attributes"))
    return settings


def _changes(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _changes(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append("other cases" if key == "cases" else f"{prefix}{key} {old} before, {new} now")
    return lines
