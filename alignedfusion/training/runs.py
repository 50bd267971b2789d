"""Runs: a folder with the trained model, its card, settings, metrics, predictions and a plot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.identity import find_images, find_trained_cases, read_images, write_trained_cases
from alignedfusion.datasets.images import token_width
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.reading import MAX_UNREAD, count_unread, name_unread, read_cells
from alignedfusion.datasets.splits import SPLITS
from alignedfusion.datasets.suspects import warn_of_leaks
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.deployment import model_card
from alignedfusion.deployment.prediction import name_set
from alignedfusion.evaluation import plots
from alignedfusion.evaluation.inference import decide, prediction_sets, prepare_images
from alignedfusion.evaluation.subgroups import subgroup_columns
from alignedfusion.evaluation.testing import evaluate_model
from alignedfusion.modules.backbones import ANY_BACKBONE, Backbone
from alignedfusion.modules.checkpoint import WEIGHTS
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.text_encoder import TextEncoder
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import check_tokens_of, choose_backbone, match_tokens, standard
from alignedfusion.tables.files import free_name, lock_output, read_json, write_json, write_table
from alignedfusion.training.distributed import is_main_process, num_processes
from alignedfusion.training.fitting import DEFAULTS, find_checkpoints, fit
from alignedfusion.training.run_pages import write_run_page
from alignedfusion.training.settings import TrainingSettings
from alignedfusion.training.tuned_weights import check_unseen

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = "settings.json"
METRICS_FILE = "metrics.json"
PREDICTIONS = "predictions.csv"
PICTURE = "missing.png"
_FIX = "copy the run again, or train it again"
TRAINED_ON = "trained_on.json"
TUNED_ON = "tuned_on.json"


def train(
    manifest: Manifest,
    folder: str | Path,
    *,
    backbone: Backbone = ANY_BACKBONE,
    text_encoder: str | None = None,
    dim: int = 128,
    settings: TrainingSettings = DEFAULTS,
    workers: int = 0,
    case_pages: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the standard model on a manifest, test it, and write the results to a folder.

    The same call continues an interrupted run from its last epoch, and returns the metrics of a finished one.

    Args:
        manifest: The cases. If its images are `.npy` files of tokens, no backbone is used. If it has `tokens`, they replace the
            images in training. The model is then built with the backbone that computed them, so that it predicts from images.
        folder: Folder of the run.
        backbone: The backbone. Without a name, it is that of the tokens, or vit_small_patch16_224.
        text_encoder: Name or folder of a Hugging Face text encoder for the values' prompts; None learns value vectors.
        dim: Token width D.
        settings: Epochs, learning rates and so on. `image_rate` and `backbone_rate` become 1 if the backbone starts from random
            weights.
        workers: Number of processes that read images.
        case_pages: Whether to write the pages of the most confident errors, which `report.html` then links to.
        progress: Whether to show progress bars.

    Returns:
        The content of `metrics.json`. Among several processes only the main one tests and writes; the others return {}.

    Raises:
        ValueError: If the folder holds a run with other settings or other cases, or the manifest's tokens were computed with
            another backbone than the requested one.
    """
    folder, start = Path(folder), time.time()
    backbone = choose_backbone(manifest.tokens, backbone)
    if not backbone.pretrained:  # random weights have to learn from these images at the full learning rate
        settings = replace(settings, image_rate=1.0, backbone_rate=1.0)
    described = describe_run(manifest, backbone, text_encoder, dim, settings)
    # Several processes that train one model together share the folder, and the main one holds its lock.
    with lock_output(folder) if is_main_process() else nullcontext():
        if (finished := open_run(folder, described)) is not None:
            return finished
        record = check_unseen(manifest, backbone.pretrained)
        if is_main_process():
            if record is not None:
                shutil.copyfile(record, folder / TUNED_ON)
            warn_of_leaks(manifest.rows("train"), manifest.schema(), manifest.label)

        if (folder / WEIGHTS).is_file():  # trained before, and interrupted while it was tested
            if not is_main_process():
                return {}
            model = AlignedFusionClassifier.from_pretrained(folder)
        else:
            torch.manual_seed(settings.seed)
            model = _build(manifest, backbone, text_encoder, dim)
            _fit(model, manifest, folder, settings, workers=workers, progress=progress)
            if not is_main_process():
                return {}
        seconds = time.time() - start
        return _report(model, manifest, folder, seconds=seconds, case_pages=case_pages, progress=progress)


