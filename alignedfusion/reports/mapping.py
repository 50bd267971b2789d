"""Extraction without files: batches for engines that spread a million reports over machines, and rows as codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from alignedfusion.reports.rules.extractor import RuleExtractor
from alignedfusion.reports.rules.lexicon import Lexicon
from alignedfusion.reports.sources import join_texts
from alignedfusion.reports.table import shown
from alignedfusion.reports.types import ReportFailedError, Row

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from alignedfusion.attributes import AttributeSchema


def encode_rows(rows: Iterable[Row], schema: AttributeSchema) -> Tensor:
    """Encode extracted rows as codes, the input of a model.

    Args:
        rows: Rows that an extractor returned, one per report.
        schema: The model's attributes, such as `lexicon.schema()`; attributes of a row that it does not have are left out, and
            those that a row does not have are unmentioned.

    Returns:
        int64 (B, A).
    """
    names = {*schema.names}
    return schema.encode([{name: cell.value for name, cell in row.items() if name in names} for row in rows])


class ExtractBatch:
    """Extracts a batch of reports into a batch of the attribute table, as `extract_table` does, but without evidence.

    For Ray Data: `dataset.map_batches(ExtractBatch, fn_constructor_args=("chest_xray",), fn_constructor_kwargs={"text":
    ["findings"]}, batch_format="pandas", concurrency=8)`. An instance can also be passed to any other engine that maps a
    function over DataFrames.

    Args:
        lexicon: A `Lexicon`, or an argument of `Lexicon.load`.
        text: Columns with the reports.
        prefix: Prefix of the names of the attribute columns.
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
