"""Extraction of a table of reports into a table of attributes, with the evidence of every cell in a second file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.reports.language import warn_unless_english
from alignedfusion.reports.sources import join_texts, read_reports
from alignedfusion.reports.types import UN, Extractor, Row
from alignedfusion.reports.workers import read_all
from alignedfusion.tables.files import FAILED, check_name, lock_output, write_table
from alignedfusion.tables.journal import Journal

if TYPE_CHECKING:
    import pandas as pd


def extract_table(
    reports: str | Path,
    extractor: Extractor,
    output: str | Path,
    *,
    text: Sequence[str] = ("text",),
    prefix: str = "",
    about: Mapping[str, Any] | None = None,
    workers: int = 1,
    on_ray: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Extract the attribute table of a cohort (eq. 4). Other columns of the reports' table are kept, except the text.

    `OUTPUT.evidence.jsonl` beside the table contains the state and the evidence spans of every cell. It is written while
    reports are read. After an interruption, the same call continues from there and tries failed reports again.

    Args:
        reports: Path of the reports; see `read_reports`.
        extractor: Extractor that reads one report.
        output: Path of the table, .csv or .parquet.
        text: Columns with the reports.
        prefix: Prefix of the names of the attribute columns.
        about: Settings of the extractor. An unfinished extraction with other settings is refused.
        workers: Number of processes.
        on_ray: Whether to read on a Ray cluster instead; see `cluster.map_on_ray`.
        progress: Whether to show a progress bar.

    Warns:
        UserWarning: If the rules read English only and a share of the reports does not look English.

    Returns:
        The table, with "UN" for unmentioned attributes and "error" for reports that could not be read.

    Raises:
        ValueError: If a column is missing or would occur twice, or the output belongs to another extraction.
    """
    output = check_name(output)
    frame = read_reports(reports)
    texts = join_texts(frame, text)
    if getattr(extractor, "is_english_only", False):
        warn_unless_english(texts)
    columns = [prefix + name for name in extractor.names]
    if twice := sorted({*columns} & {*frame.columns.drop(list(text))}):
        raise ValueError(f"the table has columns {twice} already; add a prefix to the new columns (--prefix)")
    with lock_output(output):
        journal = Journal(
            evidence_file(output),
            {
                "reports": os.path.relpath(reports, output.parent),
                "text": list(text),
                "prefix": prefix,
                "attributes": list(extractor.names),
                "sha256": digest_of(texts),
                "extractor": dict(about or {}),
            },
        )
        rows = read_all(texts, extractor, journal=journal, workers=workers, on_ray=on_ray, progress=progress)
        table = frame.drop(columns=list(text)).assign(
            **{prefix + name: [shown(row, name) for row in rows] for name in extractor.names}
        )
        if output.suffix == ".parquet" and not any(isinstance(row, str) for row in rows):
            table = table.assign(**_numbers(table, columns))  # parquet files have types, CSV files do not
        write_table(table, output)
    return table


def evidence_file(table: str | Path) -> Path:
    """Path of the evidence of a table."""
    return Path(f"{table}.evidence.jsonl")


def shown(row: Row | str, name: str) -> str:
    """Text of a cell in the table. A row that is a string is the reason why the report could not be read."""
    if isinstance(row, str):
        return FAILED
    value = row[name].value
    return UN if value is None else value


def _numbers(table: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.Series[float]]:
    """The columns that contain numbers, converted to numbers."""
    import pandas as pd

    cells = {name: table[name].where(table[name] != UN) for name in columns}
    numbers = {name: pd.to_numeric(each, errors="coerce") for name, each in cells.items()}
    return {
        name: each for name, each in numbers.items() if each.notna().any() and (each.isna() == cells[name].isna()).all()
    }


def digest_of(texts: Sequence[str]) -> str:
    """Digest that identifies the texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
