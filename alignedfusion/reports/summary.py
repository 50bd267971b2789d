"""Summary of an extracted table: how often each attribute is mentioned, as a table and a plot, and which reports failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.reports.table import evidence_file
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNCERTAIN, UNVERIFIED
from alignedfusion.tables.journal import read_journal

if TYPE_CHECKING:
    import pandas as pd


def summarize(table: str | Path) -> pd.DataFrame:
    """Shares of the reports in which each attribute is positive, negative, uncertain or unmentioned.

    Reports that could not be read are left out. A value of its own, such as "nodular" or "63", counts as positive.

    Returns:
        A DataFrame with one row per attribute.
    """
    import pandas as pd

    about, rows, _ = read_journal(evidence_file(table))
    read = [line["cells"] for line in rows.values() if "cells" in line]
    states = (POSITIVE, NEGATIVE, UNCERTAIN, UNVERIFIED)
    seen = Counter((name, state) for cells in read for name, (_, state, *_) in cells.items())
    names = about["attributes"]
    counts = pd.DataFrame({state: [seen[name, state] for name in names] for state in states}, index=names)
    shares = counts / max(len(read), 1)
    if not counts[UNVERIFIED].any():
        shares = shares.drop(columns=UNVERIFIED)
    return shares.assign(unmentioned=1 - shares.sum(axis=1))


def failures(table: str | Path) -> dict[int, str]:
    """Reasons for the reports that could not be read, by row number."""
    rows = read_journal(evidence_file(table))[1]
    return {number: line["error"] for number, line in sorted(rows.items()) if "error" in line}


def draw_shares(table: Any, path: str | Path, *, title: str) -> None:
    """Draw a table of shares as one bar per row, divided by column.

    Args:
        table: A DataFrame; each row sums to one.
        path: Image file to write.
        title: Title of the plot.
    """
    from matplotlib.figure import Figure

    colors = {"positive": "#2a9d8f", "negative": "#457b9d", "uncertain": "#e9c46a", "unverified": "#b5179e"}
    figure = Figure(figsize=(8.0, 1.4 + 0.24 * len(table)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(table)
    for column in table.columns:
        widths = [100 * share for share in table[column]]
        axes.barh(
            [str(name) for name in table.index], widths, left=left, label=column, color=colors.get(column, "#e5e5e5")
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of reports (%)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=len(table.columns), frameon=False)
    figure.savefig(path, dpi=150)
