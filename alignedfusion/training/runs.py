"""A run is a folder: the trained model, its card, settings, metrics, predictions and a picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.identity import find_trained_cases, write_trained_cases
from alignedfusion.datasets.images import token_width
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.reading import MAX_UNREAD, count_unread, name_unread, read_cells
from alignedfusion.datasets.splits import SPLITS
from alignedfusion.deployment import model_card
from alignedfusion.evaluation import plots
from alignedfusion.evaluation.metrics import metrics, missing_sweep, predict
from alignedfusion.modules.checkpoint import WEIGHTS
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.text_encoder import TextEncoder
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import choose_backbone, match_tokens, standard
from alignedfusion.tables.files import free_name, read_json, write_json, write_table
from alignedfusion.training.distributed import is_main_process, num_processes
from alignedfusion.training.fitting import find_checkpoints, fit

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = "settings.json"
METRICS_FILE = "metrics.json"
PREDICTIONS = "predictions.csv"
PICTURE = "missing.png"
TRAINED_ON = "trained_on.json"


def train(
    manifest: Manifest,
    folder: str | Path,
    *,
    backbone: str | None = None,
    pretrained: bool | str | Path = True,
    frozen: bool = True,
    image_size: int | None = None,
    text_encoder: str | None = None,
    dim: int = 128,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the standard model on a manifest, test it, and keep all of it in a folder.

    The same call on an interrupted run goes on from its last epoch; on a finished one it returns what was measured.

    Args:
        manifest: The cases. If its images are `.npy` files of tokens, no backbone is used. If it has `tokens`, they stand in
            for the images here, and the model is built with the backbone that they come from, to answer on images.
        folder: Where the run lies.
        backbone: See `presets.standard`, as for the next three; by default vit_small_patch16_224, or that of the tokens.
        pretrained: See there.
        frozen: See there.
        image_size: See there.
        text_encoder: Name or folder of a Hugging Face text encoder for the values' prompts; None learns value vectors.
        dim: Token width D.
        epochs: See `training.fit`, as for the rest.
        batch_size: See there.
        learning_rate: See there.
        workers: See there.
        seed: See there.
        progress: See there.

    Returns:
        The metrics, as `metrics.json` holds them. Of several processes, the main one tests and writes; in the others they are
        empty.

    Raises:
        ValueError: If the folder holds a run with other settings or other cases, or the manifest's tokens were computed with
            another backbone than the one asked for.
    """
    folder = Path(folder)
    backbone, pretrained, image_size = choose_backbone(manifest.tokens, backbone, pretrained, frozen, image_size)
    schema = manifest.schema()
    settings: dict[str, Any] = {
        "images": list(manifest.images),
        "label": manifest.label,
        "attributes": list(manifest.attributes),
        "cases": manifest.fingerprint(),
        "model": {
            "backbone": backbone,
            "pretrained": str(pretrained),
            "frozen": frozen,
            "image_size": image_size,
            "text_encoder": text_encoder,
            "dim": dim,
        },
        "training": {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed},
    }
    if manifest.tokens is not None:
        settings["tokens"] = {name: manifest.tokens.settings[name] for name in ("weights_sha256", "dtype")}
    if num_processes() > 1:  # batches are as many times as large
        settings["training"]["processes"] = num_processes()
    if (finished := _open(folder, settings)) is not None:
        return finished

    start = time.time()
    if (folder / WEIGHTS).is_file():  # trained before, and interrupted while it was tested
        if not is_main_process():
            return {}
        model = AlignedFusionClassifier.from_pretrained(folder)
        return _report(model, manifest, _view(model), folder, seconds=time.time() - start, progress=progress)

    torch.manual_seed(seed)
    num_features = None if manifest.tokens is not None else token_width(manifest.paths(manifest.frame))
    model = standard(
        schema,
        manifest.class_names,
        backbone=None if num_features else backbone,
        pretrained=pretrained,
        frozen=frozen,
        images=manifest.modalities,
        image_size=image_size,
        num_features=num_features,
        dim=dim,
        text_encoder=None if text_encoder is None else TextEncoder(text_encoder),
    )
    visual = model.visual
    assert isinstance(visual, VisualTokenizer)
    if manifest.tokens is not None:
        match_tokens(visual, manifest.tokens, pretrained)
    aside = visual.backbone
    if manifest.tokens is not None:
        visual.backbone = None  # it has nothing to do: steps are quicker and checkpoints smaller without it
    fit(
        model,
        manifest.cases(manifest.rows("train"), schema, None if num_features else visual.transform(is_training=True)),
        manifest.cases(manifest.rows("valid"), schema, _view(model)),
        folder / "checkpoints",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        # A backbone that starts at random has everything to learn: nothing of it is held back.
        image_rate=0.2 if pretrained or num_features else 1.0,
        backbone_rate=0.1 if pretrained else 1.0,
        workers=workers,
        seed=seed,
        progress=progress,
    )
    if not is_main_process():
        return {}
    visual.backbone = aside
    model.save_pretrained(folder)
    (folder / "checkpoints").rmdir()
    return _report(model, manifest, _view(model), folder, seconds=time.time() - start, progress=progress)


