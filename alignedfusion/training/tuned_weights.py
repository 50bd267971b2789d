"""Weights of a tuned backbone as a file, and the check that no validation or test case was used to tune them.

The file has the names of the timm model. Its metadata describe the tuning and hold the digest of a second file, the record of
the images that the backbone was trained on, which must stay beside it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from alignedfusion.datasets.identity import find_trained_images, write_trained_images
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.splits import refuse
from alignedfusion.tables.files import write_atomically

WEIGHTS = "backbone.safetensors"
RECORD = "trained_images.json"
_KEY = "alignedfusion_tuning"


def write_weights(backbone: nn.Module, manifest: Manifest, folder: Path, described: dict[str, Any]) -> None:
    """Write the weights of a backbone, with the record of the training images.

    Args:
        backbone: A timm model without adapters.
        manifest: The cases; those of "train" were used.
        folder: Folder of both files.
        described: Settings of the tuning, plain JSON.
    """
    from safetensors.torch import save_file

    record = folder / RECORD
    write_trained_images(record, manifest.rows("train"), manifest.columns, manifest.root)
    metadata = {_KEY: json.dumps({**described, "record": _digest(record)})}
    state = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.state_dict().items()}
    with write_atomically(folder / WEIGHTS) as draft:
        save_file(state, str(draft), metadata=metadata)


def check_unseen(manifest: Manifest, weights: bool | str | Path) -> Path | None:
    """Refuse a backbone that was tuned on images of validation or test cases.

    Args:
        manifest: The cases.
        weights: Source of the backbone's weights, as in `Backbone`.

    Returns:
        The record of the images that the weights were tuned on; None for weights that `alignedfusion tune` did not write.

    Raises:
        ValueError: If a validation or test case has such an image, or the record is missing.
    """
    if isinstance(weights, bool) or (tuning := read_tuning(weights)) is None:
        return None
    record = Path(weights).with_name(RECORD)
    if not record.is_file() or _digest(record) != tuning["record"]:
        raise ValueError(
            f"{str(weights)!r} was written by alignedfusion tune, and {RECORD} beside it is missing or another one; copy "
            f"both files, because images that the backbone was trained on must not be in validation or test cases"
        )
    for split, name in (("valid", "validation"), ("test", "test")):
        rows = manifest.rows(split)
        is_seen = find_trained_images(record, rows, manifest.columns, manifest.root)
        same = ", ".join(f"{key} {tuning[key]!r}" for key in ("label", "group", "split", "seed"))
        refuse(
            f"{name} cases have images that the backbone in {str(weights)!r} was trained on; draw the splits as it did "
            f"({same}), and give rows with equal images a common group",
            [f"row {row}" for row, seen in zip(rows.index, is_seen, strict=True) if seen],
        )
    return record


def read_tuning(weights: str | Path) -> dict[str, Any] | None:
    """The settings of the tuning that wrote a file of weights; None for any other file."""
    from safetensors import SafetensorError, safe_open

    if not Path(weights).is_file():  # an error of whoever loads it
        return None
    try:
        with safe_open(str(weights), framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError:  # a file of torch.save
        return None
    return json.loads(metadata[_KEY]) if _KEY in metadata else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
