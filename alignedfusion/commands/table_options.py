"""Arguments shared by the commands that read a table of cases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BACKBONE = "vit_small_patch16_224"  # that of modules.backbones, which imports torch


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """Add the table as a positional argument."""
    parser.add_argument("manifest", metavar="TABLE", help="CSV or parquet file, one row per case")


def add_table_options(parser: Any) -> None:
    """Add the options for reading the table."""
    parser.add_argument(
        "--image-root",
        metavar="FOLDER",
        help="folder that relative image paths start from (default: the table's folder)",
    )
    parser.add_argument(
        "--missing-values", nargs="+", default=[], metavar="TEXT", help="additional texts that mean 'not recorded'"
    )


def add_case(parser: Any) -> None:
    """Add the images and attributes of a single case."""
    parser.add_argument(
        "--image",
        nargs="+",
        metavar="F",
        help="image files, in the order of the run's columns; with --table, image columns (default: those of the run)",
    )
    parser.add_argument("--attributes", metavar="JSON", help="mentioned attributes, such as '{\"age\": 54}'")


def add_splits(parser: Any) -> None:
    """Add the columns that the splits are drawn by, or read from."""
    parser.add_argument("--group", metavar="COL", help="column with the patient: no patient is in two splits")
    parser.add_argument(
        "--split",
        metavar="COL",
        help="column with train, valid or test (default: a random split of 64, 16 and 20 %%)",
    )


def add_backbone(parser: Any, default: str | None = DEFAULT_BACKBONE) -> None:
    """Add the backbone; without a default it is that of stored tokens, if there are some."""
    fallback = default or f"that of --tokens, or {DEFAULT_BACKBONE}"
    parser.add_argument(
        "--backbone",
        default=default,
        metavar="NAME",
        help=f"any timm model, also hf-hub:OWNER/MODEL (default: {fallback})",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="local weights of the backbone (default: timm's, from its hub)"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side of the input (default: that of the backbone)"
    )
    parser.add_argument(
        "--timm-args",
        type=_json_object,
        metavar="JSON",
        help="arguments of timm.create_model for the backbone, such as '{\"init_values\": 1e-5}'",
    )


def add_fitting(parser: Any, epochs: int) -> None:
    """Add the number of epochs, the size of batches and the learning rate."""
    parser.add_argument(
        "--epochs", type=int, default=epochs, help=f"passes over the training cases (default: {epochs})"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="cases per step (default: 32)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        help="peak learning rate; a tenth of it for the backbone's own weights (default: 1e-3)",
    )


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object such as '{{\"init_values\": 1e-5}}'")
    return value


def add_max_unreadable(parser: Any) -> None:
    """Add the limit on cells that cannot be read."""
    parser.add_argument(
        "--max-unreadable",
        type=float,
        default=0.5,
        metavar="S",
        help="refuse a column if more than this share of its recorded cells cannot be read (default: 0.5)",
    )


def add_subgroups(parser: Any) -> None:
    """Add the columns of subgroups."""
    parser.add_argument(
        "--subgroup",
        nargs="+",
        default=[],
        metavar="COL",
        help="columns by which the metrics are also reported, such as sex or age",
    )


def add_case_pages(parser: Any) -> None:
    """Add the choice to write case pages."""
    parser.add_argument(
        "--case-pages",
        action="store_true",
        help="also write the pages of the twenty most confident errors, with their images, into the folder cases",
    )


def print_results(result: Mapping[str, Any]) -> None:
    """Print what `evaluation.testing.evaluate_model` returned."""
    from alignedfusion.evaluation.intervals import Metrics
    from alignedfusion.evaluation.metrics import describe_missing, table
    from alignedfusion.evaluation.subgroups import subgroup_table, unpack_subgroups

    print(Metrics.from_dict(result["test"]))
    if "subgroups" in result:
        print(f"\n{subgroup_table(unpack_subgroups(result['subgroups']))}")
    print(f"\n{describe_missing(result['missing'])}\n{table(result['missing'])}")


def read_cases(path: str, options: argparse.Namespace) -> tuple[pd.DataFrame, Path]:
    """The table, and the folder that its relative image paths start from."""
    from alignedfusion.tables.files import read_table

    return read_table(path, missing_values=options.missing_values), Path(options.image_root or Path(path).parent)


def read_attributes(text: str | None) -> dict[str, Any]:
    """The attributes of one case from the text of `--attributes`."""
    try:
        attributes = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"--attributes is not JSON ({error}): write it like '{{\"age\": 54}}'") from error
    if not isinstance(attributes, dict):
        raise ValueError(f"--attributes must be a JSON object of names and values, got {text}")
    return attributes
