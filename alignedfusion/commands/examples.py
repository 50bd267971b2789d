"""`alignedfusion examples`: scripts that come with the package, to list, to run, and to copy and edit."""

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
Short scripts that come with the package: list them, run one, or copy one to edit.

They run on built-in data, with nothing to download. What an example takes: alignedfusion examples run NAME --help
"""


class Example(NamedTuple):
    """A script and what its docstring says of it.

    Attributes:
        name: The file's name without ".py".
        path: Where it lies.
        summary: The docstring's first line.
        needs: What it needs and how long it takes: the docstring's line that begins with "Needs "; empty without one.
    """

    name: str
    path: Path
    summary: str
    needs: str


def find_examples() -> dict[str, Example]:
    """The examples by name: those in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    folder = next((each for each in (package / "examples", package.parent / "examples") if each.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no examples in {str(package)!r}: install alignedfusion from its wheel or a checkout")
    return {path.stem: _read(path) for path in sorted(folder.glob("*.py"))}


def find_example(name: str) -> Example:
    """One example; `ValueError` with names close to it if there is none of that name."""
    found = find_examples()
    stem = name.removesuffix(".py")
    if stem not in found:
        close = difflib.get_close_matches(stem, found, n=3, cutoff=0.4)
        hint = f"close to it: {', '.join(close)}" if close else f"there are {', '.join(found)}"
        raise ValueError(f"there is no example {name!r}; {hint}")
    return found[stem]


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
    """Write a copy of an example, to `NAME.py` in the current folder by default; an existing file is left alone."""
    example = find_example(name)
    path = Path(example.path.name if target is None else target)
    if path.is_dir():
        path /= example.path.name
    try:
        with path.open("xb") as file:  # x: whatever lies there may have been edited
            file.write(example.path.read_bytes())
    except FileExistsError as error:
        raise ValueError(f"{str(path)!r} exists already and is left as it is; name another file") from error
    return path


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("examples", _list, "list short scripts that come along, run one, or copy one to edit", _DESCRIPTION)
    actions = parser.add_subparsers(metavar="ACTION")

    running = actions.add_parser("run", help="run an example: run NAME [its own arguments]")
    running.add_argument("name", metavar="NAME", help="one that `alignedfusion examples` lists")
    running.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the example's own arguments")
    running.set_defaults(run=lambda options: run(options.name, options.arguments))

    copying = actions.add_parser("copy", help="copy an example to edit: copy NAME [FILE]")
    copying.add_argument("name", metavar="NAME", help="one that `alignedfusion examples` lists")
    copying.add_argument("target", nargs="?", metavar="FILE", help="file or folder (default: NAME.py)")
    copying.set_defaults(run=_copy)


def _list(options: argparse.Namespace) -> None:
    for name, example in find_examples().items():
        print(f"{name}\n    {example.summary}\n" + (f"    {example.needs}\n" if example.needs else ""))
    print("Run one:       alignedfusion examples run NAME")
    print("Copy to edit:  alignedfusion examples copy NAME [FILE]")


def _copy(options: argparse.Namespace) -> None:
    path = copy(options.name, options.target)
    print(f"{path} is yours to edit; it runs anywhere with: python {path}")


def _read(path: Path) -> Example:
    lines = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()
    needs = next((line for line in lines if line.startswith("Needs ")), "")
    return Example(path.stem, path, lines[0] if lines else "", needs)
