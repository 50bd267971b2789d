"""Tune a backbone with an image head: before its tokens are stored, and without the cases that fusion is tested on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion.datasets.cases import Cases, make_cases
from alignedfusion.datasets.identity import identify_images
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.modules.backbones import Backbone
from alignedfusion.modules.heads import linear_head
from alignedfusion.modules.images import Images, blank_images, images_by_modality
from alignedfusion.modules.modalities import Masks, module_key
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.modules.tuning import adapters_merged
from alignedfusion.presets import build_visual, choose_backbone
from alignedfusion.tables.files import lock_output, write_json
from alignedfusion.training.distributed import is_main_process
from alignedfusion.training.fitting import fit
from alignedfusion.training.run_settings import METRICS_FILE, describe_run, open_run
from alignedfusion.training.settings import TrainingSettings
from alignedfusion.training.tuned_weights import WEIGHTS, training_rows, write_weights

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS = TrainingSettings(epochs=5)
DIM = 128


class ImageClassifier(nn.Module):
    """Classifies a case from its images alone: each image has a linear head on its mean token, and its own loss.

    Args:
        visual: Turns images into tokens (B, N, D).
        images: Names of the images of a case.
        num_classes: Number of classes C.
    """

    def __init__(self, visual: VisualTokenizer, images: Sequence[str], num_classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.images = tuple(images)
        self.heads = nn.ModuleDict({module_key(m): linear_head(visual.dim, num_classes, 0.1) for m in images})

    def forward(
        self, image: Images, codes: Tensor, labels: Tensor | None = None, *, is_present: Masks | None = None
    ) -> ClassifierOutput:
        """Classify a batch; arguments as in `AlignedFusionClassifier`, whose codes are not read.

        Returns:
            The logits (B, C) are the mean of log p(class | image) over the images that are present, and the loss is the mean
            of the cross-entropies of these images.
        """
        present = is_present or {}
        images = blank_images(images_by_modality(image, self.images, len(codes)), {}, present)
        # Convolutions are faster on a CPU if the channels come last in memory.
        scores = [
            head(self.visual(images[m].contiguous(memory_format=torch.channels_last)).mean(1)).float().log_softmax(-1)
            for m, head in zip(self.images, self.heads.values(), strict=True)
        ]  # (B, C) each
        shares = torch.stack([present.get(m, torch.ones_like(scores[0][:, 0], dtype=torch.bool)) for m in self.images])
        weights = shares / shares.sum(0).clamp(min=1)  # (images, B)
        logits = (weights[..., None] * torch.stack(scores)).sum(0)  # (B, C)
        loss = None if labels is None else F.nll_loss(logits, labels)
        return ClassifierOutput(**{n: v for n, v in (("loss", loss), ("logits", logits)) if v is not None})


def tune(
    manifest: Manifest,
    folder: str | Path,
    backbone: Backbone,
    settings: TrainingSettings = DEFAULTS,
    *,
    workers: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Train weights of a backbone to classify the images of the training cases, and write them to a folder.

    The folder gets `backbone.safetensors` with the names of the timm model, for `Backbone(pretrained=...)` and `--weights`;
    `trained_images.json`, by which `runs.train` refuses validation and test cases that the backbone was trained on;
    `settings.json` and `metrics.json`. Validation cases are only measured, and test cases are not used. Training cases that
    share an image with one of them are left out. The same call continues an interrupted one from its last epoch.

    Args:
        manifest: The cases; attributes are not used.
        folder: Folder to write to.
        backbone: The backbone; its `tune` names the weights to train.
        settings: Epochs, learning rates and so on. `backbone_rate` becomes 1 if the backbone starts from random weights.
        workers: Number of processes that read images.
        progress: Whether to show progress bars.

    Returns:
        The content of `metrics.json`. Among several processes only the main one writes; the others return {}.

    Raises:
        ValueError: If no weights are to be trained, images are files of tokens, the label is not a class, or the folder holds
            a run with other settings.
    """
    if manifest.columns.task != "multiclass":
        raise ValueError(
            f"tune needs one column of classes; the task of {list(manifest.columns.labels)} is {manifest.columns.task!r}"
        )
    folder, start = Path(folder), time.time()
    if backbone.tune == "none":
        raise ValueError("tune='none' trains no weights of the backbone; use 'last:1', 'lora' or 'whole'")
    if manifest.tokens is not None or any(path.suffix == ".npy" for path in _files(manifest)):
        raise ValueError(
            "a backbone is tuned on images, and these are tokens: use the images that they were computed from"
        )
    backbone = choose_backbone(None, backbone)
    if not backbone.pretrained:
        settings = replace(settings, backbone_rate=1.0)
    described = describe_run(manifest, backbone, None, DIM, settings)
    with lock_output(folder) if is_main_process() else nullcontext():
        if (finished := open_run(folder, described, weights=WEIGHTS)) is not None:
            return finished
        torch.manual_seed(settings.seed)
        model = ImageClassifier(build_visual(backbone, DIM), manifest.modalities, len(manifest.class_names))
        rows = {"train": training_rows(manifest), "valid": manifest.rows("valid")}
        cases = {split: _cases(manifest, rows[split], model.visual, is_training=split == "train") for split in rows}
        checkpoints = folder / "checkpoints"
        log = fit(model, cases["train"], cases["valid"], checkpoints, settings, workers=workers, progress=progress)
        if not is_main_process():
            return {}
        with adapters_merged(model):
            images = identify_images(rows["train"], manifest.columns, manifest.root)
            write_weights(model.visual.backbone, images, folder, _summarise(manifest, backbone, settings.seed))
        checkpoints.rmdir()
        last = [entry for entry in log if "eval_accuracy" in entry][-1]
        report = {
            "cases": {split: len(cases[split]) for split in cases},
            "left_out": len(manifest.rows("train")) - len(cases["train"]),
            "valid": {name: last[f"eval_{name}"] for name in ("accuracy", "cross_entropy")},
            "seconds": round(time.time() - start, 1),
        }
        write_json(folder / METRICS_FILE, report)
    return report


def _files(manifest: Manifest) -> list[Path]:
    return [path for column in manifest.paths(manifest.frame).values() for path in column if path is not None]


def _cases(manifest: Manifest, rows: pd.DataFrame, visual: VisualTokenizer, *, is_training: bool) -> Cases:
    """Cases with images and labels, without attributes; training images are augmented."""
    assert visual.preprocessing is not None
    return make_cases(
        manifest.paths(rows),
        torch.zeros(len(rows), 0, dtype=torch.int64),
        manifest.labels.read(rows),
        visual.transform(is_training=is_training),
        shape=dict.fromkeys(manifest.modalities, tuple(visual.preprocessing["input_size"])),
    )


def _summarise(manifest: Manifest, backbone: Backbone, seed: int) -> dict[str, Any]:
    """What the file of weights holds about the tuning."""
    columns = manifest.columns
    return {
        **{name: getattr(backbone, name) for name in ("name", "tune", "image_size")},
        **{name: getattr(columns, name) for name in ("label", "group", "split")},
        "seed": seed,
    }
