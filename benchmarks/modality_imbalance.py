"""One joint loss against a loss per head: how well the image branch is trained when the report explains the training cases.

python benchmarks/modality_imbalance.py -o docs/modality-imbalance.png

Drawn lesions with complete reports. The same model is trained twice, once with the cross-entropy of the summed branches and
once with its own loss, which has a term per head. A third model gets the images alone. Needs matplotlib.
"""

import argparse

import torch
import torch.nn.functional as F

from alignedfusion import AlignedFusionClassifier
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.presets import Backbone, standard

TRAINING_CASES, TEST_CASES = 800, 800
EPOCHS, BATCH_SIZE, LEARNING_RATE, IMAGE_SIZE = 15, 64, 1e-3, 64
JOINT, PER_HEAD, ALONE = "one joint loss", "a loss per head", "image without report"


def build() -> AlignedFusionClassifier:
    """The standard model on images of drawn lesions, without hiding: reconstruction has no loss then."""
    backbone = Backbone("test_vit", pretrained=False, tune="whole", image_size=IMAGE_SIZE)
    model = standard(phantom.SCHEMA, phantom.CLASS_NAMES, backbone=backbone)
    model.hiding = HideAttributes(0.0)
    return model


def image_logits(model: AlignedFusionClassifier, contributions: torch.Tensor) -> torch.Tensor:
    """The logits (B, C) of the image branch alone."""
    return model.log_prior + contributions[:, model.branches.index("image")]


def train(kind: str, cases: TensorCases, test: TensorCases, epochs: int) -> list[tuple[float, float]]:
    """For each epoch, the mean length of the gradient p - y at the image branch, and its accuracy on test cases."""
    torch.manual_seed(0)
    model = build()
    codes = torch.full_like(cases.codes, -1) if kind == ALONE else cases.codes
    test_codes = torch.full_like(test.codes, -1) if kind == ALONE else test.codes
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(cases) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    rows = []
    for _ in range(epochs):
        model.train()
        lengths = []
        for batch in torch.randperm(len(cases)).split(BATCH_SIZE):
            labels = cases.labels[batch]
            out = model(cases.image[batch], codes[batch], labels=labels)
            loss = F.cross_entropy(out.logits, labels) if kind == JOINT else out.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            # The cross-entropy of logits has the gradient p - y at each of their summands.
            logits = out.logits if kind == JOINT else image_logits(model, out.contributions)
            lengths.append((logits.softmax(-1) - F.one_hot(labels, logits.shape[1])).norm(dim=1).detach())
        model.eval()
        with torch.no_grad():
            found = [model(test.image[i], test_codes[i]).contributions for i in torch.arange(len(test)).split(250)]
        is_right = image_logits(model, torch.cat(found)).argmax(1) == test.labels
        rows.append((torch.cat(lengths).mean().item(), is_right.float().mean().item()))
    return rows


def plot(results: dict[str, list[tuple[float, float]]], path: str) -> None:
    """Both quantities against the epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    titles = ("gradient at the image branch, training cases", "accuracy of the image branch alone, test cases (%)")
    for column, (axes, title) in enumerate(zip(figure.subplots(1, 2), titles, strict=True)):
        for name, rows in results.items():
            values = [(1, 100)[column] * row[column] for row in rows]
            style = "--" if name == ALONE else "-"
            axes.plot(range(1, len(rows) + 1), values, style, label=name, linewidth=2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train the three models, print the last epoch of each, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="the figure, such as docs/modality-imbalance.png")
    parser.add_argument("--cases", type=int, default=TRAINING_CASES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    scale = {name: build().visual.preprocessing[name] for name in ("mean", "std")}
    cases = phantom.make(options.cases, seed=0, image_size=IMAGE_SIZE).cases(**scale)
    test = phantom.make(TEST_CASES, seed=1, image_size=IMAGE_SIZE).cases(**scale)
    results = {name: train(name, cases, test, options.epochs) for name in (JOINT, PER_HEAD, ALONE)}
    print(f"{'after the last epoch':24}{'gradient':>12}{'accuracy of the image branch':>32}")
    for name, rows in results.items():
        print(f"{name:24}{rows[-1][0]:12.3f}{rows[-1][1]:32.1%}")
    plot(results, options.output)


if __name__ == "__main__":
    main()
