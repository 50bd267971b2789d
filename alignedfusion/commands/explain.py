"""`alignedfusion explain`: a page that shows why a model predicts what it predicts, and what to ask next."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.commands.table_options import add_case, add_table_options, read_attributes, read_cases

if TYPE_CHECKING:
    import pandas as pd

    from alignedfusion.modules.classifier import AlignedFusionClassifier
    from alignedfusion.pages import Case

_EXPLAIN = """\
Write a page about one case: class probabilities, what each image patch and each attribute adds to them, what the unmentioned
attributes probably are, and which of them to ask about next. A page is one HTML file that loads nothing from a network.

Give a row of a table (--table, --row), or image files and attributes (--image, --attributes). With --rows, OUT is a folder: it
gets a page per row and an index, the most uncertain case first. Rows count from 0, as in `alignedfusion show`.

Pages hold images and attribute values. Report text, file names and the key column are left out, unless --with-text is given;
the page then states that it holds them. The report's evidence is read from TABLE.evidence.jsonl, or from --evidence.
"""


def add_explain(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("explain", _explain, "write a page about one case, or pages about many", _EXPLAIN)
    parser.add_argument("model", metavar="RUN", help="folder of a run or saved model, or its name on a model hub")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="HTML file to write; with --rows, a folder"
    )
    case = parser.add_argument_group("one case from files")
    add_case(case)
    table = parser.add_argument_group("rows of a table")
    table.add_argument("--table", metavar="TABLE", help="CSV or parquet file, one row per case")
    rows = table.add_mutually_exclusive_group()
    rows.add_argument("--row", type=int, metavar="K", help="row of the table, from 0")
    rows.add_argument("--rows", type=_rows, metavar="K-L", help="rows of the table, such as 0-49 or 3,14,20-25")
    add_table_options(table)
    table.add_argument("--with-text", action="store_true", help="show report text, file names and the key column")
    table.add_argument("--evidence", metavar="FILE", help="evidence of the attributes (default: TABLE.evidence.jsonl)")


def _explain(options: argparse.Namespace) -> None:
    import torch

    from alignedfusion.modules.classifier import AlignedFusionClassifier
    from alignedfusion.pages import write_case, write_cases
    from alignedfusion.pages.facts import check_classes

    _check(options)
    model = AlignedFusionClassifier.from_pretrained(options.model)
    check_classes(model.task)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    settings = _settings(options.model)
    record = _record(Path(options.model), settings, model)
    cases = _table_cases(options, model, settings) if options.table else _single_case(options, model)
    if options.rows is None:
        print(write_case(model, cases[0], options.output, record=record))
    else:
        pages = write_cases(model, cases, options.output, record=record)
        print(f"{len(pages)} pages and index.html are in {options.output}")
    if options.with_text:
        print("The output holds report text or cells that may identify a patient.")


def _check(options: argparse.Namespace) -> None:
    """Refuse options that exclude each other."""
    if options.table is None:
        for name in ("row", "rows", "evidence"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} belongs to --table")
        if options.with_text:
            raise ValueError("--with-text belongs to --table: one case from files has no report text")
        return
    if options.row is None and options.rows is None:
        raise ValueError("--table needs --row K for one page, or --rows K-L for a folder of pages")
    if options.attributes is not None:
        raise ValueError("--attributes is for one case; with --table, the attributes are columns of the table")
    if options.evidence is not None and not options.with_text:
        raise ValueError("--evidence marks words of the report, whose text is shown only with --with-text; add it")


def _single_case(options: argparse.Namespace, model: AlignedFusionClassifier) -> list[Case]:
    from alignedfusion.pages import single_case

    return single_case(model, options.image or [], read_attributes(options.attributes))


def _table_cases(options: argparse.Namespace, model: AlignedFusionClassifier, settings: dict[str, Any]) -> list[Case]:
    from alignedfusion.pages import table_cases
    from alignedfusion.reports.showing import TableEvidence
    from alignedfusion.reports.table import evidence_file

    frame, root = read_cases(options.table, options)
    images = options.image or settings.get("images", model.image_modalities)
    evidence, key = None, []
    if options.with_text:
        file = Path(options.evidence or evidence_file(options.table))
        if options.evidence and not file.is_file():
            raise FileNotFoundError(f"there is no evidence at {str(file)!r}")
        evidence = TableEvidence.read(file) if file.is_file() else None
        names = (settings.get("key"), settings.get("group"), *images)
        key = [name for name in dict.fromkeys(names) if name is not None and name in frame.columns]
    rows = [options.row] if options.rows is None else options.rows
    return table_cases(
        model,
        frame,
        rows,
        images=images,
        root=root,
        label=settings.get("label"),
        key=key,
        is_trained=_find_trained(Path(options.model) / "trained_on.json", frame, rows, images, root, settings),
        evidence=evidence,
    )


def _find_trained(
    file: Path, frame: pd.DataFrame, rows: list[int], images: list[str], root: Path, settings: dict[str, Any]
) -> list[bool] | None:
    """Whether the run was trained on each of the rows; None if it cannot be known."""
    from alignedfusion.datasets.columns import CaseColumns
    from alignedfusion.datasets.identity import find_trained_cases

    needed = {*images, settings.get("label"), settings.get("key")} - {None}
    if not settings or not file.is_file() or not needed <= {*frame.columns} or not {*rows} <= {*frame.index}:
        return None
    columns = CaseColumns(images=tuple(images), label=settings["label"], attributes=tuple(settings["attributes"]))
    return find_trained_cases(file, frame.loc[rows], columns, root)


def _settings(model: str) -> dict[str, Any]:
    """The settings of a run; empty for a model from elsewhere."""
    from alignedfusion.tables.files import read_json

    file = Path(model) / "settings.json"
    if not file.is_file():
        return {}
    settings: dict[str, Any] = read_json(
        file, "name the image columns with --image", keys=("images", "label", "attributes")
    )
    return settings


def _record(folder: Path, settings: dict[str, Any], model: AlignedFusionClassifier) -> Callable[[float], str]:
    from alignedfusion.pages import TrackRecord

    predictions = folder / "predictions.csv"
    if not settings or not predictions.is_file():
        return lambda _: ""
    return TrackRecord.of_run(predictions, settings["label"], model.class_names)


def _rows(text: str) -> list[int]:
    """Rows such as 0-49 or 3,14,20-25, each of them once."""
    rows: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"rows are written like 0-49 or 3,14,20-25, got {text!r}")
        rows |= dict.fromkeys(range(int(match[1]), int(match[2] or match[1]) + 1))
    return list(rows)
