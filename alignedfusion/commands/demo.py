"""`alignedfusion demo`: what happens when reports mention less than in training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_demo(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add(
        "demo", _demo, "what happens when reports mention less than in training, in two minutes and without downloads"
    )
    parser.add_argument("-o", "--output", default="demo", metavar="FOLDER", help="folder to write to (default: demo)")
    parser.add_argument("--seeds", type=int, default=3, help="number of repetitions (default: 3)")


def _demo(options: argparse.Namespace) -> None:
    from alignedfusion.commands import demo_models as demo

    results = demo.run(options.output, seeds=options.seeds)
    folder = Path(options.output)
    print("\nAll models were trained on complete reports. What if test reports mention less?")
    print(
        f"accuracy in %, mean ± deviation of {results['seeds']} seeds, by the share of attributes missing in the test reports"
    )
    print(f"{'':22}" + "".join(f"{f'{rate:.0%} missing':>16}" for rate in results["missing"]))
    for method, result in results["methods"].items():
        cells = (f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(result["mean"], result["deviation"], strict=True))
        print(f"{method:22}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"\n{results['seconds']:.0f} seconds; results: {folder / 'results.json'}, plot: {folder / 'accuracy.png'}.")
    print("Predict a case whose report mentions one attribute with the saved model:")
    print(
        f'  alignedfusion predict {folder / "model"} --image {folder / "case.png"} --attributes \'{{"growth": "growing"}}\''
    )
