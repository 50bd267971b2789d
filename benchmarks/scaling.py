"""Cost of a fusion as a function of image tokens N, attributes A and modalities M: sweeps and fitted exponents.

python benchmarks/scaling.py
python benchmarks/scaling.py --sweeps N --mode train -o scaling.json --picture scaling.png

One of them is varied; the others are fixed at 196 image tokens, 14 attributes and one image. The model time ~ size^exponent is
fitted by least squares to the upper half of the sweep, where fixed costs are small. Joint self-attention is the comparison.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion import IntermediateTokenFusion
from alignedfusion.baselines import JointSelfAttention

BATCH, DIM, HEADS, DEPTH = 4, 384, 6, 2
SWEEPS = {
    "N": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "A": (7, 14, 28, 56, 112, 224, 448, 896, 1792),
    "M": (2, 3, 4, 5, 6, 8),
}
MEANING = {"N": "image tokens", "A": "attributes", "M": "modalities, including the report"}
FUSIONS = {"alignedfusion": IntermediateTokenFusion, "joint self-attention": JointSelfAttention}


def token_lengths(sweep: str, size: int) -> dict[str, int]:
    """Number of tokens of each modality."""
    images = size - 1 if sweep == "M" else 1
    patches = size if sweep == "N" else 196
    return {f"image{i}": patches for i in range(images)} | {"report": size if sweep == "A" else 14}


def seconds(module: nn.Module, tokens: dict[str, Tensor], mode: str) -> float:
    """Wall time of one pass; in training with the backward pass."""
    start = time.perf_counter()
    if mode == "forward":
        with torch.inference_mode():
            out = module(tokens)
    else:
        out = module(tokens)
        sum(stream.float().square().mean() for stream in out.tokens.values()).backward()
    float(out.tokens["report"][0, 0, 0])  # waits for a GPU
    return time.perf_counter() - start


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of log time over log size."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in times]
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def measure(sweep: str, mode: str, device: str) -> dict[str, Any]:
    """Median seconds of both fusions at every size, and the exponents."""
    sizes = SWEEPS[sweep]
    times: dict[str, list[float]] = {name: [] for name in FUSIONS}
    for size in sizes:
        lengths = token_lengths(sweep, size)
        tokens = {m: torch.randn(BATCH, n, DIM, device=device) for m, n in lengths.items()}
        modules = {
            name: fusion(DIM, modalities=tuple(lengths), depth=DEPTH, num_heads=HEADS).to(device)
            for name, fusion in FUSIONS.items()
        }
        for module in modules.values():
            seconds(module, tokens, mode)
        rounds = [
            {name: seconds(module, tokens, mode) for name, module in modules.items()}
            for _ in range(9 if sum(lengths.values()) < 1500 else 3)
        ]
        for name in FUSIONS:
            times[name].append(statistics.median(repetition[name] for repetition in rounds))
    upper = slice(len(sizes) // 2, None)
    return {
        "sweep": sweep,
        "mode": mode,
        "sizes": list(sizes),
        "seconds": times,
        "exponents": {name: exponent(list(sizes[upper]), values[upper]) for name, values in times.items()},
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Plot time against size, one panel per sweep."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(4 * len(results), 3.4), layout="constrained", squeeze=False)
    for axes, result in zip(panels[0], results, strict=True):
        for name, times in result["seconds"].items():
            axes.loglog(
                result["sizes"],
                [1e3 * t for t in times],
                marker="o",
                label=f"{name}: ^{result['exponents'][name]:.2f}",
            )
        axes.set_xticks(result["sizes"], [str(size) for size in result["sizes"]], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel(f"{result['sweep']}, {MEANING[result['sweep']]}")
        axes.set_ylabel(f"ms, {result['mode']}")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure, print the results and write them to files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--mode", choices=("forward", "train"), default="forward")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file to write the results to")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="file to plot the results to")
    options = parser.parse_args()
    print(f"batch {BATCH}, width {DIM}, {DEPTH} rounds, {options.mode}, {options.device}; ms")
    results = []
    for sweep in options.sweeps:
        results.append(result := measure(sweep, options.mode, options.device))
        print(
            f"\n{sweep + ' (' + MEANING[sweep] + ')':38}"
            + "".join(f"{size:>8}" for size in result["sizes"])
            + "  exponent"
        )
        for name, times in result["seconds"].items():
            cells = "".join(f"{1e3 * value:8.1f}" for value in times)
            print(f"{name:38}{cells}{result['exponents'][name]:10.2f}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
