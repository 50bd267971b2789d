"""`alignedfusion demo`: four models on drawn lesions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_demo(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("demo", _demo, "compare four models on drawn lesions; nothing to download, under three minutes")
    parser.add_argument("-o", "--output", default="demo", metavar="FOLDER", help="where to write (default: demo)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (default: 3)")


def _demo(options: argparse.Namespace) -> None:
    from alignedfusion.commands import demo_models as demo

    results = demo.run(options.output, seeds=options.seeds)
    folder = Path(options.output)
    print(
        f"\naccuracy in %, mean ± deviation of {results['seeds']} seeds, by the share of attributes missing in the test reports"
    )
    print(f"{'':22}" + "".join(f"{f'{rate:.0%} missing':>16}" for rate in results["missing"]))
    for method, result in results["methods"].items():
        cells = (f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(result["mean"], result["deviation"], strict=True))
        print(f"{method:22}" + "".join(f"{cell:>16}" for cell in cells))
    print(
        f"\n{results['seconds']:.0f} seconds; {folder / 'results.json'} has every figure, {folder / 'accuracy.png'} shows them."
    )
    print("Ask the saved model about a case whose report says one thing only:")
    print(
        f'  alignedfusion predict {folder / "model"} --image {folder / "case.png"} --attributes \'{{"growth": "growing"}}\''
    )
