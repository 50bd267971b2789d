"""`alignedfusion evaluate`: test a run on other cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from alignedfusion.commands.table_options import add_manifest, add_max_unreadable, add_table_options, read_cases


def add_evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add(
        "evaluate",
        _evaluate,
        "test a run on a table at 0 to 50 %% missing attributes",
        "Test a run on a table with the same columns. Cases that the run was trained on are left out and counted.\n"
        "They are recognised by the column that was given as --key in training, or by the content of their images.",
    )
    parser.add_argument("run_folder", metavar="OUT", help="folder of a finished run")
    add_manifest(parser)
    add_table_options(parser)
    add_max_unreadable(parser)
    parser.add_argument(
        "--tokens", metavar="FOLDER", help="read tokens that `alignedfusion tokens` computed instead of images"
    )
    parser.add_argument("--json", metavar="FILE", help="JSON file to write the metrics to")


def _evaluate(options: argparse.Namespace) -> None:
    from alignedfusion.datasets.token_cache import TokenCache
    from alignedfusion.evaluation.metrics import table
    from alignedfusion.tables.files import write_json
    from alignedfusion.training import runs

    frame, root = read_cases(options.manifest, options)
    rows, counts = runs.evaluate(
        options.run_folder,
        frame,
        root=root,
        max_unread=options.max_unreadable,
        tokens=TokenCache(options.tokens) if options.tokens else None,
    )
    if counts["left_out"]:
        print(f"{counts['left_out']} cases were used in training and are left out of the test")
    print(f"{counts['tested']} test cases")
    print(table(rows))
    if options.json:
        write_json(Path(options.json), {**counts, "missing": rows})
