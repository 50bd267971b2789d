"""Your own backbone and your own head: predict a number, here the age, from an image and an incomplete report.

Needs nothing but alignedfusion itself; half a minute on two cores.

python own_backbone_and_head.py

The backbone is a plain torch module, and the head reads the fused tokens. Between them are parts of the library that any model
can use: attribute tokens, fusion, and reconstruction of unmentioned attributes. If you need only your own backbone, pass it as
`visual` to AlignedFusionClassifier.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion import (
    UNKNOWN,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    hide_attributes,
    reconstruction_loss,
)
from alignedfusion.datasets import phantom
from alignedfusion.datasets.missingness import drop_attributes

TRAINING_CASES, TEST_CASES = 1000, 500
EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 64, 2e-3
DIM, IMAGE_SIZE = 64, 48
SCHEMA = AttributeSchema(attribute for attribute in phantom.SCHEMA if attribute.name != "age")  # the age is the target


class OwnBackbone(nn.Module):
    """Images (B, 3, H, W) to tokens (B, N, D), the only requirement on a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.GroupNorm(4, 24),
            nn.GELU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.GroupNorm(4, 48),
            nn.GELU(),
            nn.Conv2d(48, DIM, 3, stride=2, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode images."""
        return self.layers(image).flatten(2).transpose(1, 2)  # (B, N, D)


class Output(NamedTuple):
    """Age in years (B,), and logits (B, A, V_max) over the values of every attribute."""

    age: Tensor
    reconstruction: Tensor


class AgeModel(nn.Module):
    """Own backbone, fusion, own head."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation  # of the training ages; the head predicts a standardized age
        self.backbone = OwnBackbone()
        self.tokenizer = AttributeTokenizer(SCHEMA, DIM)
        self.fusion = IntermediateTokenFusion(DIM, modalities=("image", "report"), depth=2, num_heads=4)
        self.reconstructor = MaskedTokenReconstructor(DIM)
        self.head = nn.Sequential(nn.LayerNorm(3 * DIM), nn.Linear(3 * DIM, DIM), nn.GELU(), nn.Linear(DIM, 1))

    def forward(self, image: Tensor, codes: Tensor) -> Output:
        """Predict from images (B, 3, H, W) and codes (B, A)."""
        values = self.tokenizer.value_tokens()  # (V, D)
        fused = self.fusion({"image": self.backbone(image), "report": self.tokenizer(codes, values=values)})

        # The expected token replaces the token of each unmentioned attribute.
        rebuilt = self.reconstructor(fused.tokens["report"], values, SCHEMA)
        report = torch.where((codes == UNKNOWN)[..., None], rebuilt.tokens, fused.tokens["report"])  # (B, A, D)

        pooled = torch.cat([fused.tokens["image"].mean(1), report.mean(1), fused.intermediate.mean(1)], dim=1)
        return Output(self.mean + self.deviation * self.head(pooled)[:, 0], rebuilt.logits)


def draw(count: int, seed: int, missing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, size, size), codes (n, A) without the age, and ages in years (n,)."""
    drawn = phantom.make(count, seed=seed, image_size=IMAGE_SIZE)
    codes = SCHEMA.encode([{name: row[name] for name in SCHEMA.names} for row in drawn.rows])
    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return (
        images,
        drop_attributes(codes, missing, SCHEMA, seed=seed),
        torch.tensor([float(r["age"]) for r in drawn.rows]),
    )


def main() -> None:
    """Train, and compare the error with that of a constant prediction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=TRAINING_CASES, help=f"default: {TRAINING_CASES}")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    options = parser.parse_args()
    torch.manual_seed(0)
    images, codes, ages = draw(options.cases, seed=0, missing=0.2)
    test_images, test_codes, test_ages = draw(TEST_CASES, seed=1, missing=0.0)

    model = AgeModel(ages.mean().item(), ages.std().item())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = options.epochs * -(-len(ages) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(options.epochs):
        total = 0.0
        for rows in torch.randperm(len(ages)).split(BATCH_SIZE):
            # Some mentioned attributes are hidden; the model reconstructs them from the image and the others.
            visible, is_hidden = hide_attributes(codes[rows], p=0.3)
            out = model(images[rows], visible)
            error = F.l1_loss(out.age, ages[rows])
            loss = error + reconstruction_loss(out.reconstruction, codes[rows], is_hidden)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += error.item() * len(rows)
        print(f"epoch {epoch + 1}: mean error {total / len(ages):.2f} years")

    model.eval()
    constant = (test_ages - ages.median()).abs().mean().item()
    print(f"\n{'':28}mean error, {TEST_CASES} test cases\n{'always the median':28}{constant:.2f} years")
    for rate in (0.0, 0.5, 1.0):
        with torch.no_grad():
            out = model(test_images, drop_attributes(test_codes, rate, SCHEMA, seed=2))
        print(f"{f'{rate:.0%} of the report missing':28}{(out.age - test_ages).abs().mean().item():.2f} years")


if __name__ == "__main__":
    main()
