"""Cost of fusion, reconstruction and heads in a training step on top of a ViT-S/16 at 224 pixels, and a profile of the step.

python benchmarks/training_step.py
python benchmarks/training_step.py --batch-size 64 --amp -o step.json   # bfloat16 autocast, for a GPU

"backbone" is the backbone with a linear head, trained on the class alone. The others are complete models with reconstruction
and unimodal heads: `presets.standard` (width 128, one round), and the README's (width 384, two rounds). A step is forward,
backward and AdamW. The models take turns, and the median of their time ratios within a repetition is printed. The last table
profiles a step on stored tokens of a frozen backbone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from alignedfusion import (
    AlignedFusionClassifier,
    Attribute,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.presets import Backbone, standard

BACKBONE, CLASSES, ATTRIBUTES = "vit_small_patch16_224", 5, 14
SCHEMA = AttributeSchema([Attribute(f"a{i}", values=("absent", "mild", "severe")) for i in range(ATTRIBUTES)])
NAMES = tuple(f"class {i}" for i in range(CLASSES))


class BackboneAlone(nn.Module):
    """The backbone with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(BACKBONE, num_classes=CLASSES)

    def forward(self, image: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        return nn.functional.cross_entropy(self.backbone(image), labels)


def wide() -> AlignedFusionClassifier:
    """The model of the README."""
    return AlignedFusionClassifier(
        VisualTokenizer(BACKBONE, 384, pretrained=False),
        AttributeTokenizer(SCHEMA, 384),
        IntermediateTokenFusion(384, depth=2, num_heads=6),
        MaskedTokenReconstructor(384),
        num_classes=CLASSES,
    )


MODELS = {
    "backbone": BackboneAlone,
    "standard": lambda: standard(SCHEMA, NAMES, backbone=Backbone(BACKBONE, pretrained=False, tune="whole")),
    "width 384, two rounds": wide,
}


class Step:
    """A model, its optimizer, and a batch."""

    def __init__(self, model: nn.Module, batch: dict[str, Tensor], amp: bool) -> None:
        self.model, self.batch = model.train(), batch
        self.device = batch["codes"].device.type
        self.amp = amp
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)

    def __call__(self) -> None:
        """Run forward, backward and AdamW."""
        cast = torch.autocast(self.device, torch.bfloat16) if self.amp else contextlib.nullcontext()
        with cast:
            out = self.model(**self.batch)
        loss = out if isinstance(out, Tensor) else out.loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def seconds(self) -> float:
        """Wall time of one step."""
        start = time.perf_counter()
        self()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def make_batch(image: Tensor) -> dict[str, Tensor]:
    """A batch with about a third of all cells unmentioned."""
    rows = len(image)
    return {
        "image": image,
        "codes": torch.randint(-1, 3, (rows, ATTRIBUTES), device=image.device).clamp(max=2),
        "labels": torch.randint(CLASSES, (rows,), device=image.device),
    }


def compare(batch_size: int, repetitions: int, device: str, amp: bool) -> list[dict[str, Any]]:
    """One row per model: seconds and the ratio to the backbone alone."""
    batch = make_batch(torch.randn(batch_size, 3, 224, 224, device=device))
    steps = {name: Step(build().to(device), batch, amp) for name, build in MODELS.items()}
    for step in steps.values():
        step.seconds()
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for _ in range(repetitions):
        order.append(order.pop(0))
        for name in order:
            times[name].append(steps[name].seconds())
    rows = []
    for name, seconds in times.items():
        low, ratio, high = statistics.quantiles([a / b for a, b in zip(seconds, times["backbone"], strict=True)], n=4)
        rows.append({"model": name, "seconds": statistics.median(seconds), "ratio": ratio, "quartiles": [low, high]})
    return rows


def profile_stored_tokens(batch_size: int, device: str, steps: int = 20) -> dict[str, float]:
    """Milliseconds of a step of `presets.standard` on stored tokens: in total, in each kind of kernel, and in Python."""
    model = standard(SCHEMA, NAMES, backbone=None, num_features=384).to(device)
    step = Step(model, make_batch(torch.randn(batch_size, 49, 384, device=device)), amp=False)
    for _ in range(3):
        step()
    wall = statistics.median(step.seconds() for _ in range(steps))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    kinds = {
        "matrix products": ("mm", "linear", "bmm"),
        "attention": ("attention",),
        "optimizer": ("adam", "foreach", "lerp", "addcmul", "addcdiv"),
        "norms, GELU, dropout": ("layer_norm", "gelu", "dropout", "bernoulli"),
    }
    spent = dict.fromkeys([*kinds, "other operations"], 0.0)
    for event in profiler.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in kinds.items() if any(word in name for word in words)), "other operations")
        if name.startswith("aten::"):
            own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
            spent[kind] += own / 1e3 / steps
    return {"a step": 1e3 * wall, **spent, "Python and dispatch": max(0.0, 1e3 * wall - sum(spent.values()))}


def main() -> None:
    """Measure, print the results and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file to write the results to")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = compare(options.batch_size, options.repetitions, options.device, options.amp)
    print(f"training step, {BACKBONE}, batch {options.batch_size}, {options.device}")
    for row in rows:
        spread = "{:.3f} .. {:.3f}".format(*row["quartiles"])
        print(f"{row['model']:26}{1e3 * row['seconds']:10.1f} ms{row['ratio']:8.3f}  ({spread})")
    spent = profile_stored_tokens(32, options.device)
    print("\nstep of the standard model on stored tokens, 32 x 49 x 384, ms")
    for name, milliseconds in spent.items():
        print(f"{name:26}{milliseconds:10.2f}{milliseconds / spent['a step']:8.0%}")
    if options.output:
        options.output.write_text(json.dumps({"steps": rows, "stored tokens": spent}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
