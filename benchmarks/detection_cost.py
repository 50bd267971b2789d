"""Cost of fusion in a detector: `read="global"`, "pooled" and "full" on one map, and the A3D backbone with and without.

python benchmarks/detection_cost.py                      # a map of 128 x 128 positions, and A3D at 7 x 512 x 512
python benchmarks/detection_cost.py --side 64 --no-a3d

Each case runs in its own process. Times are medians of several forward passes without gradients, and of forward and backward
passes; memory is the peak of the process beyond the map and the weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignedfusion import Attribute, AttributeSchema, AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion

CHANNELS, DIM, ATTRIBUTES = 512, 256, 14


def fusion(read: str) -> FeatureMapFusion:
    """Build a fusion for one map of the A3D backbone."""
    torch.manual_seed(0)
    schema = AttributeSchema([Attribute(f"a{i}", values=("no", "yes")) for i in range(ATTRIBUTES)])
    return FeatureMapFusion(AttributeTokenizer(schema, DIM), [CHANNELS], read=read, max_positions=10**9)


def median(run: Callable[[], object], repeats: int) -> float:
    """Measure the median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(case: str, side: int) -> dict[str, float]:
    """Measure seconds and MB of one case in this process."""
    codes = torch.randint(-1, 2, (1, ATTRIBUTES))
    if case.startswith("a3d"):
        from alignedfusion.detection import A3DBackbone

        backbone, volume = A3DBackbone(pretrained=False).eval(), torch.randn(1, 1, 7, 4 * side, 4 * side)
        module = fusion("global").eval()

        def forward() -> None:
            with torch.inference_mode():
                maps = backbone(volume)
                if case == "a3d, fused":
                    module(maps, codes)

        forward()
        return {"forward": median(forward, 5)}
    maps = [torch.randn(1, CHANNELS, side, side)]
    module = fusion(case.split(",")[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    repeats = 9 if case in ("global", "pooled") else 2
    backends = [SDPBackend.MATH] if "scores" in case else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]

    def inference() -> None:
        with torch.inference_mode(), sdpa_kernel(backends):
            module.eval()(maps, codes)

    def training() -> None:
        result = module.train()(maps, codes)
        (result.maps[0].square().mean() + result.loss).backward()

    inference()
    forward_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds = median(inference, repeats)
    if "scores" in case:  # backward would need twice the memory
        return {"forward": seconds, "forward_mb": forward_mb}
    training()
    both_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"forward": seconds, "both": median(training, repeats), "forward_mb": forward_mb, "both_mb": both_mb}


def main() -> None:
    """Measure all cases and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="positions of the map along one side (default: 128)")
    parser.add_argument("--no-a3d", action="store_true", help="leave the backbone out")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the figures to this JSON file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.side)))
        return
    reads = ("global", "pooled", "full", "full, scores written out")
    cases = [*reads, *(() if options.no_a3d else ("a3d", "a3d, fused", "a3d", "a3d, fused"))]
    results: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        command = [sys.executable, __file__, "--case", case, "--side", str(options.side)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.setdefault(case, []).append(json.loads(answer))
    print(
        f"one map of {options.side} x {options.side} positions, {CHANNELS} channels; {torch.get_num_threads()} threads"
    )
    keys = {"forward": "forward, s", "both": "and backward", "forward_mb": "forward, MB", "both_mb": "and backward"}
    print(f"{'read':26}" + "".join(f"{title:>16}" for title in keys.values()))
    ours = results["global"][0]
    for read in reads:
        (r,) = results[read]
        cells = (f"{r[key]:.3g} ({r[key] / ours[key]:.0f}x)" if key in r else "" for key in keys)
        print(f"{read:26}" + "".join(f"{cell:>16}" for cell in cells))
    if not options.no_a3d:
        plain, fused = (min(r["forward"] for r in results[case]) for case in ("a3d", "a3d, fused"))
        print(
            f"A3D at 7 x {4 * options.side}^2: {plain:.2f} s, fused {fused:.2f} s: {100 * (fused / plain - 1):+.1f} %"
        )
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
