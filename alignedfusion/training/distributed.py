"""Several processes, one training: who writes, and a loss that is the mean over the cases of all of them."""

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


def must_use_cpu() -> bool:
    """Whether processes have been started on a machine without a GPU or the like.

    accelerate, and with it transformers, must be told: otherwise each process trains by itself on all cases, without a word.
    `Accelerator(cpu=must_use_cpu())` is right everywhere.
    """
    return num_processes() > 1 and not torch.accelerator.is_available()


def check_sharding() -> None:
    """Refuse sharding of a kind that loses the weights' shapes, by which they are trained."""
    version = os.environ.get("FSDP_VERSION", "1")  # as `accelerate launch` hands it on
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and version != "2":
        raise ValueError(
            f"accelerate's configuration asks for FSDP version {version}; write `fsdp_version: 2` under its `fsdp_config`"
        )


def loss_over_processes(accelerator: Any, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """Run a training step's forward pass; its loss, averaged over processes, is that of all their cases as one batch.

    Each process takes means over its own share, and the mean of means is another number wherever shares differ. Two
    do: rows, because accelerate fills the last batch of an epoch with cases it has already given, and hidden cells,
    because reports are incomplete. All processes must call this together.

    Args:
        accelerator: The `accelerate.Accelerator` that prepared model and loader.
        model: As `accelerator.prepare` gives it.
        batch: Arguments of the model's call, the loader's current batch.

    Returns:
        The loss to go back from, and what the model returned for this process's rows, repeated ones left out.
    """
    if accelerator.num_processes == 1:
        output = model(**batch)
        return output["loss"], output

    size = len(batch["codes"])
    rows = _own_rows(accelerator, size)
    # A process that has nothing left still takes part, with one row that counts for nothing.
    batch = batch if rows == size else {name: _first(value, max(rows, 1)) for name, value in batch.items()}
    plain = accelerator.unwrap_model(model)
    codes, is_hidden = _told_and_hidden(plain, batch)
    cells = torch.zeros((), dtype=torch.int64, device=codes.device)
    if is_hidden is not None:
        batch, cells = {**batch, "is_hidden": is_hidden}, is_hidden.sum() * (rows > 0)

    counts = torch.stack([cells.new_tensor(rows), cells])
    all_rows, all_cells = accelerator.reduce(counts, "sum").clamp(min=1)
    row_weight = accelerator.num_processes * rows / all_rows
    cell_weight = accelerator.num_processes * cells / all_cells

    output = model(**batch)
    loss = row_weight * output["loss"]
    if is_hidden is not None:
        # The loss above holds the mean over hidden cells already, at the weight of the rows.
        loss = loss + (cell_weight - row_weight) * reconstruction_loss(output["reconstruction"], codes, is_hidden)
    return loss, output


def _own_rows(accelerator: Any, size: int) -> int:
    """How many of this process's rows are not repeated to fill the last batch of an epoch; those come last."""
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return size
    return int(min(max(state.remainder - accelerator.process_index * size, 0), size))


def _told_and_hidden(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """What the reports of a batch mention (B, A), and which of that is hidden; None if the model reconstructs nothing."""
    codes = batch["codes"]
    if not isinstance(model, AlignedFusionClassifier) or model.reconstructor is None:
        return codes, None
    codes = model.present_codes(codes, batch.get("is_present") or {})
    # Drawn here and not in the model: all processes need the number of hidden cells before the loss.
    return codes, model.hiding(codes, batch.get("is_hidden"))[1]


def _first(value: Any, rows: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _first(each, rows) for name, each in value.items()}
    return None if value is None else value[:rows]
