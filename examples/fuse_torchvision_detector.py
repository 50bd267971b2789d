"""Add report attributes to a trained torchvision detector and measure the gain.

Needs nothing but alignedfusion itself; four minutes on two cores.

python fuse_torchvision_detector.py

Each image has four discs of two similar kinds. The report mentions which kind is the lesion, or the ward that mostly has
lesions of this kind, or neither. A Faster R-CNN trained on images alone finds the discs and has to guess. Then two lines add
the attributes, and training continues; a copy without attributes is trained as long. The script prints the sensitivity of both
at half and at one false positive per image, and the gain with its 95 % interval, paired by image.
"""

import argparse
import copy
import itertools
import json
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from alignedfusion import UNKNOWN, Attribute, AttributeSchema, AttributeTokenizer
from alignedfusion.detection import FROC, FeatureMapFusion, FusedDetector, froc

SIZE, RADIUS, CORE = 96, 9, 4
FPPI = (0.5, 1.0)
BATCH_SIZE = 8
SCHEMA = AttributeSchema([Attribute("kind", values=("solid", "hollow")), Attribute("ward", values=("north", "south"))])


def draw(count: int, seed: int) -> tuple[list[torch.Tensor], list[dict], torch.Tensor]:
    """Images (3, 96, 96), targets with the boxes of the two lesions, and codes (count, 2) without gaps."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    kinds = torch.randint(2, (count,), generator=g)
    images, targets = [], []
    for kind in kinds.tolist():
        image = 0.3 * torch.randn(SIZE, SIZE, generator=g)
        quadrants = torch.randperm(4, generator=g).tolist()  # one disc in each, so that none covers another
        boxes = []
        for number, quadrant in enumerate(quadrants):
            row, column = (
                half * (SIZE // 2) + int(torch.randint(RADIUS, SIZE // 2 - RADIUS, (1,), generator=g))
                for half in divmod(quadrant, 2)
            )
            disc = (rows - row) ** 2 + (columns - column) ** 2 <= RADIUS**2
            is_lesion = number < 2
            image[disc] += 1.0
            if (kind == 1) == is_lesion:  # the others are of the other kind
                image[(rows - row) ** 2 + (columns - column) ** 2 <= CORE**2] -= 1.0
            if is_lesion:
                boxes.append([column - RADIUS, row - RADIUS, column + RADIUS + 1, row + RADIUS + 1])
        images.append(image.expand(3, -1, -1).contiguous())
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.ones(2, dtype=torch.int64)})
    agrees = torch.rand(count, generator=g) < 0.95
    return images, targets, torch.stack([kinds, torch.where(agrees, kinds, 1 - kinds)], dim=1)


def with_gaps(codes: torch.Tensor, rate: float, seed: int) -> torch.Tensor:
    """Set cells to unmentioned at random."""
    g = torch.Generator().manual_seed(seed)
    return codes.masked_fill(torch.rand(codes.shape, generator=g) < rate, UNKNOWN)


def small_detector() -> FasterRCNN:
    """Build a Faster R-CNN for a CPU. For real images, use `fasterrcnn_resnet50_fpn(weights="DEFAULT")`."""
    widths = (3, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        stride = 1 if after == before else 2
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = widths[-1]
    return FasterRCNN(
        backbone,
        num_classes=2,
        min_size=SIZE,
        max_size=SIZE,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(((2 * RADIUS + 1,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=2),
        rpn_pre_nms_top_n_train=64,
        rpn_post_nms_top_n_train=32,
        rpn_pre_nms_top_n_test=64,
        rpn_post_nms_top_n_test=32,
        box_batch_size_per_image=32,
        box_score_thresh=0.01,
        box_detections_per_img=20,
    )


def train(model: nn.Module, cases: tuple, epochs: int, rate: float, **named: torch.Tensor) -> None:
    """Train with any further keyword arguments of the model, each a tensor with one row per image."""
    images, targets = cases
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            batch = [images[i] for i in rows], [targets[i] for i in rows]
            losses = model(*batch, **{name: value[rows] for name, value in named.items()})
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"  epoch {epoch + 1}: loss {total * epochs / steps:.3f}")


@torch.no_grad()
def evaluate(model: nn.Module, cases: tuple, **named: torch.Tensor) -> FROC:
    """Sensitivity at each of FPPI, and what its interval needs."""
    images, targets = cases
    model.eval()
    found = []
    for rows in torch.arange(len(images)).split(50):
        found += model([images[i] for i in rows], **{name: value[rows] for name, value in named.items()})
    return froc(found, targets, fppi=FPPI)


def compare(results: dict[str, FROC], baseline: FROC) -> dict[str, dict]:
    """Sensitivities, gains over the baseline and their 95 % intervals, from resamples of the same images."""
    figures = {}
    for name, result in results.items():
        interval = result.interval(groups=range(result.num_images), minus=baseline)
        gain = [mine - theirs for mine, theirs in zip(result.sensitivity, baseline.sensitivity, strict=True)]
        figures[name] = {"sensitivity": result.sensitivity, "gain": gain, "low": interval.low, "high": interval.high}
    return figures


def show(figures: dict[str, dict]) -> None:
    """Print one row per experiment and number of false positives per image."""
    print(f"\n{'sensitivity':28}{'FPPI':>6}{'':8}{'gain over image only, 95 % interval':>40}")
    for name, row in figures.items():
        for point, value, gain, low, high in zip(FPPI, *row.values(), strict=True):
            difference = "" if name == "image only" else f"{gain:+.1%} ({low:+.1%} to {high:+.1%})"
            print(f"{name:28}{point:>6g}{value:>8.1%}{difference:>40}")


def main() -> None:
    """Train the detector alone, fuse it, train on, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="training images (default: 400)")
    parser.add_argument("--test-images", type=int, default=300, help="images of the comparison (default: 300)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the detector, and then of both (default: 10)")
    parser.add_argument("--missing", type=float, default=0.5, help="missing cells in training (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of the weights (default: 0)")
    parser.add_argument("--read", choices=("global", "pooled", "full"), default="global")
    parser.add_argument("-o", "--output", help="write the figures to this JSON file")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    *cases, codes = draw(options.images, seed=2 * options.seed)
    *tests, truth = draw(options.test_images, seed=2 * options.seed + 1)

    print("the detector alone")
    detector = small_detector()
    train(detector, cases, options.epochs, 2e-3)
    plain = copy.deepcopy(detector)
    print("continued without attributes")
    train(plain, cases, options.epochs, 2e-3)

    print("continued with report attributes")
    tokenizer = AttributeTokenizer(SCHEMA, dim=64)
    fusion = FeatureMapFusion.for_model(detector, tokenizer, at="backbone", example=tests[0][:1], read=options.read)
    model = FusedDetector(detector, fusion, at="backbone")
    train(model, cases, options.epochs, 2e-3, codes=with_gaps(codes, options.missing, seed=options.seed))

    ward_only = truth.clone()
    ward_only[:, 0] = UNKNOWN
    baseline = evaluate(plain, tests)
    shown = {f"{rate:.0%} of the cells missing": with_gaps(truth, rate, seed=options.seed) for rate in (0.0, 0.5, 1.0)}
    shown |= {"only the ward mentioned": ward_only, "attributes of another image": truth.roll(1, 0)}
    results = {"image only": baseline} | {name: evaluate(model, tests, codes=each) for name, each in shown.items()}
    figures = compare(results, baseline)
    show(figures)
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
