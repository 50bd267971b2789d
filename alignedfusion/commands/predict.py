"""`alignedfusion predict`: predict one case, or every row of a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from alignedfusion.commands.table_options import (
    add_case,
    add_max_unreadable,
    add_table_options,
    read_attributes,
    read_cases,
)

if TYPE_CHECKING:
    import pandas as pd

_PREDICT = """\
Predict one case, and print JSON with the probability of each class or label, or the value of each number, and the probability
of each value of the unmentioned attributes.

With --table, predict every row of a table with the columns of the run, and write the table with additional columns:
`predicted` (a class, or the labels separated by semicolons), `most_probable` (if the run was trained with --balance), `set` (if
it was trained with --sets), and `p(CLASS)` for each class or label; of numbers only `predicted(NAME)` for each;
`filled(ATTRIBUTE)` and `p(filled(ATTRIBUTE))` for each attribute (the most probable value of an unmentioned cell, and its
probability); and `unreadable`, the attributes whose cells the model cannot read. Those cells count as unmentioned. If the
command is interrupted, run it again to continue.
"""


def add_predict(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("predict", _predict, "predict one case, or every row of a table", _PREDICT)
    parser.add_argument("model", metavar="RUN", help="folder of a run or saved model, or its name on a model hub")
    add_case(parser)
    table = parser.add_argument_group("prediction of a table")
    table.add_argument("--table", metavar="TABLE", help="CSV or parquet file, one row per case")
    table.add_argument("-o", "--output", metavar="FILE", help="table to write, .csv or .parquet")
    add_table_options(table)
    add_max_unreadable(table)
    table.add_argument("--ray", action="store_true", help="run on the Ray cluster at RAY_ADDRESS, or start a local one")


def _predict(options: argparse.Namespace) -> None:
    if options.table or options.output:
        _predict_table(options)
    else:
        _predict_case(options)


def _predict_case(options: argparse.Namespace) -> None:
    from alignedfusion.deployment.prediction import predict_case

    for name in ("image_root", "missing_values", "ray"):
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} belongs to --table")
    attributes = read_attributes(options.attributes)
    print(json.dumps(predict_case(options.model, options.image or [], attributes), indent=2))


def _predict_table(options: argparse.Namespace) -> None:
    from alignedfusion.deployment.prediction import predict_table
    from alignedfusion.tables.files import read_json

    if not options.table or not options.output:
        raise ValueError("--table and -o belong together: the table to predict, and the table to write")
    if options.attributes:
        raise ValueError("--attributes is for one case; with --table, the attributes are columns of the table")
    settings = Path(options.model) / "settings.json"
    columns = (
        read_json(settings, "name the image columns with --image", keys=("images",))["images"]
        if settings.is_file() and not options.image
        else options.image
    )
    frame, root = read_cases(options.table, options)
    table = predict_table(
        options.model,
        frame,
        options.output,
        images=columns,
        root=root,
        on_ray=options.ray,
        max_unread=options.max_unreadable,
    )
    print(f"{options.output}: {len(table)} cases; predicted {_summarise(table.drop(columns=frame.columns))}")


def _summarise(table: pd.DataFrame) -> str:
    """The share of each predicted class or label, or the mean of each predicted number.

    Args:
        table: The columns that prediction added.
    """
    if "predicted" not in table:
        numbers = table[[name for name in table if str(name).startswith("predicted(")]]
        return ", ".join(f"{name[10:-1]} {mean:.4g} on average" for name, mean in numbers.mean().items())
    cells, names = table["predicted"], [name[2:-1] for name in table if str(name).startswith("p(")]
    if not cells.isin(names).all():  # several labels, or none; the name of a class may have a semicolon
        cells = cells.str.split("; ").explode()
    shares = cells.value_counts() / len(table)
    return ", ".join(f"{name or 'none'} {share:.1%}" for name, share in shares.items())
