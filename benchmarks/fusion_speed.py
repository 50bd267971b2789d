"""Time, memory and operations of several fusions, compared within one run.

python benchmarks/fusion_speed.py                                  # all sizes; on a GPU if there is one
python benchmarks/fusion_speed.py --sizes small batch1 --compile   # some sizes, eager and compiled
python benchmarks/fusion_speed.py --dtypes bfloat16 --modes train -o speed.json --picture speed.png

In every repetition each fusion runs once, in rotating order, and its time is divided by that of joint self-attention in the
same repetition. The median ratio and its quartiles are printed. Memory is the peak that one pass needs beyond weights and
inputs: on a GPU the memory that PyTorch allocated, on a CPU the growth of a separate process (Linux only). Operations are those
of the matrix products, counted by `torch.utils.flop_counter`. "of peak" is their rate relative to that of a large matrix
product in this run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alignedfusion import IntermediateTokenFusion
from alignedfusion.baselines import CrossAttention, JointSelfAttention
from alignedfusion.modules.fusions import FusionOutput


class Size(NamedTuple):
    """Sizes of a comparison: B, N of each image, A, D and the number of rounds."""

    batch: int
    images: tuple[int, ...]
    attributes: int
    dim: int
    depth: int


SIZES = {
    "batch1": Size(1, (196,), 14, 384, 2),
    "small": Size(32, (196,), 14, 384, 2),
    "base": Size(64, (196,), 14, 768, 4),
    "long": Size(8, (3136,), 14, 384, 2),
    "two images": Size(16, (1024, 1024), 14, 384, 2),
    "two long images": Size(4, (4096, 4096), 14, 384, 2),
}
REFERENCE = "joint self-attention"


class TransformerEncoder(nn.Module):
    """PyTorch's own transformer encoder on the tokens of all modalities."""

    def __init__(self, dim: int, *, modalities: tuple[str, ...], depth: int, num_heads: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, tokens: dict[str, Tensor]) -> FusionOutput:
        """Fuse tokens (B, N_m, D)."""
        joined = self.encoder(torch.cat(list(tokens.values()), dim=1))
        lengths = [stream.shape[1] for stream in tokens.values()]
        return FusionOutput(dict(zip(tokens, joined.split(lengths, dim=1), strict=True)), joined[:, :0])


FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "alignedfusion": IntermediateTokenFusion,
    "alignedfusion, shared weights": lambda dim, **k: IntermediateTokenFusion(dim, share_weights=True, **k),
    "MBT, 4 tokens": lambda dim, **k: IntermediateTokenFusion(dim, topology="shared", num_tokens=4, **k),
    REFERENCE: JointSelfAttention,
    "nn.TransformerEncoder": TransformerEncoder,
    "cross-attention": CrossAttention,
}


class Case(NamedTuple):
    """One comparison: a size, a device, a dtype, a mode, eager or compiled."""

    size: str
    device: str
    dtype: str
    mode: str
    compiled: bool

    def tokens(self, batch: int | None = None) -> dict[str, Tensor]:
        """Random tokens of every modality."""
        size = SIZES[self.size]
        lengths = {f"image{i}": n for i, n in enumerate(size.images)} | {"report": size.attributes}
        shape = {m: (batch or size.batch, n, size.dim) for m, n in lengths.items()}
        dtype = getattr(torch, self.dtype)
        return {m: torch.randn(sizes, device=self.device, dtype=dtype) for m, sizes in shape.items()}

    def module(self, name: str) -> nn.Module:
        """One of the fusions."""
        size = SIZES[self.size]
        modalities = (*(f"image{i}" for i in range(len(size.images))), "report")
        torch.manual_seed(0)
        module = FUSIONS[name](size.dim, modalities=modalities, depth=size.depth, num_heads=size.dim // 64)
        module = module.to(self.device, getattr(torch, self.dtype)).train(self.mode == "train")
        return torch.compile(module, fullgraph=True) if self.compiled else module

    def step(self, module: nn.Module, tokens: dict[str, Tensor]) -> None:
        """One forward pass; in training also the backward pass, to weights and tokens."""
        if self.mode == "forward":
            with torch.inference_mode():
                module(tokens)
            return
        module.zero_grad(set_to_none=True)
        tokens = {m: stream.detach().requires_grad_() for m, stream in tokens.items()}
        out = module(tokens)
        sum(stream.float().square().mean() for stream in out.tokens.values()).backward()  # type: ignore[union-attr]

    def seconds(self, module: nn.Module, tokens: dict[str, Tensor]) -> float:
        """Wall time of one pass."""
        synchronize(self.device)
        start = time.perf_counter()
        self.step(module, tokens)
        synchronize(self.device)
        return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: str, dtype: str) -> float:
    """Operations per second of a large matrix product, as the peak rate of the device."""
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    rates = []
    for _ in range(8):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        rates.append(2 * side**3 / (time.perf_counter() - start))
    return max(rates)


