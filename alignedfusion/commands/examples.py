"""`alignedfusion examples`: list, run or copy the example scripts of the package."""

from __future__ import annotations

import argparse
import ast
import difflib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_DESCRIPTION = """\
List the example scripts of the package, run one, or copy one to edit.

They use built-in data and need no downloads. To see the options of an example: alignedfusion examples run NAME --help
"""


class Example(NamedTuple):
    """An example script and the summary in its docstring.

    Attributes:
        name: Name of the file without ".py".
        path: Path of the file.
        summary: First line of the docstring.
        needs: Requirements and running time: the line of the docstring that begins with "Needs ", or an empty string.
    """

    name: str
    path: Path
    summary: str
    needs: str


def find_examples() -> dict[str, Example]:
    """The examples by name: those in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    candidates = (package / "examples", package.parent / "examples")
    folder = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"no examples in {str(package)!r}: install alignedfusion from its wheel or from a checkout"
        )
    return {path.stem: _read(path) for path in sorted(folder.glob("*.py"))}


def find_example(name: str) -> Example:
    """One example by name.

    Raises:
        ValueError: If there is no example of that name; the message has similar names.
    """
    examples = find_examples()
    stem = name.removesuffix(".py")
    if stem not in examples:
        close = difflib.get_close_matches(stem, examples, n=3, cutoff=0.4)
        hint = f"similar names: {', '.join(close)}" if close else f"the examples are {', '.join(examples)}"
        raise ValueError(f"there is no example {name!r}; {hint}")
    return examples[stem]


def run(name: str, arguments: list[str]) -> None:
    """Run an example as `python FILE arguments` would."""
    path = str(find_example(name).path)
    before = sys.argv
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(path, run_name="__main__")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        sys.argv = before


def copy(name: str, target: str | None = None) -> Path:
    """Write a copy of an example, by default to `NAME.py` in the current folder; an existing file is never overwritten."""
    example = find_example(name)
    path = Path(example.path.name if target is None else target)
    if path.is_dir():
        path /= example.path.name
    try:
        with path.open("xb") as file:  # x: an existing file may have been edited
            file.write(example.path.read_bytes())
    except FileExistsError as error:
        raise ValueError(f"{str(path)!r} exists already and is not overwritten; choose another name") from error
    return path


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("examples", _list, "list the example scripts, run one, or copy one to edit", _DESCRIPTION)
    actions = parser.add_subparsers(metavar="ACTION")

    running = actions.add_parser("run", help="run an example: run NAME [ARGUMENTS]")
    running.add_argument("name", metavar="NAME", help="name of an example, from `alignedfusion examples`")
    running.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the example")
    running.set_defaults(run=lambda options: run(options.name, options.arguments))

    copying = actions.add_parser("copy", help="copy an example to edit: copy NAME [FILE]")
    copying.add_argument("name", metavar="NAME", help="name of an example, from `alignedfusion examples`")
    copying.add_argument("target", nargs="?", metavar="FILE", help="file or folder (default: NAME.py)")
    copying.set_defaults(run=_copy)


def _list(options: argparse.Namespace) -> None:
    for name, example in find_examples().items():
        print(f"{name}\n    {example.summary}\n" + (f"    {example.needs}\n" if example.needs else ""))
    print("Run one:       alignedfusion examples run NAME")
    print("Copy to edit:  alignedfusion examples copy NAME [FILE]")


def _copy(options: argparse.Namespace) -> None:
    path = copy(options.name, options.target)
    print(f"{path} was written; edit it and run it with: python {path}")


def _read(path: Path) -> Example:
    lines = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()
    needs = next((line for line in lines if line.startswith("Needs ")), "")
    return Example(path.stem, path, lines[0] if lines else "", needs)
