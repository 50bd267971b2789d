"""Two kinds of images and a report: a photograph, an ultrasound that a third of the cases lack, an incomplete report.

Needs nothing but alignedfusion itself; about a minute on two cores.

python three_modalities.py

Each kind of image has its own visual module. An absent image is zeros in the batch and is marked in `is_present`. It then has
no influence, in training and in prediction.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from alignedfusion import (
    AlignedFusionClassifier,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.datasets import phantom

TRAINING_CASES, TEST_CASES = 1000, 500
EPOCHS, BATCH_SIZE, LEARNING_RATE = 10, 64, 1e-3
DIM, IMAGE_SIZE = 96, 64
SHARES = {"photo": 0.9, "ultrasound": 0.67}  # share of the training cases with such an image
DEPTH = np.array([0.15, 0.25, 0.40, 0.55])  # depth of a lesion of each class, as a share of the image height


def ultrasounds(labels: Tensor, seed: int) -> Tensor:
    """Drawn ultrasound images (n, 1, size, size): speckle, and a dark lesion whose depth depends on the class."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : IMAGE_SIZE * 1j, -1 : 1 : IMAGE_SIZE * 1j]
    depth = rng.normal(DEPTH[labels.numpy()], 0.14)[:, None, None]
    edge = depth * (1 - (x - rng.uniform(-0.3, 0.3, (len(labels), 1, 1))) ** 2)
    pixels = np.where(y < edge, 0.3, 0.7) * rng.gamma(8.0, 1 / 8.0, (len(labels), IMAGE_SIZE, IMAGE_SIZE))
    return torch.from_numpy(pixels - 0.5).float()[:, None]


def draw(count: int, seed: int, shares: dict[str, float]) -> dict[str, object]:
    """Arguments of the model's call; a fifth of the attributes is unmentioned."""
    drawn = phantom.make(count, seed=seed, image_size=IMAGE_SIZE, missing=0.2)
    photo = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (n, 3, size, size)
    images = {"photo": photo, "ultrasound": ultrasounds(drawn.labels, seed)}
    g = torch.Generator().manual_seed(seed)
    is_present = {name: torch.rand(count, generator=g) < share for name, share in shares.items()}
    for name, mask in is_present.items():
        images[name][~mask] = 0.0  # any finite value has the same effect
    return {"image": images, "codes": drawn.codes, "labels": drawn.labels, "is_present": is_present}


def take(cases: object, rows: Tensor) -> object:
    """Some rows of nested tensors."""
    return {name: take(value, rows) for name, value in cases.items()} if isinstance(cases, dict) else cases[rows]


def build() -> AlignedFusionClassifier:
    """Three modalities: one intermediate token for each of the three pairs."""
    torch.manual_seed(0)
    photo = VisualTokenizer("test_vit", DIM, pretrained=False, image_size=IMAGE_SIZE)
    # Any module that turns images into tokens (B, N, D); here three convolutions, with one token per 8 x 8 pixels.
    ultrasound = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 4, stride=4),
        torch.nn.GELU(),
        torch.nn.Conv2d(32, 64, 2, stride=2),
        torch.nn.GELU(),
        torch.nn.Conv2d(64, DIM, 3, padding=1),  # (B, D, 8, 8)
        torch.nn.Flatten(2),
        Transposed(),  # (B, 64, D)
    )
    return AlignedFusionClassifier(
        {"photo": photo, "ultrasound": ultrasound},
        AttributeTokenizer(phantom.SCHEMA, DIM),
        IntermediateTokenFusion(DIM, modalities=("photo", "ultrasound", "report"), depth=1, num_heads=4),
        MaskedTokenReconstructor(DIM),
        num_classes=len(phantom.CLASS_NAMES),
        class_names=phantom.CLASS_NAMES,
    )


class Transposed(torch.nn.Module):
    """From (B, D, N) to (B, N, D)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Swap the last two dimensions."""
        return maps.transpose(1, 2)


@torch.no_grad()
def accuracy(model: AlignedFusionClassifier, cases: dict, withheld: tuple[str, ...]) -> float:
    """Accuracy with some modalities withheld from all cases."""
    absent = torch.zeros(len(cases["labels"]), dtype=torch.bool)
    is_present = {**cases["is_present"], **dict.fromkeys(withheld, absent)}
    logits = model(cases["image"], cases["codes"], is_present=is_present).logits
    return (logits.argmax(1) == cases["labels"]).float().mean().item()


def main() -> None:
    """Train, and test with and without each modality."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=TRAINING_CASES, help=f"default: {TRAINING_CASES}")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    options = parser.parse_args()
    model = build()
    train, test = draw(options.cases, 0, SHARES), draw(TEST_CASES, 1, {})

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = options.epochs * -(-options.cases // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(options.epochs):
        total = 0.0
        for rows in torch.randperm(options.cases).split(BATCH_SIZE):
            loss = model(**take(train, rows)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / options.cases:.2f}")

    model.eval()
    print(f"\n{'withheld':32}accuracy on {TEST_CASES} test cases")
    for withheld in ((), ("ultrasound",), ("photo",), ("report",), ("photo", "ultrasound"), ("ultrasound", "report")):
        print(f"{' and '.join(withheld) or 'nothing':32}{accuracy(model, test, withheld):.1%}")


if __name__ == "__main__":
    main()
