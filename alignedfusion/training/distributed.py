"""Training in several processes: the process that writes, and a loss that is the mean over the cases of all processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.reconstruction import reconstruction_loss


def num_processes() -> int:
    """How many processes `torchrun` or `accelerate launch` has started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return int(os.environ.get("RANK", 0)) == 0


def default_workers() -> int:
    """Processes that read images beside this one: one per CPU, eight at most; none on a machine without an accelerator.

    A GPU would wait for a single process. A CPU that also trains has no time left for others.
    """
    if not torch.accelerator.is_available():
        return 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cpus // num_processes())


def must_use_cpu() -> bool:
    """Whether several processes have been started on a machine without an accelerator.

    accelerate and transformers need this as an argument: otherwise each process trains by itself on all cases, without an
    error. `Accelerator(cpu=must_use_cpu())` is right on every machine.
    """
    return num_processes() > 1 and not torch.accelerator.is_available()


def check_sharding() -> None:
    """Refuse FSDP version 1, which flattens the weights: `parameter_groups` depends on their shapes."""
    version = os.environ.get("FSDP_VERSION", "1")  # set by `accelerate launch`
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and version != "2":
        raise ValueError(
            f"accelerate's configuration asks for FSDP version {version}; write `fsdp_version: 2` under its `fsdp_config`"
        )


def loss_over_processes(accelerator: Any, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """Run a training step's forward pass; the mean of its loss over processes is the loss of all their cases as one batch.

    Each process computes means over its own cases, and the mean of these means is a different number if the processes have
    different counts. Two counts differ: known labels, because accelerate fills the last batch of an epoch with repeated cases
    and labels may be unknown, and hidden cells, because reports are incomplete. All processes must call this function together.

    Args:
        accelerator: The `accelerate.Accelerator` that prepared model and loader.
        model: The model that `accelerator.prepare` returned.
        batch: The loader's current batch, as keyword arguments of the model.

    Returns:
        The loss to call `backward()` on, and the model's output for the rows of this process, without repeated ones.
    """
    if accelerator.num_processes == 1:
        output = model(**batch)
        return output["loss"], output

    size = len(batch["codes"])
    rows = _own_rows(accelerator, size)
    # A process without rows takes part all the same, with one row of weight zero.
    batch = batch if rows == size else {name: _first(value, max(rows, 1)) for name, value in batch.items()}
    plain = accelerator.unwrap_model(model)
    codes, is_hidden = _draw_hidden(plain, batch)
    cells = torch.zeros((), dtype=torch.int64, device=codes.device)
    if is_hidden is not None:
        batch, cells = {**batch, "is_hidden": is_hidden}, is_hidden.sum() * (rows > 0)

    known = _count_known(plain, batch["labels"]) * (rows > 0)
    counts = torch.stack([known, cells])
    all_known, all_cells = accelerator.reduce(counts, "sum").clamp(min=1)
    label_weight = accelerator.num_processes * known / all_known
    cell_weight = accelerator.num_processes * cells / all_cells

    output = model(**batch)
    loss = label_weight * output["loss"]
    if is_hidden is not None:
        # The loss above already has the mean over hidden cells, but with the weight of the labels.
        loss = loss + (cell_weight - label_weight) * reconstruction_loss(output["reconstruction"], codes, is_hidden)
    return loss, output


def _own_rows(accelerator: Any, size: int) -> int:
    """Number of this process's rows without those repeated to fill the last batch of an epoch, which come last."""
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return size
    return int(min(max(state.remainder - accelerator.process_index * size, 0), size))


def _draw_hidden(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The codes (B, A) of a batch and which of them are hidden (B, A); None if the model reconstructs nothing."""
    codes = batch["codes"]
    if not isinstance(model, AlignedFusionClassifier) or model.reconstructor is None:
        return codes, None
    codes = model.present_codes(codes, batch.get("is_present") or {})
    # Drawn here and not in the model: all processes need the number of hidden cells before the loss.
    return codes, model.hiding(codes, batch.get("is_hidden"))[1]


def _count_known(model: nn.Module, labels: Tensor) -> Tensor:
    """Number of the known labels of a batch, ()."""
    return (model.targets.is_known(labels) if isinstance(model, AlignedFusionClassifier) else labels >= 0).sum()


def _first(value: Any, rows: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _first(tensor, rows) for name, tensor in value.items()}
    return None if value is None else value[:rows]
