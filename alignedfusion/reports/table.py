"""A table of reports in, a table of attributes out; beside it, where every cell comes from."""

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
    """Fill the attribute table of a cohort (eq. 4), with all other columns of the reports' table but their text.

    Beside the table lies `OUTPUT.evidence.jsonl`: for every cell its state and the characters it rests on. It grows while
    reports are read; the same call after an interruption goes on from there, and reads those that failed again.

    Args:
        reports: See `read_reports`.
        extractor: Reads one report.
        output: The table, .csv or .parquet.
        text: The columns that hold the reports.
        prefix: Put before the names of the attribute columns.
        about: Settings of the extractor; an unfinished extraction with others is refused.
        workers: Processes.
        on_ray: Read on a Ray cluster instead, see `cluster.map_on_ray`.
        progress: Show a progress bar.

    Warns:
        UserWarning: If the rules read English only and a share of the reports does not look English.

    Returns:
        The table, with "UN" where a report says nothing and "error" where it could not be read.

    Raises:
        ValueError: If a column is missing or would be there twice, or the output belongs to another extraction.
    """
    output = check_name(output)
    frame = read_reports(reports)
    texts = join_texts(frame, text)
    if getattr(extractor, "is_english_only", False):
        warn_unless_english(texts)
    columns = [prefix + name for name in extractor.names]
    if twice := sorted({*columns} & {*frame.columns.drop(list(text))}):
        raise ValueError(f"the table has columns {twice} already; --prefix puts something before the new ones")
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
            table = table.assign(**_numbers(table, columns))  # a CSV has no types, a parquet file has
        write_table(table, output)
    return table


def evidence_file(table: str | Path) -> Path:
    """Where the evidence of a table lies."""
    return Path(f"{table}.evidence.jsonl")


def shown(row: Row | str, name: str) -> str:
    """The cell as the table shows it; a row that is no row is the reason why it could not be read."""
    if isinstance(row, str):
        return FAILED
    value = row[name].value
    return UN if value is None else value


def _numbers(table: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.Series[float]]:
    """The columns that hold numbers, as numbers."""
    import pandas as pd

    cells = {name: table[name].where(table[name] != UN) for name in columns}
    numbers = {name: pd.to_numeric(each, errors="coerce") for name, each in cells.items()}
    return {
        name: each for name, each in numbers.items() if each.notna().any() and (each.isna() == cells[name].isna()).all()
    }


def digest_of(texts: Sequence[str]) -> str:
    """What tells these texts from others."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
