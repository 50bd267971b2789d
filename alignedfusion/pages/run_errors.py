"""The test cases of a run, and where the model is most wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignedfusion.pages.rendering import percent

ERRORS = 20


@dataclass(frozen=True)
class RunCases:
    """The test cases of a run.

    Attributes:
        rows: (n,), their rows in the table.
        codes: (n, A), their attributes.
        labels: (n,), class indices; for other tasks (n, L), unknown labels as in `datasets.labels`.
        outputs: (n, L), the probabilities, or the predicted numbers.
        predicted: (n,), the predicted classes; for other tasks (n, L).
        task: "multiclass", "multilabel" or "regression".
    """

    rows: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray
    predicted: np.ndarray
    task: str = "multiclass"

    @property
    def is_known(self) -> np.ndarray:
        """Which labels are known, with the shape of the labels."""
        return ~np.isnan(self.labels) if self.task == "regression" else self.labels >= 0

    @property
    def confidence(self) -> np.ndarray:
        """(n,), the probability of each predicted class; for several labels (n, L), that of each decision."""
        if self.task == "multilabel":
            return np.where(self.predicted == 1, self.outputs, 1 - self.outputs)
        return self.outputs[np.arange(len(self.predicted)), self.predicted]

    def errors(self) -> list[tuple[int, int]]:
        """The worst predictions, the worst one first, as the position of the case and the column.

        They are the most confident wrong classes or labels, or the largest errors of numbers relative to the spread of their
        labels. The column of a class is 0.
        """
        if self.task == "regression":
            spread = np.nanstd(self.labels, axis=0)
            badness = np.abs(self.outputs - self.labels) / np.where(spread > 0, spread, 1.0)
            is_wrong = self.is_known
        else:
            badness, is_wrong = self.confidence, self.is_known & (self.predicted != self.labels)
        columns = badness.reshape(len(self.rows), -1).shape[1]
        wrong = np.flatnonzero(is_wrong)
        order = np.argsort(-badness.reshape(-1)[wrong], kind="stable")
        return [divmod(int(i), columns) for i in wrong[order][:ERRORS]]


def error_heads(task: str) -> list[str]:
    """Headings of the cells of `error_cells`."""
    if task == "multiclass":
        return ["label", "predicted", "probability", "of the label", "mentioned"]
    if task == "multilabel":
        return ["label", "in the table", "probability", "mentioned"]
    return ["number", "in the table", "predicted", "difference", "mentioned"]


def error_cells(tested: RunCases, error: tuple[int, int], names: tuple[str, ...]) -> list[tuple[str, bool]]:
    """The cells that describe an error, and whether each of them is a number.

    Args:
        tested: The test cases.
        error: One of `tested.errors()`.
        names: The classes, labels or numbers.
    """
    i, column = error
    outputs, mentioned = tested.outputs[i], str((tested.codes[i] >= 0).sum())
    cells: list[tuple[Any, bool]]
    if tested.task == "multiclass":
        label, predicted = int(tested.labels[i]), int(tested.predicted[i])
        cells = [(names[label], False), (names[predicted], False)]
        cells += [(percent(float(outputs[c]), 1), True) for c in (predicted, label)]
    elif tested.task == "multilabel":
        answer = "yes" if tested.labels[i, column] == 1 else "no"
        cells = [(names[column], False), (answer, False), (percent(float(outputs[column]), 1), True)]
    else:
        recorded, value = float(tested.labels[i, column]), float(outputs[column])
        cells = [(names[column], False), *((f"{n:.4g}", True) for n in (recorded, value, value - recorded))]
    return [*cells, (mentioned, True)]
