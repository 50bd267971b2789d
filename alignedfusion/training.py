"""Training with `transformers.Trainer`: progress bar, checkpoints, resume, mixed precision and several devices come with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from alignedfusion.datasets.cases import collate
from alignedfusion.tokenizers import VisualTokenizer


def fit(
    model: nn.Module,
    train: Dataset[Any],
    valid: Dataset[Any] | None,
    folder: str | Path,
    *,
    epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    backbone_rate: float = 0.1,
    weight_decay: float = 0.05,
    workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a model in place.

    With validation cases, each epoch is evaluated and checkpointed in `folder`, an interrupted call goes on from the last
    epoch, and the weights of the epoch with the lowest validation loss are kept. Without, the last weights are.

    Args:
        model: An `AlignedFusionClassifier`, or any model with its call.
        train: Cases as `alignedfusion.datasets.cases` gives them.
        valid: Cases, or None.
        folder: Where checkpoints lie until the training ends.
        epochs: Passes over the training cases.
        batch_size: Cases per step and device.
        learning_rate: Peak rate, after a warm-up over a tenth of the steps; then it falls to zero along a cosine.
        backbone_rate: A backbone's learning rate relative to that: small for a pretrained one, 1 for one that starts at random.
        weight_decay: AdamW's, on weight matrices only.
        workers: Processes that read images.
        seed: Of order, hiding and dropout. Initial weights are drawn before, with the model.
        progress: Show a progress bar.

    Returns:
        The log: one entry per epoch of training, one per evaluation.
    """
    from transformers import Trainer, TrainingArguments

    folder = Path(folder)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, epochs * -(-len(train) // batch_size) // 10),  # type: ignore[arg-type]
        max_grad_norm=1.0,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        eval_strategy="no" if valid is None else "epoch",
        save_strategy="no" if valid is None else "epoch",
        save_total_limit=1,
        load_best_model_at_end=valid is not None,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_strategy="epoch",
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not progress,
        log_level="error",
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=collate,
        compute_metrics=None if valid is None else _accuracy,
        preprocess_logits_for_metrics=_logits_only,
        optimizers=(torch.optim.AdamW(parameter_groups(model, learning_rate, weight_decay, backbone_rate)), None),
    )
    if not progress:
        _silence(trainer)
    trainer.train(resume_from_checkpoint=bool(find_checkpoints(folder)) and valid is not None)
    for checkpoint in find_checkpoints(folder):
        shutil.rmtree(checkpoint)
    log: list[dict[str, float]] = trainer.state.log_history
    return log


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of an unfinished training."""
    return sorted(folder.glob("checkpoint-*"))


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, backbone_rate: float = 0.1
) -> list[dict[str, Any]]:
    """Groups for an optimizer: no decay of vectors (norms, biases, learned tokens), a rate of their own for backbones."""
    backbones = [m.backbone for m in model.modules() if isinstance(m, VisualTokenizer) and m.backbone is not None]
    of_backbone = {id(p) for backbone in backbones for p in backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1 and name.endswith("weight")
            groups.setdefault((id(parameter) in of_backbone, is_matrix), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (backbone_rate if is_backbone else 1.0),
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (is_backbone, is_matrix), parameters in groups.items()
    ]


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def _logits_only(outputs: Any, labels: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _silence(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