def evaluate(
    folder: str | Path,
    frame: pd.DataFrame,
    *,
    root: str | Path = ".",
    max_unread: float = MAX_UNREAD,
    progress: bool = True,
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Test a finished run on a table, without the cases that it was trained or chosen on.

    Args:
        folder: The run.
        frame: A table with the run's image, label and attribute columns.
        root: Folder that relative image paths start from.
        max_unread: Limit on the share of a column's recorded cells that cannot be read, see `datasets.reading.read_cells`.
        progress: Show a progress bar.

    Returns:
        Rows as `missing_sweep` gives them, and a mapping with the numbers of cases that were `tested` and `left_out`, and
        `unreadable`, the number of unreadable cells by attribute.
    """
    folder = Path(folder)
    if not (folder / METRICS_FILE).is_file():
        raise FileNotFoundError(f"no finished run in {str(folder)!r}: `alignedfusion train` makes one")
    settings = read_json(folder / SETTINGS, "copy the run again, or train anew")
    model = _to_device(AlignedFusionClassifier.from_pretrained(folder))
    columns = CaseColumns(images=settings["images"], label=settings["label"], attributes=tuple(settings["attributes"]))
    columns.check(frame)
    frame = frame.reset_index(drop=True)
    is_trained = np.array(find_trained_cases(folder / TRAINED_ON, frame, columns, root), dtype=bool)
    if is_trained.all():
        raise ValueError(f"all {len(frame)} cases of this table were used in training; there is nothing to test on")
    manifest = Manifest.for_evaluation(frame[~is_trained], columns, class_names=model.class_names, root=root)
    reading = read_cells(manifest.frame, model.schema, max_unread=max_unread)
    cases = manifest.cases(manifest.frame, model.schema, _view(model))
    rows = missing_sweep(model, cases, model.schema, progress=progress)
    unread = count_unread(reading.is_unread, model.schema)
    return rows, {"tested": len(cases), "left_out": int(is_trained.sum()), "unreadable": unread}


def _report(
    model: AlignedFusionClassifier, manifest: Manifest, view: Any, folder: Path, *, seconds: float, progress: bool
) -> dict[str, Any]:
    import pandas as pd

    _to_device(model)
    cases = manifest.cases(manifest.rows("test"), model.schema, view)
    probabilities = predict(model, cases, [cases.codes], progress=progress)[0]
    sweep = missing_sweep(model, cases, model.schema, progress=progress)
    labels = cases.labels.numpy()
    counts = np.bincount(labels, minlength=len(model.class_names))
    report: dict[str, Any] = {
        "test": metrics(probabilities, labels),
        "missing": sweep,
        "most_frequent_class": float(counts.max() / counts.sum()),
        "cases": {split: len(manifest.rows(split)) for split in SPLITS},
        "classes": list(model.class_names),
        "training_data": model_card.training_data(manifest, model.schema),
        "unreadable": {
            split: count_unread(model.schema.read(manifest.rows(split)).is_unread, model.schema) for split in SPLITS
        },
        "seconds": round(seconds, 1),
    }

    test = manifest.rows("test")
    columns = (*manifest.images, manifest.label)
    predictions = pd.DataFrame({column: test[column].to_numpy() for column in columns})
    predictions[free_name("predicted", columns)] = [model.class_names[i] for i in probabilities.argmax(1)]
    for i, name in enumerate(model.class_names):
        predictions[free_name(f"p({name})", columns)] = probabilities[:, i].round(6)
    unread = name_unread(model.schema.read(test).is_unread, model.schema)
    predictions[free_name("unreadable", columns)] = unread
    write_table(predictions, folder / PREDICTIONS)

    plots.accuracy_against_missing(
        {"this model": [(row["missing"], row["accuracy"], 0.0) for row in sweep]},
        folder / PICTURE,
        title=f"{manifest.label}: {len(cases)} test cases",
        chance=report["most_frequent_class"],
    )
    used = pd.concat([manifest.rows("train"), manifest.rows("valid")])
    write_trained_cases(folder / TRAINED_ON, used, manifest.columns, manifest.root)
    # Before the metrics, which say that the run is finished.
    model_card.write(model, folder, report=report, settings=json.loads((folder / SETTINGS).read_text("utf-8")))
    write_json(folder / METRICS_FILE, report)
    return report


def _open(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Start a run, or go on with one: its metrics if it is finished."""
    file = folder / SETTINGS
    has_begun = bool(find_checkpoints(folder / "checkpoints")) or (folder / WEIGHTS).is_file()
    if not file.is_file() or not has_begun:  # a run that failed before its first epoch is no run yet
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, settings)
        return None
    before = json.loads(file.read_text("utf-8"))
    if before != settings:
        changed = "; ".join(_changes(before, settings))
        raise ValueError(
            f"{str(folder)!r} holds a run with other settings ({changed}); choose another folder, or delete it"
        )
    metrics_file = folder / METRICS_FILE
    finished: dict[str, Any] | None = json.loads(metrics_file.read_text("utf-8")) if metrics_file.is_file() else None
    return finished


def _changes(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _changes(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append("other cases" if key == "cases" else f"{prefix}{key} {old} before, {new} now")
    return lines


def _view(model: AlignedFusionClassifier) -> Any:
    visual = model.visual
    if isinstance(visual, VisualTokenizer) and visual.preprocessing is not None:
        return visual.transform()
    return None


def _to_device(model: AlignedFusionClassifier) -> AlignedFusionClassifier:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
