"""Table 3 of the paper: A3D and A3D with report attributes on DeepLesion, at 25, 50 and 100 % of the training patients.

Needs matplotlib (alignedfusion[train]). Synthetic slices take a minute; DeepLesion is HEAVY and needs a GPU.

python train_a3d_deeplesion.py                                     # synthetic slices, whose figures mean nothing
python train_a3d_deeplesion.py --data DeepLesion --epochs 20 --batch-size 8 --weights densenet121.pth

--data is a folder in NIH's layout: DL_info.csv and Images_png/. After each run, its weights, froc.json and froc.png are written
to OUT.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from alignedfusion import AttributeTokenizer
from alignedfusion.datasets import deeplesion
from alignedfusion.detection import FeatureMapFusion, FusedDetector, a3d_detector, froc, plot_froc

RATE, MOMENTUM, DECAY, CLIP = 0.02, 0.9, 1e-4, 35.0  # as in the public A3D code; the rate is for a batch of 16
WARM_UP, DROPS = 500, (9 / 20, 16 / 20)
FPPI = (0.5, 1, 2)


def train(model: nn.Module, cases: deeplesion.LesionCases, options: argparse.Namespace, device: str) -> None:
    """SGD with warm-up and two drops."""
    loader = DataLoader(
        cases, options.batch_size, shuffle=True, collate_fn=deeplesion.collate, num_workers=options.workers
    )
    steps = options.epochs * len(loader)
    optimizer = torch.optim.SGD(model.parameters(), RATE * options.batch_size / 16, MOMENTUM, weight_decay=DECAY)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / min(WARM_UP, steps / 10 + 1)) * 0.1 ** sum(step >= drop * steps for drop in DROPS)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    bar = tqdm(total=steps, unit="step")
    for _ in range(options.epochs):
        for batch in loader:
            targets = [{name: value.to(device) for name, value in target.items()} for target in batch["targets"]]
            losses = run(model, batch, device, targets)
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            bar.update()
    bar.close()


def run(model: nn.Module, batch: dict, device: str, targets: list | None = None) -> object:
    """Call the detector, with codes if it is fused."""
    images = list(batch["image"].to(device))
    if isinstance(model, FusedDetector):
        return model(images, targets, codes=batch["codes"].to(device))
    return model(images, targets)


@torch.no_grad()
def test(model: nn.Module, cases: deeplesion.LesionCases, options: argparse.Namespace, device: str) -> object:
    """FROC over the test slices, with a bootstrap interval over patients."""
    model.eval()
    found, lesions, patients = [], [], []
    for batch in DataLoader(cases, options.batch_size, collate_fn=deeplesion.collate, num_workers=options.workers):
        found += [{name: value.cpu() for name, value in each.items()} for each in run(model, batch, device)]
        lesions += batch["targets"]
        patients += batch["patient"].tolist()
    return froc(found, lesions, fppi=FPPI), patients


def build(fused: bool, schema: object, example: torch.Tensor, options: argparse.Namespace) -> nn.Module:
    """A3D, or A3D with attributes."""
    torch.manual_seed(options.seed)
    sizes = {} if options.data else {"anchor_sizes": (16, 24), "head_width": 256}
    detector = a3d_detector(num_slices=options.slices, pretrained=options.weights or False, **sizes)
    if not fused:
        return detector
    tokenizer = AttributeTokenizer(schema, dim=options.dim)
    fusion = FeatureMapFusion.for_model(detector, tokenizer, at="backbone", example=[example])
    return FusedDetector(detector, fusion, at="backbone")


def main() -> None:
    """Train and test each fraction with both models, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of DeepLesion (default: synthetic slices)")
    parser.add_argument("-o", "--output", type=Path, default=Path("a3d_deeplesion"), metavar="OUT")
    parser.add_argument(
        "--fractions", type=float, nargs="+", help="shares of the patients (default: 0.25 0.5 1; synthetic: 1)"
    )
    parser.add_argument(
        "--source", choices=deeplesion.ATTRIBUTES, default="patient", help="attributes; annotation adds leaks"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--slices", type=int, default=7)
    parser.add_argument("--image-size", type=int, help="longer side in pixels (default: 512; synthetic: 64)")
    parser.add_argument("--dim", type=int, default=256, help="width of the tokens")
    parser.add_argument("--weights", help="file with 2-D DenseNet-121 weights of timm to start from")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("this example needs matplotlib: pip install 'alignedfusion[train]'")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.data or deeplesion.make_synthetic(scratch, patients=14, image_size=64)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            data = deeplesion.load(folder, source=options.source)
        sizes = {"num_slices": options.slices, "image_size": options.image_size or (512 if options.data else 64)}
        results, curves = {}, {}
        for fraction in options.fractions or ((0.25, 0.5, 1.0) if options.data else (1.0,)):
            training = data.split("train", fraction=fraction, seed=options.seed)
            schema = data.schema(training)
            cases = deeplesion.LesionCases(data, training, schema, **sizes)
            tests = deeplesion.LesionCases(data, data.split("test"), schema, **sizes)
            for name in ("A3D", "A3D + ours"):
                title = f"{name}, {fraction:.0%}"
                print(f"\n{title}: {len(cases)} training slices, {len(tests)} test slices")
                model = build(name != "A3D", schema, cases[0]["image"], options).to(device)
                train(model, cases, options, device)
                options.output.mkdir(parents=True, exist_ok=True)
                torch.save(model.state_dict(), options.output / f"{title.replace(', ', '-').replace(' ', '')}.pt")
                curve, patients = test(model, tests, options, device)
                interval = curve.interval(groups=patients)
                curves[title] = curve
                results[title] = {"sensitivity": curve.sensitivity, "mean": curve.mean, "interval": interval.mean}
                (options.output / "froc.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
                kind = "DeepLesion" if options.data else "synthetic slices"
                plot_froc(curves, options.output / "froc.png", title=kind)

    print(f"\n{'sensitivity, %':20}" + "".join(f"{f'{value:g} FPPI':>11}" for value in FPPI) + f"{'mean (95 %)':>22}")
    for title, row in results.items():
        low, high = (100 * value for value in row["interval"])
        cells = "".join(f"{100 * value:11.1f}" for value in row["sensitivity"])
        print(f"{title:20}{cells}{100 * row['mean']:10.1f} ({low:.1f} to {high:.1f})")
    print(f"\n{options.output} holds froc.json, froc.png and the weights")


if __name__ == "__main__":
    main()
