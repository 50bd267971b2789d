"""How often a run's test predictions were right, as a sentence beside a probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alignedfusion.tables.files import read_table

MIN_CASES = 10
WIDTH = 0.1


class TrackRecord:
    """The test predictions of a run: their highest probabilities, and whether they were right.

    Args:
        probabilities: (n,), the probability of the predicted class.
        is_right: (n,), whether the predicted class is the label.
    """

    def __init__(self, probabilities: np.ndarray, is_right: np.ndarray) -> None:
        self.probabilities, self.is_right = probabilities, is_right

    @classmethod
    def of_run(cls, predictions: Path, label: str, class_names: tuple[str, ...]) -> TrackRecord:
        """Read the predictions that a run wrote.

        Args:
            predictions: The file `predictions.csv` of the run.
            label: The label column.
            class_names: The classes of the model.
        """
        table: Any = read_table(predictions)
        probabilities = [f"p({name})" for name in class_names]
        shares = table[probabilities].astype(float).to_numpy()
        chosen = [class_names.index(name) for name in table[_column_of_predictions(table, label)].astype(str)]
        is_right = np.array(class_names)[chosen] == table[label].astype(str).to_numpy()
        return cls(shares[np.arange(len(shares)), chosen], is_right)

    def __call__(self, probability: float) -> str:
        """How often predictions with a probability in the same tenth were right."""
        low = min(int(probability / WIDTH), round(1 / WIDTH) - 1) * WIDTH
        is_near = (self.probabilities >= low) & ((self.probabilities < low + WIDTH) | (low + WIDTH >= 1))
        count, right = int(is_near.sum()), int(self.is_right[is_near].sum())
        between = f"with a probability of {100 * low:.0f} to {100 * (low + WIDTH):.0f} %"
        if count < MIN_CASES:
            return f"Only {count} test predictions {between} exist: too few to check it."
        return f"Of {count} test predictions {between}, {right} ({100 * right / count:.0f} %) were right."


def _column_of_predictions(table: Any, label: str) -> str:
    """The first column after the label; it has another name than "predicted" if an image or the label is called so."""
    columns = list(table.columns)
    return str(columns[columns.index(label) + 1])
