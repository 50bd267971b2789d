"""`alignedfusion evaluate`: a run on other cases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path


def add_evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add(
        "evaluate",
        _evaluate,
        "test a run on a table at 0 to 50 %% missing attributes",
        "Test a run on a table with the same columns. Cases that the run was trained on are left out, and counted.",
    )
    parser.add_argument("run_folder", metavar="OUT", help="folder of a finished run")
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV or parquet file, one row per case")
    parser.add_argument("--image-root", metavar="FOLDER", help="where image paths start (default: the table's folder)")
    parser.add_argument(
        "--missing-values", nargs="+", default=[], metavar="TEXT", help="more cells that mean 'not recorded'"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")


def _evaluate(options: argparse.Namespace) -> None:
    from alignedfusion import runs
    from alignedfusion.datasets.manifest import read_table
    from alignedfusion.evaluation import table

    frame = read_table(options.manifest, missing_values=options.missing_values)
    root = options.image_root or Path(options.manifest).parent
    rows, counts = runs.evaluate(options.run_folder, frame, root=root)
    if counts["left_out"]:
        print(f"{counts['left_out']} cases were used in training and are left out")
    print(f"{counts['tested']} test cases")
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps({**counts, "missing": rows}, indent=2) + "\n")