def describe_run(
    manifest: Manifest, backbone: Backbone, text_encoder: str | None, dim: int, settings: TrainingSettings
) -> dict[str, Any]:
    """The content of `settings.json`: everything that determines the result of a run."""
    described: dict[str, Any] = {
        "images": list(manifest.images),
        "label": manifest.label,
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
    if num_processes() > 1:  # the effective batch size is that of all processes together
        described["training"]["processes"] = num_processes()
    return described


def _build(manifest: Manifest, backbone: Backbone, text_encoder: str | None, dim: int) -> AlignedFusionClassifier:
    num_features = None if manifest.tokens is not None else token_width(manifest.paths(manifest.frame))
    model = standard(
        manifest.schema(),
        manifest.class_names,
        backbone=None if num_features else backbone,
        images=manifest.modalities,
        num_features=num_features,
        dim=dim,
        text_encoder=None if text_encoder is None else TextEncoder(text_encoder),
    )
    if manifest.tokens is not None:
        assert isinstance(model.visual, VisualTokenizer)
        match_tokens(model.visual, manifest.tokens, backbone.pretrained)
    return model


def _fit(
    model: AlignedFusionClassifier,
    manifest: Manifest,
    folder: Path,
    settings: TrainingSettings,
    *,
    workers: int,
    progress: bool,
) -> None:
    """Train the model and save it."""
    visual = model.visual
    assert isinstance(visual, VisualTokenizer)
    rows = {split: manifest.rows(split) for split in ("train", "valid")}
    cases = {
        split: manifest.cases(rows[split], model.schema, **prepare_images(model, is_training=split == "train"))
        for split in rows
    }
    backbone = visual.backbone
    if manifest.tokens is not None:
        visual.backbone = None  # not needed in training: without it, steps are faster and checkpoints smaller
    fit(model, cases["train"], cases["valid"], folder / "checkpoints", settings, workers=workers, progress=progress)
    visual.backbone = backbone
    if is_main_process():
        model.save_pretrained(folder)
        (folder / "checkpoints").rmdir()


def evaluate(
    folder: str | Path,
    frame: pd.DataFrame,
    *,
    root: str | Path = ".",
    max_unread: float = MAX_UNREAD,
    tokens: TokenCache | None = None,
    subgroups: Sequence[str] = (),
    most_probable: bool = False,
    output: str | Path | None = None,
    case_pages: bool = False,
) -> dict[str, Any]:
    """Test a finished run on a table, without the cases that were used in training or validation.

    Args:
        folder: Folder of the run.
        frame: A table with the run's image, label and attribute columns.
        root: Folder that relative image paths start from.
        max_unread: Limit on the share of a column's recorded cells that cannot be read, see `datasets.reading.read_cells`.
        tokens: A token cache that the model's backbone computed; its tokens replace the images.
        subgroups: Columns by which the metrics are also reported.
        most_probable: Whether to predict the most probable class, without the help for rare classes that the run was trained
            with.
        output: Folder to write `report.html` to; None writes no page.
        case_pages: Whether to write the pages of the most confident errors there, too.

    Returns:
        The numbers of cases that were `tested` and `left_out`; `unreadable`, the number of unreadable cells by attribute; and
        the results of `evaluation.testing.evaluate_model`. Intervals are by group if the table has the group column of the run.
    """
    folder = Path(folder)
    if not (folder / METRICS_FILE).is_file():
        raise FileNotFoundError(f"no finished run in {str(folder)!r}: create one with `alignedfusion train`")
    settings = _read_settings(folder)
    model = _to_device(AlignedFusionClassifier.from_pretrained(folder))
    if most_probable:
        model.prior_exponent = 0.0
    if tokens is not None:
        check_tokens_of(model, tokens)
    columns = CaseColumns(images=settings["images"], label=settings["label"], attributes=tuple(settings["attributes"]))
    columns.check(frame)
    frame = frame.reset_index(drop=True)
    is_trained = np.array(find_trained_cases(folder / TRAINED_ON, frame, columns, root), dtype=bool)
    if (folder / TUNED_ON).is_file():
        is_trained |= np.array(find_images(read_images(folder / TUNED_ON), frame, columns, root), dtype=bool)
    if is_trained.all():
        raise ValueError(f"all {len(frame)} cases of this table were used in training; there is nothing to test on")
    manifest = Manifest.for_evaluation(
        frame[~is_trained], columns, class_names=model.class_names, root=root, tokens=tokens
    )
    reading = read_cells(manifest.frame, model.schema, max_unread=max_unread)
    cases = manifest.cases(manifest.frame, model.schema, **prepare_images(model))
    group = settings.get("group")
    result, probabilities = evaluate_model(
        model,
        cases,
        groups=manifest.frame.get(group),
        subgroups=subgroup_columns(manifest.frame, subgroups, model.schema),
    )
    if output is not None:
        write_run_page(Path(output), model, manifest, cases, result, probabilities, case_pages=case_pages)
    unread = count_unread(reading.is_unread, model.schema)
    return {"tested": len(cases), "left_out": int(is_trained.sum()), "unreadable": unread, **result}


def _report(
    model: AlignedFusionClassifier,
    manifest: Manifest,
    folder: Path,
    *,
    seconds: float,
    case_pages: bool,
    progress: bool,
) -> dict[str, Any]:
    """Test the model, and write predictions, plot, page, card and metrics."""
    import pandas as pd

    _to_device(model)
    table, group = manifest.rows("test"), manifest.columns.group
    cases = manifest.cases(table, model.schema, **prepare_images(model))
    result, probabilities = evaluate_model(
        model,
        cases,
        groups=None if group is None else table[group],
        subgroups=subgroup_columns(table, manifest.columns.subgroups, model.schema),
        progress=progress,
    )
    counts = np.bincount(cases.labels.numpy(), minlength=len(model.class_names))
    report: dict[str, Any] = {
        **result,
        "most_frequent_class": float(counts.max() / counts.sum()),
        "cases": {split: len(manifest.rows(split)) for split in SPLITS},
        "classes": list(model.class_names),
        "training_data": model_card.training_data(manifest, model.schema),
        "unreadable": {
            split: count_unread(model.schema.read(manifest.rows(split)).is_unread, model.schema) for split in SPLITS
        },
        "seconds": round(seconds, 1),
    }

    columns = (*manifest.images, manifest.label)
    predictions = pd.DataFrame({column: table[column].to_numpy() for column in columns})
    predictions[free_name("predicted", predictions)] = [model.class_names[i] for i in decide(model, probabilities)]
    if (sets := prediction_sets(model, probabilities, cases.codes.numpy())) is not None:
        named = [
            name_set(model, row, chosen) for row, chosen in zip(torch.from_numpy(probabilities), sets, strict=True)
        ]
        predictions[free_name("set", predictions)] = ["; ".join(names) for names in named]
    for i, name in enumerate(model.class_names):
        predictions[free_name(f"p({name})", predictions)] = probabilities[:, i].round(6)
    unread = name_unread(model.schema.read(table).is_unread, model.schema)
    predictions[free_name("unreadable", predictions)] = unread
    write_table(predictions, folder / PREDICTIONS)

    plots.accuracy_against_missing(
        {"this model": [(row["missing"], row["accuracy"], 0.0) for row in result["missing"]]},
        folder / PICTURE,
        title=f"{manifest.label}: {len(cases)} test cases",
        chance=report["most_frequent_class"],
    )
    write_run_page(folder, model, manifest, cases, result, probabilities, case_pages=case_pages)
    used = pd.concat([manifest.rows("train"), manifest.rows("valid")])
    write_trained_cases(folder / TRAINED_ON, used, manifest.columns, manifest.root)
    # The metrics are written last: their file marks the run as finished.
    model_card.write(model, folder, report=report, settings=_read_settings(folder))
    write_json(folder / METRICS_FILE, report)
    return report


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
    before = _read_settings(folder)
    if before != settings:
        changed = "; ".join(_changes(before, settings))
        raise ValueError(
            f"{str(folder)!r} holds a run with other settings ({changed}); choose another folder, or delete it"
        )
    metrics_file = folder / METRICS_FILE
    return read_json(metrics_file, _FIX) if metrics_file.is_file() else None


def _read_settings(folder: Path) -> dict[str, Any]:
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


def _to_device(model: AlignedFusionClassifier) -> AlignedFusionClassifier:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
