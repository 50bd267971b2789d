"""Weights of a tuned backbone as a file, and the check that no validation or test case was used to tune them.

The file has the names of the timm model. Its metadata describe the tuning and hold the digest of a second file, the record of
the images that the backbone was trained on, which must stay beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from alignedfusion.datasets.identity import find_images, identify_images, read_images
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.splits import refuse
from alignedfusion.tables.files import write_atomically, write_json

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "backbone.safetensors"
RECORD = "trained_images.json"
_KEY = "alignedfusion_tuning"


def training_rows(manifest: Manifest) -> pd.DataFrame:
    """The training rows without those that share an image with a validation or test row."""
    rows = manifest.rows("train")
    others = identify_images(manifest.frame[manifest.splits != "train"], manifest.columns, manifest.root)
    rows = rows[[not is_shared for is_shared in find_images(others, rows, manifest.columns, manifest.root)]]
    if not len(rows):
        raise ValueError("every training case shares an image with a validation or test case: check the split")
    return rows


def write_weights(backbone: nn.Module, images: Iterable[str], folder: Path, described: dict[str, Any]) -> None:
    """Write the weights of a backbone, with the record of the training images.

    Args:
        backbone: A timm model without adapters.
        images: Identities of the training images, from `identify_images`.
        folder: Folder of both files.
        described: Settings of the tuning, plain JSON.
    """
    from safetensors.torch import save_file

    record = folder / RECORD
    write_json(record, {"images": sorted(images)})
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
    known = read_images(record)
    same = ", ".join(f"{key} {tuning[key]!r}" for key in ("label", "group", "split", "seed"))
    for split, name in (("valid", "validation"), ("test", "test")):
        rows = manifest.rows(split)
        is_seen = find_images(known, rows, manifest.columns, manifest.root)
        refuse(
            f"{name} cases have images that the backbone in {str(weights)!r} was trained on; draw the splits as it did "
            f"({same}), give both commands the same split column, or tune it again",
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
