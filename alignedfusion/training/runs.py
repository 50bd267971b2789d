"""Runs: a folder with the trained model, its card, settings, metrics, predictions and a plot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.identity import find_images, find_trained_cases, read_images
from alignedfusion.datasets.images import token_width
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.reading import MAX_UNREAD, count_unread, read_cells
from alignedfusion.datasets.suspects import warn_of_leaks
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.evaluation.inference import prepare_images
from alignedfusion.evaluation.subgroups import subgroup_columns
from alignedfusion.evaluation.testing import evaluate_model
from alignedfusion.modules.backbones import ANY_BACKBONE, Backbone
from alignedfusion.modules.checkpoint import WEIGHTS
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.text_encoder import TextEncoder
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.pages.facts import check_classes
from alignedfusion.presets import check_tokens_of, check_unused, choose_backbone, match_tokens, standard
from alignedfusion.tables.files import lock_output
from alignedfusion.training.distributed import is_main_process
from alignedfusion.training.fitting import DEFAULTS, fit
from alignedfusion.training.run_pages import write_run_page
from alignedfusion.training.run_results import TRAINED_ON, to_device, write_report
from alignedfusion.training.run_settings import METRICS_FILE, describe_run, open_run, read_settings
from alignedfusion.training.settings import TrainingSettings
from alignedfusion.training.tuned_weights import check_unseen

if TYPE_CHECKING:
    import pandas as pd

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
    if manifest.tokens is None and token_width(manifest.paths(manifest.frame)):
        check_unused(backbone, "the images are .npy files of tokens")
    backbone = choose_backbone(manifest.tokens, backbone)
    if not backbone.pretrained:  # random weights have to learn from these images at the full learning rate
        settings = replace(settings, image_rate=1.0, backbone_rate=1.0)
    if case_pages:
        check_classes(manifest.columns.task)
    described = describe_run(manifest, backbone, text_encoder, dim, settings)
    # Several processes that train one model together share the folder, and the main one holds its lock.
    with lock_output(folder) if is_main_process() else nullcontext():
        if (finished := open_run(folder, described)) is not None:
            return finished
        record = check_unseen(manifest, backbone.pretrained)
        if is_main_process():
            if record is not None:
                shutil.copyfile(record, folder / TUNED_ON)
            warn_of_leaks(manifest.rows("train"), manifest.schema(), manifest.labels)

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
        return write_report(model, manifest, folder, seconds=seconds, case_pages=case_pages, progress=progress)


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
        task=manifest.columns.task,
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
    settings = read_settings(folder)
    model = to_device(AlignedFusionClassifier.from_pretrained(folder))
    if case_pages:
        check_classes(model.task)
    if most_probable:
        model.prior_exponent = 0.0
    if tokens is not None:
        check_tokens_of(model, tokens)
    columns = CaseColumns(
        images=settings["images"], label=settings["label"], attributes=tuple(settings["attributes"]), task=model.task
    )
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
    result, outputs = evaluate_model(
        model,
        cases,
        groups=manifest.frame.get(group),
        subgroups=subgroup_columns(manifest.frame, subgroups, model.schema),
    )
    if output is not None:
        write_run_page(Path(output), model, manifest, cases, result, outputs, case_pages=case_pages)
    unread = count_unread(reading.is_unread, model.schema)
    return {"tested": len(cases), "left_out": int(is_trained.sum()), "unreadable": unread, **result}
