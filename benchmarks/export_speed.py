"""A model in PyTorch, as an ONNX file, and as an ONNX file with 8-bit integers, on a CPU: time, size and accuracy.

python benchmarks/export_speed.py                       # three backbones, batches of one and of sixteen cases
python benchmarks/export_speed.py --demo demo/model     # also the accuracy of the model that `alignedfusion demo` saved

The backbones have random weights, on which the time does not depend. The runtimes take turns, and the median time of each is
printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from alignedfusion import AlignedFusionClassifier, Attribute, AttributeSchema
from alignedfusion.datasets import phantom
from alignedfusion.deployment.export import to_onnx
from alignedfusion.presets import Backbone, standard

BACKBONES = ("vit_small_patch16_224", "swin_tiny_patch4_window7_224", "efficientnet_lite0")
ATTRIBUTES = 14
KINDS = ("PyTorch", "compiled", "ONNX", "ONNX int8")


def build(backbone: str) -> AlignedFusionClassifier:
    """The standard model with random weights."""
    torch.manual_seed(0)
    schema = AttributeSchema([Attribute(f"a{i}", values=("no", "yes")) for i in range(ATTRIBUTES)])
    return standard(schema, [f"class {i}" for i in range(5)], backbone=Backbone(backbone, pretrained=False)).eval()


def session(file: Path) -> onnxruntime.InferenceSession:
    """An ONNX session with as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning threads would slow the next runtime
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def probabilities(
    runtime: onnxruntime.InferenceSession, image: torch.Tensor, codes: torch.Tensor, batch: int = 50
) -> np.ndarray:
    """Probabilities (n, C) of an ONNX model for cases with one image each."""
    batches = []
    for pixels, rows in zip(image.split(batch), codes.split(batch), strict=True):
        inputs = {"image": pixels.numpy(), "codes": rows.numpy(), "is_present_image": np.ones(len(rows), dtype=bool)}
        batches.append(runtime.run(["probabilities"], inputs)[0])
    return np.concatenate(batches)


def in_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, without the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def speed(backbone: str, batches: list[int], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Seconds of a forward pass by batch size, and megabytes of the files."""
    model = build(backbone)
    files = {"ONNX": folder / "model.onnx", "ONNX int8": folder / "int8.onnx"}
    for name, file in files.items():
        to_onnx(model, file, quantize=name == "ONNX int8")
    runtimes = {name: session(file) for name, file in files.items()}
    compiled = torch.compile(model)
    size = model.visuals["image"].preprocessing["input_size"]
    rows = []
    for batch in batches:
        image, codes = torch.randn(batch, *size), torch.randint(-1, 2, (batch, ATTRIBUTES))
        is_present = {"image": torch.ones(batch, dtype=torch.bool)}

        def torch_run(module: Any, image: Any = image, codes: Any = codes, is_present: Any = is_present) -> None:
            with torch.inference_mode():
                module(image, codes, is_present=is_present)

        runs: dict[str, Callable[[], Any]] = {
            "PyTorch": lambda run=torch_run: run(model),
            "compiled": lambda run=torch_run: run(compiled),
            **{
                name: lambda runtime=runtime, image=image, codes=codes, batch=batch: probabilities(
                    runtime, image, codes, batch
                )
                for name, runtime in runtimes.items()
            },
        }
        rows.append({"backbone": backbone, "batch": batch, "seconds": in_turns(runs, repeats)})
    megabytes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
    return [{**row, "megabytes": megabytes} for row in rows]


def accuracy(folder: Path, scratch: Path, cases: int) -> dict[str, Any]:
    """Accuracy of a saved model on drawn lesions with a quarter of the attributes missing, in float32 and in int8."""
    model = AlignedFusionClassifier.from_pretrained(folder)
    visual = model.visuals["image"]
    scale = {name: visual.preprocessing[name] for name in ("mean", "std")}
    test = phantom.make(cases, seed=77, image_size=visual.preprocessing["input_size"][-1], missing=0.25).cases(**scale)
    predicted = {}
    for name in ("ONNX", "ONNX int8"):
        to_onnx(model, scratch / "demo.onnx", quantize=name == "ONNX int8")
        predicted[name] = probabilities(session(scratch / "demo.onnx"), test.image, test.codes)
    difference = np.abs(predicted["ONNX"] - predicted["ONNX int8"]).max(1)
    return {
        "cases": cases,
        "accuracy": {name: float((p.argmax(1) == test.labels.numpy()).mean()) for name, p in predicted.items()},
        "other class": float((predicted["ONNX"].argmax(1) != predicted["ONNX int8"].argmax(1)).mean()),
        "difference": {"median": float(np.median(difference)), "99 %": float(np.quantile(difference, 0.99))},
    }


def main() -> None:
    """Measure all runtimes, print the results and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME", help="timm models")
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 16], metavar="B", help="batch sizes (default: 1 16)"
    )
    parser.add_argument("--repeats", type=int, default=15, help="number of timed passes (default: 15)")
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="model that `alignedfusion demo` saved")
    parser.add_argument("--cases", type=int, default=2000, help="drawn lesions to test --demo on (default: 2000)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file to write the results to")
    options = parser.parse_args()

    results: dict[str, Any] = {"threads": torch.get_num_threads(), "speed": []}
    print(f"{torch.get_num_threads()} threads; milliseconds per case (ratio to PyTorch), and sizes of the files in MB")
    print(f"{'backbone':32}{'batch':>6}" + "".join(f"{kind:>18}" for kind in KINDS) + f"{'MB':>8}{'int8':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for backbone in options.backbones:
            for row in speed(backbone, options.batches, options.repeats, Path(scratch)):
                results["speed"].append(row)
                plain = row["seconds"]["PyTorch"]
                cells = (
                    f"{1e3 * row['seconds'][kind] / row['batch']:.1f} ({row['seconds'][kind] / plain:.2f})"
                    for kind in KINDS
                )
                sizes = "".join(f"{row['megabytes'][name]:>8.0f}" for name in KINDS[2:])
                print(f"{backbone:32}{row['batch']:>6}" + "".join(f"{cell:>18}" for cell in cells) + sizes, flush=True)
        if options.demo:
            results["demo"] = accuracy(options.demo, Path(scratch), options.cases)
            print(json.dumps(results["demo"], indent=2))
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
