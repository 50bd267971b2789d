"""Train a classifier on images and incomplete attributes, with transformers.Trainer or in a plain PyTorch loop.

Needs alignedfusion[train]; half a minute on two cores.

python train_classifier.py              # transformers.Trainer: checkpoints, resume, mixed precision
python train_classifier.py --loop plain # a loop of ten lines
torchrun --nproc_per_node 2 train_classifier.py [--loop plain] # two processes, on GPUs or a CPU
"""

import argparse
import tempfile
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from alignedfusion import AlignedFusionClassifier
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import missing_sweep, table
from alignedfusion.presets import Backbone, standard
from alignedfusion.training import TrainingSettings, fit, parameter_groups
from alignedfusion.training.distributed import is_main_process, loss_over_processes, must_use_cpu

BACKBONE = "test_vit"  # a tiny backbone; for real images use vit_small_patch16_224 with pretrained=True
IMAGE_SIZE = 64
BATCH_SIZE = 64  # per process
LEARNING_RATE = 1e-3
# This backbone starts from random weights: leave out the last two arguments for a pretrained one.
SETTINGS = TrainingSettings(batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, image_rate=1.0, backbone_rate=1.0)


def train_plainly(model: AlignedFusionClassifier, train: TensorCases, epochs: int) -> None:
    """Train without Trainer, in one process or several."""
    accelerator = Accelerator(cpu=must_use_cpu())
    torch.manual_seed(accelerator.process_index)  # each process hides different cells
    model.set_class_counts(train.labels.bincount(minlength=model.num_classes))
    optimizer = torch.optim.AdamW(parameter_groups(model, SETTINGS))
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(train, BATCH_SIZE, shuffle=True))
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=epochs * len(loader))

    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in loader:
            loss, _ = loss_over_processes(accelerator, model, batch)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}")


def main() -> None:
    """Train on drawn lesions, save, load, and test on other lesions with missing attributes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=("trainer", "plain"), default="trainer")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cases", type=int, default=1000, help="training cases (default: 1000)")
    parser.add_argument("-o", "--output", help="keep the model in this folder")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = standard(
        phantom.SCHEMA,
        phantom.CLASS_NAMES,
        backbone=Backbone(BACKBONE, pretrained=False, tune="whole", image_size=IMAGE_SIZE),
        dim=128,
    )
    scale = {name: model.visual.preprocessing[name] for name in ("mean", "std")}
    # Training reports are incomplete too: a fifth of their cells is unmentioned.
    train = phantom.make(options.cases, seed=0, image_size=IMAGE_SIZE, missing=0.2).cases(**scale)
    test = phantom.make(500, seed=1, image_size=IMAGE_SIZE).cases(**scale)

    if options.loop == "plain":
        train_plainly(model, train, options.epochs)
    else:
        with tempfile.TemporaryDirectory() as checkpoints:
            fit(model, train, None, checkpoints, replace(SETTINGS, epochs=options.epochs))

    if not is_main_process():
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or scratch
        model.save_pretrained(folder)
        model = AlignedFusionClassifier.from_pretrained(folder)
    print(table(missing_sweep(model, test, model.schema)))


if __name__ == "__main__":
    main()
