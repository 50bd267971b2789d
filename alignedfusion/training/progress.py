"""The progress of training on the terminal: one bar over all steps, and one line per epoch."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback


class EpochLines(TrainerCallback):  # type: ignore[misc]
    """Shows a bar while training, and writes a line after each epoch: losses, accuracy and the time left."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.loss = float("nan")
        self.started = time.monotonic()
        self.first_epoch = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar, at the step from which an interrupted training continues."""
        self.started, self.first_epoch = time.monotonic(), float(state.epoch or 0)
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            leave=False,
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep the training loss of the epoch, and write the line if no evaluation follows."""
        if logs and "loss" in logs:
            self.loss = logs["loss"]
            if args.eval_strategy == "no":
                self._write(args, state, {})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Write the line of the epoch."""
        self._write(args, state, metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        self.bar.close()

    def _write(self, args: Any, state: Any, metrics: dict[str, float]) -> None:
        if state.is_world_process_zero:
            seconds = time.monotonic() - self.started
            left = seconds * (args.num_train_epochs - state.epoch) / max(state.epoch - self.first_epoch, 1e-9)
            self.bar.write(epoch_line(round(state.epoch), int(args.num_train_epochs), self.loss, metrics, left))


def epoch_line(epoch: int, epochs: int, loss: float, metrics: dict[str, float], seconds_left: float) -> str:
    """The line of one epoch.

    Args:
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs in all.
        loss: Mean training loss of the epoch.
        metrics: Validation metrics of the epoch, with the prefix "eval_"; empty without validation.
        seconds_left: Estimate of the time until the end of training.
    """
    words = [f"epoch {epoch:{len(str(epochs))}}/{epochs}", f"loss {loss:.3f}"]
    if "eval_loss" in metrics:
        words.append(f"validation loss {metrics['eval_loss']:.3f}")
    if "eval_accuracy" in metrics:
        words.append(f"accuracy {metrics['eval_accuracy']:.1%}")
    minutes, seconds = divmod(round(seconds_left), 60)
    words.append(f"{minutes}:{seconds:02} left")
    return "  ".join(words)
