"""Training with `transformers.Trainer`: progress bar, checkpoints, resume, mixed precision and several devices come with it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from alignedfusion.attributes import REPORT
from alignedfusion.datasets.cases import collate
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.training.calibration import calibrate
from alignedfusion.training.distributed import check_sharding, is_main_process, must_use_cpu, num_processes


def fit(
    model: nn.Module,
    train: Dataset[Any],
    valid: Dataset[Any] | None,
    folder: str | Path,
    *,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    image_rate: float = 0.2,
    backbone_rate: float = 0.1,
    weight_decay: float = 0.05,
    workers: int = 0,
    seed: int = 0,
    progress: bool = True,
    report_to: str | Sequence[str] = "none",
) -> list[dict[str, float]]:
    """Train a model in place.

    The weights are those of the last epoch, when the learning rate has come down to zero. With validation cases, each epoch
    is evaluated and checkpointed in `folder`, an interrupted call goes on from the last one, and in the end they calibrate
    the model: that, and not an earlier epoch, is what cures overconfidence (see `calibration`).

    Args:
        model: An `AlignedFusionClassifier`, or any model with its call.
        train: Cases as `alignedfusion.datasets.cases` gives them; their `labels` tell the model's prior.
        valid: Cases, or None.
        folder: Where checkpoints lie until the training ends.
        epochs: Passes over the training cases.
        batch_size: Cases per step and device.
        learning_rate: Peak rate, after a warm-up over a tenth of the steps; then it falls to zero along a cosine. It is that
            of weights that only see attributes.
        image_rate: Learning rate of all other weights relative to that. Image tokens are many and rich, and what learns from
            them has learned the training cases by heart before attributes are understood.
        backbone_rate: A backbone's learning rate relative to that of its tokens: small for a pretrained one, 1 for one that
            starts at random.
        weight_decay: AdamW's, on weight matrices only.
        workers: Processes that read images.
        seed: Of order, hiding and dropout. Initial weights are drawn before, with the model.
        progress: Show a progress bar.
        report_to: Loggers that get the log as it grows, by Trainer's names: "tensorboard" (event files in `folder`, or where
            TENSORBOARD_LOGGING_DIR says), "mlflow" (to MLFLOW_TRACKING_URI), "wandb" and others. Their packages are yours to
            install.

    Returns:
        One entry of the log per epoch of training, and one per evaluation.
    """
    from transformers import TrainingArguments

    from alignedfusion.training.trainer import CaseTrainer

    check_sharding()
    folder = Path(folder)
    if isinstance(model, AlignedFusionClassifier) and model.unimodal_heads is not None and hasattr(train, "labels"):
        model.set_class_counts(torch.bincount(train.labels, minlength=model.num_classes))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, epochs * -(-len(train) // (batch_size * num_processes())) // 10),  # type: ignore[arg-type]
        max_grad_norm=1.0,
        use_cpu=must_use_cpu(),
        ddp_find_unused_parameters=_may_skip_weights(model),
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        eval_strategy="no" if valid is None else "epoch",
        save_strategy="no" if valid is None else "epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to=report_to if isinstance(report_to, str) else list(report_to),
        disable_tqdm=not progress,
        log_level="error",
        seed=seed,
    )
    trainer = CaseTrainer(
        model,
        groups=partial(
            parameter_groups,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            image_rate=image_rate,
            backbone_rate=backbone_rate,
        ),
        args=arguments,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=collate,
        compute_metrics=None if valid is None else _metrics,
        preprocess_logits_for_metrics=_logits_only,
    )
    checkpoints = find_checkpoints(folder) if valid is not None else []
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    trainer.finish()
    if valid is not None and isinstance(model, AlignedFusionClassifier):
        calibrate(model, valid, progress=False)
    if is_main_process():
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()  # lest the next call finds in one process what it does not in another
    log: list[dict[str, float]] = trainer.state.log_history
    return log


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of an unfinished training, the last one last; not one that was being written when it was interrupted."""
    # The file that is written last.
    complete = (state.parent for state in folder.glob("checkpoint-*/trainer_state.json"))
    return sorted(complete, key=lambda path: int(path.name.split("-")[-1]))


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    image_rate: float = 0.2,
    backbone_rate: float = 0.1,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: no decay of vectors (norms, biases, learned tokens), slower rates for images and backbones."""
    backbones = [m.backbone for m in model.modules() if isinstance(m, VisualTokenizer) and m.backbone is not None]
    of_backbone = {id(p) for backbone in backbones for p in backbone.parameters()}
    # A model without images has nothing that could outrun the attributes.
    sees_images = getattr(model, "image_modalities", ("image",))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_attributes = not {"tokenizer", "reconstructor", REPORT}.isdisjoint(name.split("."))
            rate = 1.0 if of_attributes or not sees_images else image_rate
            if id(parameter) in of_backbone:
                rate *= backbone_rate
            is_matrix = parameter.ndim > 1 and name.endswith("weight")
            groups.setdefault((rate, is_matrix), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * rate, "weight_decay": weight_decay if is_matrix else 0.0}
        for (rate, is_matrix), parameters in groups.items()
    ]


def _may_skip_weights(model: nn.Module) -> bool:
    """Whether a step may leave weights without a gradient, which processes must then look for in every step.

    Ours leave none, unless there are no attributes to read; a backbone may have some that its tokens do not need.
    """
    if not isinstance(model, AlignedFusionClassifier) or REPORT not in model.modalities:
        return True
    ours = ("alignedfusion.", "torch.nn.")
    return any(
        not type(module).__module__.startswith(ours) and any(p.requires_grad for p in module.parameters())
        for module in model.modules()
    )


def _metrics(prediction: Any) -> dict[str, float]:
    logits, labels = torch.from_numpy(prediction.predictions).float(), torch.from_numpy(prediction.label_ids)
    return {
        "accuracy": float((logits.argmax(-1) == labels).float().mean()),
        "cross_entropy": float(F.cross_entropy(logits, labels)),
    }


def _logits_only(outputs: Any, labels: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs
