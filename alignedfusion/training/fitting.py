"""Training with `transformers.Trainer`: progress bar, checkpoints, resuming, mixed precision, several devices."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from alignedfusion.attributes import REPORT
from alignedfusion.datasets.cases import collate
from alignedfusion.evaluation.conformal import import_crepes
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tasks import Multiclass, Task
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.training.balance import check_balance, count_classes, restore_prior, set_prior
from alignedfusion.training.calibration import calibrate
from alignedfusion.training.decision import choose_decision
from alignedfusion.training.distributed import check_sharding, is_main_process, must_use_cpu, num_processes
from alignedfusion.training.sets import calibrate_sets, check_sets_fit
from alignedfusion.training.settings import TrainingSettings

_LOG = logging.getLogger(__name__)

DEFAULTS = TrainingSettings()


def fit(
    model: nn.Module,
    train: Dataset[Any],
    valid: Dataset[Any] | None,
    folder: str | Path,
    settings: TrainingSettings = DEFAULTS,
    *,
    class_counts: Tensor | None = None,
    workers: int = 0,
    progress: bool = True,
    report_to: str | Sequence[str] = "none",
) -> list[dict[str, float]]:
    """Train a model in place.

    The model keeps the weights of the last epoch, when the learning rate has fallen to zero. With validation cases, each epoch
    is evaluated and saved as a checkpoint in `folder`, an interrupted call continues from the last checkpoint, and the
    validation cases calibrate the model after training (see `training.calibration`).

    Parameters that the model's method `image_parameters` yields are trained with `image_rate`, and the backbone of a
    `VisualTokenizer` with `backbone_rate`. In a model without this method, all parameters other than those of backbones have
    one learning rate.

    Args:
        model: An `AlignedFusionClassifier`, or any model with the same signature of `forward`.
        train: Training cases, a dataset of `alignedfusion.datasets.cases` or one with the same items.
        valid: Validation cases, or None.
        folder: Folder of the checkpoints, which are deleted after training.
        settings: Epochs, learning rates and so on.
        class_counts: Training cases per class (C,), for the prior of a model for one of several classes; counted by
            default.
        workers: Number of processes that read images.
        progress: Whether to show a progress bar, and a line with losses, accuracy and the time left after each epoch.
        report_to: Names of loggers as in `transformers.Trainer`: "tensorboard" (event files in `folder`, or in
            TENSORBOARD_LOGGING_DIR), "mlflow" (at MLFLOW_TRACKING_URI), "wandb" and others. Their packages must be installed.

    Returns:
        The log: one entry per epoch of training, and one per evaluation.
    """
    from transformers import TrainingArguments

    from alignedfusion.training.progress import EpochLines
    from alignedfusion.training.trainer import CaseTrainer

    check_sharding()
    task = model.targets if isinstance(model, AlignedFusionClassifier) else Multiclass(())
    check_balance(model, settings.balance)
    if settings.sets != "none":
        check_sets_fit(task.name)
        import_crepes()  # an error before training, not after it
        if valid is None:
            raise ValueError(f"sets={settings.sets!r} needs validation cases to calibrate on")
    folder = Path(folder)
    counts = count_classes(model, train, class_counts, settings.balance)
    train = set_prior(model, train, counts, settings.balance)
    steps = settings.epochs * -(-len(train) // (settings.batch_size * num_processes()))  # type: ignore[arg-type]
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        max_grad_norm=1.0,
        use_cpu=must_use_cpu(),
        ddp_find_unused_parameters=_may_skip_weights(model),
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        eval_strategy="no" if valid is None else "epoch",
        save_strategy="no" if valid is None else "epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,  # otherwise every epoch starts them anew
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to=report_to if isinstance(report_to, str) else list(report_to),
        disable_tqdm=True,  # `EpochLines` shows the progress
        log_level="error",
        seed=settings.seed,
    )
    trainer = CaseTrainer(
        model,
        groups=partial(parameter_groups, settings=settings),
        args=arguments,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=collate,
        compute_metrics=None if valid is None else partial(_metrics, task=task),
        preprocess_logits_for_metrics=_logits_only,
        callbacks=[EpochLines()] if progress else None,
    )
    checkpoints = find_checkpoints(folder) if valid is not None else []
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    trainer.finish()
    _check_finite(model, trainer.state.log_history)
    restore_prior(model, counts, settings.balance)
    if valid is not None and isinstance(model, AlignedFusionClassifier):
        calibrate(model, valid, progress=False)
        if settings.balance != "none":
            choose_decision(model, valid, progress=False)
        if settings.sets != "none":
            calibrate_sets(model, valid, kind=settings.sets, coverage=settings.coverage, progress=False)
    if is_main_process():
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()  # otherwise only some processes would find checkpoints in the next call
    log: list[dict[str, float]] = trainer.state.log_history
    return log


def _check_finite(model: nn.Module, log: Sequence[Mapping[str, float]]) -> None:
    """Raise a ValueError for a model that predicts nothing, because training diverged."""
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not all(math.isfinite(loss) for loss in losses[-1:]) or not all(bool(w.isfinite().all()) for w in weights):
        raise ValueError("training diverged, and the model's outputs are nan or infinite: lower learning_rate")


def find_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of an unfinished training, in the order of their steps."""
    # trainer_state.json is written last, so a checkpoint without it is incomplete.
    complete = (state.parent for state in folder.glob("checkpoint-*/trainer_state.json"))
    return sorted(complete, key=lambda path: int(path.name.split("-")[-1]))


