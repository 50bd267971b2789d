"""Extraction as a map over batches, for engines that spread a million reports over machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignedfusion.reports.rules.extractor import RuleExtractor
from alignedfusion.reports.rules.lexicon import Lexicon
from alignedfusion.reports.table import join_texts, shown
from alignedfusion.reports.types import ReportFailedError, Row

if TYPE_CHECKING:
    import pandas as pd


class ExtractBatch:
    """Turns a batch of reports into a batch of the attribute table, as `extract_table` does, without the evidence.

    For Ray Data: `dataset.map_batches(ExtractBatch, fn_constructor_args=("chest_xray",), fn_constructor_kwargs={"text":
    ["findings"]}, batch_format="pandas", concurrency=8)`. Anything else that maps a function over DataFrames takes an instance.

    Args:
        lexicon: What `Lexicon.load` takes, or a `Lexicon`.
        text: The columns that hold the reports.
        prefix: Put before the names of the attribute columns.
    """

    def __init__(self, lexicon: Lexicon | str, *, text: Sequence[str] = ("text",), prefix: str = "") -> None:
        self.extractor = RuleExtractor(lexicon)
        self.text, self.prefix = list(text), prefix

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The batch without its text, with one column per attribute."""
        rows: list[Row | str] = []
        for text in join_texts(batch, self.text):
            try:
                rows.append(self.extractor.extract(text))
            except ReportFailedError as error:
                rows.append(str(error))
        columns = {self.prefix + name: [shown(row, name) for row in rows] for name in self.extractor.names}
        return batch.drop(columns=self.text).assign(**columns)
