"""Tables whose gaps are filled with the values that a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from alignedfusion.attributes import UNKNOWN, AttributeSchema


def examples_of(frame: pd.DataFrame, schema: AttributeSchema) -> list[list[Any]]:
    """For each attribute one cell per code: a value as the table spells it, or the median of a numeric interval."""
    examples = []
    for attribute, codes in zip(schema, schema.encode(frame, unseen="unknown").T.tolist(), strict=True):
        cells: list[list[Any]] = [[] for _ in attribute.values]
        for code, cell in zip(codes, frame[attribute.name], strict=True):
            if code != UNKNOWN:
                cells[code].append(cell)
        is_numeric = attribute.kind == "numeric"
        examples.append(
            [
                float(np.median([attribute.number(cell) for cell in found])) if is_numeric else found[0]
                for found in cells
            ]
        )
    return examples


def fill_gaps(
    frame: pd.DataFrame, schema: AttributeSchema, codes: Tensor, examples: Sequence[Sequence[Any]]
) -> pd.DataFrame:
    """Copy a table and put an example into each unmentioned cell; all other cells stay as they are.

    Args:
        frame: n rows.
        schema: The attributes.
        codes: int64 (n, A), the value to put into an unmentioned cell.
        examples: The cells that `examples_of` returned.
    """
    filled = frame.copy()
    for attribute, probable, values in zip(schema, codes.T.tolist(), examples, strict=True):
        cells = [
            values[code] if attribute.code(cell) == UNKNOWN else cell
            for code, cell in zip(probable, frame[attribute.name], strict=True)
        ]
        filled[attribute.name] = pd.Series(cells, index=frame.index)
    return filled
