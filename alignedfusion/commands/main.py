"""The `alignedfusion` command."""

from __future__ import annotations

import argparse
import functools
import io
import sys
from collections.abc import Sequence
from typing import Any

from alignedfusion import __version__
from alignedfusion.commands import examples as example_files
from alignedfusion.commands.demo import add_demo
from alignedfusion.commands.evaluate import add_evaluate
from alignedfusion.commands.explain import add_explain
from alignedfusion.commands.export import add_export
from alignedfusion.commands.predict import add_predict
from alignedfusion.commands.reports import add_commands as add_report_commands
from alignedfusion.commands.tokens import add_tokens
from alignedfusion.commands.train import add_train
from alignedfusion.commands.tune import add_tune
from alignedfusion.reports.types import ServerError

_EXAMPLES = """\
examples:
  alignedfusion demo
  alignedfusion train cases.csv --image file --label diagnosis --group patient -o runs/first
  alignedfusion tune cases.csv --image file --label diagnosis --group patient -o tuned
  alignedfusion tokens cases.csv --image file -o tokens && alignedfusion train cases.csv --tokens tokens ...
  alignedfusion evaluate runs/first newer_cases.csv
  alignedfusion extract reports.csv --text findings impression --lexicon chest_xray -o table.csv
  alignedfusion predict runs/first --image x.png --attributes '{"age": 54, "fever": "present"}'
  alignedfusion predict runs/first --table newer_cases.csv -o predictions.parquet
  alignedfusion explain runs/first --table newer_cases.csv --row 14 -o case.html

`alignedfusion COMMAND --help` describes a command.
"""


_EXTRAS = {
    **dict.fromkeys(("accelerate", "jinja2", "matplotlib", "pandas", "pyarrow", "sklearn"), "train"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    **dict.fromkeys(("monai", "nibabel", "pydicom"), "medical"),
    "crepes": "conformal",
    "openai": "chat",
    "peft": "lora",
    "ray": "ray",
}
"""The extra of this package that installs each optional module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal's code page may lack a letter of a class name
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        return 130
    # OSError: a full disk, a folder without permission, no connection
    except (ValueError, OSError, ServerError) as error:
        print(f"alignedfusion {options.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(
            f"alignedfusion {options.command} needs {error.name}: pip install 'alignedfusion[{_EXTRAS[error.name]}]'",
            file=sys.stderr,
        )
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alignedfusion",
        description="Classify medical images together with attributes from their reports, when reports are incomplete.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add = functools.partial(_add, commands)
    for add_command in (add_demo, add_train, add_tune, add_tokens, add_evaluate, add_predict, add_explain, add_export):
        add_command(add)
    add_report_commands(add)
    example_files.add_commands(add)
    return parser


def _add(commands: Any, name: str, run: Any, summary: str, description: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser
