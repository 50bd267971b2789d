"""`alignedfusion export`: write a model as an ONNX file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_export(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add(
        "export",
        _export,
        "write a model as an ONNX file",
        "Write a model as one ONNX file with a dynamic batch size. Its metadata describe, in JSON, the attribute codes, the\n"
        "classes and the preprocessing of images.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run or of any saved model")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write, such as model.onnx")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="use 8-bit integers, which makes a vision transformer about twice as fast on a CPU",
    )


def _export(options: argparse.Namespace) -> None:
    from alignedfusion.deployment.export import to_onnx
    from alignedfusion.modules.classifier import AlignedFusionClassifier

    to_onnx(AlignedFusionClassifier.from_pretrained(options.run_folder), options.output, quantize=options.int8)
    print(f"{options.output}: {Path(options.output).stat().st_size / 1e6:.0f} MB")
