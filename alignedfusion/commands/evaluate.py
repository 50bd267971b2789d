"""`alignedfusion evaluate`: test a run on other cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from alignedfusion.commands.table_options import (
    add_case_pages,
    add_manifest,
    add_max_unreadable,
    add_subgroups,
    add_table_options,
    print_results,
    read_cases,
)


def add_evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add(
        "evaluate",
        _evaluate,
        "test a run on a table at 0 to 50 %% missing attributes",
        "Test a run on a table with the same columns, and write a page of the results, report.html.\n"
        "Cases that the run was trained on are left out and counted. They are recognised by the\n"
        "column that was given as --key in training, or by the content of their images.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    add_manifest(parser)
    add_table_options(parser)
    add_max_unreadable(parser)
    parser.add_argument(
        "--tokens", metavar="FOLDER", help="read tokens that `alignedfusion tokens` computed instead of images"
    )
    add_subgroups(parser)
    parser.add_argument(
        "--most-probable",
        action="store_true",
        help="predict the most probable class, whatever --balance was in training",
    )
    add_case_pages(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="folder for report.html (default: evaluated-TABLE in the run's folder)",
    )
    parser.add_argument("--json", metavar="FILE", help="JSON file to write the metrics to")


def _evaluate(options: argparse.Namespace) -> None:
    from alignedfusion.datasets.token_cache import TokenCache
    from alignedfusion.tables.files import write_json
    from alignedfusion.training import runs

    frame, root = read_cases(options.manifest, options)
    name = Path(options.manifest).name.split(".")[0]
    output = Path(options.output or Path(options.run_folder) / f"evaluated-{name}")
    result = runs.evaluate(
        options.run_folder,
        frame,
        root=root,
        max_unread=options.max_unreadable,
        tokens=TokenCache(options.tokens) if options.tokens else None,
        subgroups=options.subgroup,
        most_probable=options.most_probable,
        output=output,
        case_pages=options.case_pages,
    )
    if result["left_out"]:
        print(f"{result['left_out']} cases were used in training and are left out of the test")
    print_results(result)
    if (output / "report.html").is_file():
        print(f"\nThe page of these results: {output / 'report.html'}")
    if options.json:
        write_json(Path(options.json), result)