def operations(case: Case, name: str) -> int:
    """Operations of one pass, counted at batch 1 with attention in plain operations."""
    plain = case._replace(compiled=False, dtype="float32", device="cpu")
    # In training mode, because the counter does not know the fast path of nn.TransformerEncoder.
    module, tokens = plain.module(name).train(), plain.tokens(batch=1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if case.mode == "forward":
            with torch.no_grad():
                module(tokens)
        else:
            plain.step(module, tokens)
    return counter.get_total_flops() * SIZES[case.size].batch


def memory(case: Case, name: str) -> float:
    """Peak memory of one pass in megabytes, beyond weights and inputs."""
    module, tokens = case.module(name), case.tokens()
    if case.device == "cuda":
        case.step(module, tokens)  # compiles, and allocates the workspace of cuBLAS
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case.step(module, tokens)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    case.step(module, {m: stream[:1, :8] for m, stream in tokens.items()})  # loads libraries, which do not count
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # resets the high-water mark to the present resident memory
    before = high_water()
    case.step(module, tokens)
    return (high_water() - before) / 2**10


def high_water() -> int:
    """Peak resident memory since the mark was reset, in kilobytes (Linux)."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def memory_apart(case: Case, name: str) -> float:
    """`memory`, measured in a separate process."""
    command = [sys.executable, __file__, "--memory-of", json.dumps([*case, name]), "--threads"]
    output = subprocess.run([*command, str(torch.get_num_threads())], check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def measure(case: Case, seconds: float, with_memory: bool) -> list[dict[str, Any]]:
    """Measure all fusions on one case; one row per fusion."""
    torch._dynamo.reset()
    tokens = case.tokens()
    modules = {name: case.module(name) for name in FUSIONS}
    for module in modules.values():
        case.seconds(module, tokens)
    once = sum(case.seconds(module, tokens) for module in modules.values())
    repetitions = max(5, min(200, int(seconds / once)))

    times: dict[str, list[float]] = {name: [] for name in modules}
    order = list(modules)
    for _ in range(repetitions):
        order.append(order.pop(0))
        for name in order:
            times[name].append(case.seconds(modules[name], tokens))

    peak = matmul_rate(case.device, case.dtype)
    rows = []
    for name, module in modules.items():
        ratios = [a / b for a, b in zip(times[name], times[REFERENCE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        typical = statistics.median(times[name])
        count = operations(case, name)
        rows.append(
            {
                **case._asdict(),
                "fusion": name,
                "seconds": typical,
                "ratio": middle,
                "quartiles": [low, high],
                "repetitions": repetitions,
                "parameters": sum(p.numel() for p in module.parameters()),
                "operations": count,
                "share_of_peak": count / typical / peak,
                "peak_rate": peak,
                "megabytes": memory_apart(case, name) if with_memory else None,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows of one case."""
    case, size = rows[0], SIZES[rows[0]["size"]]
    images = " + ".join(map(str, size.images))
    print(
        f"\n{case['size']}: B {size.batch}, N {images}, A {size.attributes}, D {size.dim}, {size.depth} rounds; "
        f"{case['mode']}, {case['dtype']}, {'compiled' if case['compiled'] else 'eager'}, {case['device']}; matrix product "
        f"{case['peak_rate'] / 1e9:.0f} GFLOP/s; {case['repetitions']} repetitions"
    )
    print(f"{'fusion':32}{'ratio':>7}{'quartiles':>16}{'ms':>10}{'GFLOP':>9}{'of peak':>9}{'MB':>8}{'parameters':>12}")
    for row in rows:
        spread = "{:.3f} .. {:.3f}".format(*row["quartiles"])
        megabytes = "" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        print(
            f"{row['fusion']:32}{row['ratio']:7.3f}{spread:>16}{1e3 * row['seconds']:10.1f}{row['operations'] / 1e9:9.1f}"
            f"{row['share_of_peak']:9.0%}{megabytes:>8}{row['parameters'] / 1e6:11.1f}M",
            flush=True,
        )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the ratios, with a group of bars per case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(tuple(row[key] for key in Case._fields) for row in rows))
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.75 * len(cases)), layout="constrained")
    for i, name in enumerate(FUSIONS):
        by_case = {tuple(row[key] for key in Case._fields): row for row in rows if row["fusion"] == name}
        positions = [j + 0.13 * (i - 2.5) for j in range(len(cases))]
        values = [by_case[case]["ratio"] for case in cases]
        axes.barh(positions, values, height=0.12, label=name)
    axes.axvline(1.0, color="black", linewidth=0.8)
    labels = [f"{s}, {mode}\n{dtype}, {'compiled' if c else 'eager'}" for s, _, dtype, mode, c in cases]
    axes.set_yticks(range(len(cases)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"time relative to {REFERENCE} ({cases[0][1]}; lower is better)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure, print the results and write them to files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--modes", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument("--compile", action="store_true", help="also measure compiled modules")
    parser.add_argument("--only-compile", action="store_true", help="measure compiled modules only")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's default)")
    parser.add_argument("--seconds", type=float, default=20.0, help="approximate time per case (default: 20)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which needs more processes")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file to write the results to")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="file to plot the ratios to")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        *case, name = json.loads(options.memory_of)
        print(memory(Case(*case), name))
        return

    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"PyTorch {torch.__version__}, {device}; ratio: time over {REFERENCE}")
    rows: list[dict[str, Any]] = []
    kinds = [True] if options.only_compile else [False, True] if options.compile else [False]
    for dtype in options.dtypes:
        for compiled in kinds:
            for size in options.sizes:
                for mode in options.modes:
                    case = Case(size, options.device, dtype, mode, compiled)
                    rows += (found := measure(case, options.seconds, not options.no_memory and not compiled))
                    show(found)
                    if options.output:
                        options.output.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
