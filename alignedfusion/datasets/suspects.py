"""Columns of a table that should not be attributes: identifiers, and columns that alone nearly give the label away."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.attributes.cells import as_text, is_unmentioned

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from alignedfusion.attributes import AttributeSchema

FEW = 8
"""A column with at most this many distinct values is none of identifiers, whatever its name."""
DISTINCT = 0.9
"""Share of distinct cells from which a column of texts or numbers counts as one of identifiers."""
FEWEST_TEXTS, FEWEST_NUMBERS = 20, 150
"""Fewer recorded cells show nothing: they may be distinct by chance, as the ages of a hundred patients may."""
LEAK = 0.8
"""Share of the errors of the most frequent class that a column alone avoids, from which it counts as a leak."""

_IDENTIFIER = {"id", "ids", "uid", "uuid", "guid", "identifier", "accession", "mrn"}
_NUMBERED = re.compile(
    r"(patient|case|study|subject|record|exam|visit|sample|image|img|lesion|row|file)[ _-]?"
    r"(id|idx|index|key|no|nr|number|name)|patient|subject|case|unnamed: \d+",  # the last is how pandas names an index
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


def identifier_reason(name: str, cells: Iterable[Any]) -> str:
    """Why a column looks like an identifier, or an empty text.

    Such a column has texts or whole numbers. It is named like an identifier ("lesion_id", "patientID", "case_index") and has
    more than a few values, or nearly all of its cells are distinct, and they are texts or consecutive numbers.

    Args:
        name: Name of the column.
        cells: Its cells.
    """
    texts = [as_text(cell) for cell in cells if not is_unmentioned(cell)]
    if not texts:
        return ""
    distinct = set(texts)
    are_whole = all(re.fullmatch(r"\d+(\.0)?", text) for text in texts)
    if not are_whole and all(_is_number(text) for text in texts):
        return ""
    is_named = bool(_IDENTIFIER.intersection(_words(name))) or _NUMBERED.fullmatch(name.strip()) is not None
    if is_named and len(distinct) > FEW:
        return f"it is named like an identifier and has {len(distinct)} distinct values"
    if len(texts) < (FEWEST_NUMBERS if are_whole else FEWEST_TEXTS) or len(distinct) < DISTINCT * len(texts):
        return ""
    if are_whole and not _are_consecutive([int(float(text)) for text in distinct]):
        return ""
    return f"it looks like an identifier or free text: {len(distinct)} of its {len(texts)} recorded cells are distinct"


def find_leaks(codes: Tensor, labels: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    """The columns that alone nearly give the label away, with the accuracy of a decision tree on that column alone.

    The tree reads the codes of one column, in which an unmentioned cell is a code of its own; cross-validation tests it.
    A column counts if the tree avoids 80 % of the errors of always predicting the most frequent class.

    Args:
        codes: int64 (n, A), codes of the training rows.
        labels: Their n labels.
        names: Names of the A columns.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    _, target, counts = np.unique(np.asarray(labels, dtype=str), return_inverse=True, return_counts=True)
    is_kept = (counts >= 3)[target]  # a class needs cases to learn from and cases to test on
    target, counts = target[is_kept], counts[counts >= 3]
    if len(counts) < 2:
        return {}
    majority = counts.max() / counts.sum()
    folds = StratifiedKFold(min(5, int(counts.min())), shuffle=True, random_state=0)
    leaks = {}
    for name, column in zip(names, codes.numpy()[is_kept].T, strict=True):
        # One column per code: the order of categories has no meaning.
        is_code = column[:, None] == np.unique(column)
        accuracy = cross_val_score(DecisionTreeClassifier(random_state=0), is_code, target, cv=folds).mean()
        if accuracy - majority >= LEAK * (1 - majority):
            leaks[name] = float(accuracy)
    return leaks


def warn_of_leaks(rows: pd.DataFrame, schema: AttributeSchema, label: str) -> None:
    """Log the attributes of training rows that alone nearly give the label column away, see `find_leaks`."""
    leaks = find_leaks(schema.encode(rows, unseen="unknown"), list(rows[label]), schema.names)
    for name, accuracy in leaks.items():
        _log.warning(
            "the column %r alone predicts %r in %.0f %% of the training cases: if it follows from the label, it is not known "
            "for a new case; leave it out (--exclude %s)",
            name,
            label,
            100 * accuracy,
            name,
        )


def _words(name: str) -> list[str]:
    """The words of a column's name in lower case: "patientID" and "patient_id" have the words "patient" and "id"."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d*[.,]?\d+([eE][-+]?\d+)?", text) is not None


def _are_consecutive(numbers: Sequence[int]) -> bool:
    """Whether numbers fill at least half of their range, as row numbers do."""
    return max(numbers) - min(numbers) < 2 * len(numbers)
