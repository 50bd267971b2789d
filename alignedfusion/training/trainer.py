"""`transformers.Trainer` with parameter groups, and a loss that is the mean over the cases of all processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed

from alignedfusion.training.distributed import loss_over_processes

Groups = Callable[[nn.Module], list[dict[str, Any]]]


class CaseTrainer(Trainer):  # type: ignore[misc]
    """Trains with parameter groups that have their own learning rates.

    Args:
        model: The model. Under FSDP a copy is trained, because sharding cannot be undone; `finish` copies the weights back.
        groups: Function that returns the parameter groups of a model, as AdamW accepts them.
        settings: Arguments of `Trainer`.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, model: nn.Module, *, groups: Groups, **settings: Any) -> None:
        super().__init__(model=model, **settings)
        self._whole = model
        self._groups = groups
        if self.is_fsdp_enabled:
            self.model = self.model_wrapped = copy.deepcopy(model)
        self.remove_callback(PrinterCallback)
        self.add_callback(OwnRandomness())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW on the groups."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self._groups(self.model))
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training the loss over the cases of all processes, in evaluation the loss over those of this process."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        loss, outputs = loss_over_processes(self.accelerator, model, inputs)
        return (loss, outputs) if return_outputs else loss

    def finish(self) -> None:
        """Wait for all processes, and copy sharded weights back into the model."""
        self.accelerator.wait_for_everyone()
        if self.is_fsdp_enabled:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True))
            self._whole.load_state_dict(state)
            self._whole.to(self.accelerator.device)


class OwnRandomness(TrainerCallback):  # type: ignore[misc]
    """Seeds each process differently: with equal seeds, all processes would hide the same cells."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed the other processes after the order of cases, which must be the same in all processes, is drawn."""
        if args.process_index > 0:
            set_seed(args.seed + args.process_index)