def parameter_groups(model: nn.Module, settings: TrainingSettings = DEFAULTS) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer.

    Vectors (norms, biases, learned tokens) have no weight decay. Parameters that process images and parameters of backbones
    have lower learning rates.

    Args:
        model: The model.
        settings: Learning rates and weight decay.
    """
    visuals = [module for module in model.modules() if isinstance(module, VisualTokenizer)]
    backbone_ids = {id(parameter) for visual in visuals for parameter in visual.pretrained_parameters()}
    if hasattr(model, "image_parameters"):
        image_ids = set(map(id, model.image_parameters()))  # type: ignore[operator]
    else:
        image_ids = set()
        _LOG.info("%s has no method image_parameters: image_rate is not used", type(model).__name__)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = settings.image_rate if id(parameter) in image_ids else 1.0
            if id(parameter) in backbone_ids:
                rate *= settings.backbone_rate
            is_matrix = parameter.ndim > 1 and name.endswith("weight")
            groups.setdefault((rate, is_matrix), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * rate,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (rate, is_matrix), parameters in groups.items()
    ]


def _may_skip_weights(model: nn.Module) -> bool:
    """Whether a step may leave weights without a gradient, which DistributedDataParallel must then search for in every step.

    Our modules leave none, except in a model without a report. A backbone may have weights that its tokens do not depend on.
    """
    if not isinstance(model, AlignedFusionClassifier) or REPORT not in model.modalities:
        return True
    prefixes = ("alignedfusion.", "torch.nn.")
    return any(
        not type(module).__module__.startswith(prefixes) and any(p.requires_grad for p in module.parameters())
        for module in model.modules()
    )


def _metrics(prediction: Any, task: Task) -> dict[str, float]:
    logits, labels = torch.from_numpy(prediction.predictions).float(), torch.from_numpy(prediction.label_ids)
    is_known = task.is_known(labels)
    count = is_known.sum().clamp(min=1)
    if task.name == "regression":
        return {"mean_absolute_error": float((task.activate(logits) - labels)[is_known].abs().sum() / count)}
    return {
        "accuracy": float(((task.decide(logits) == labels) & is_known).sum() / count),
        "cross_entropy": float(task.losses(logits[:, None], labels).sum() / count),
    }


def _logits_only(outputs: Any, labels: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs
