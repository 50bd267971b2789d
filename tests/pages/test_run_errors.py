import numpy as np

from alignedfusion.pages import RunCases
from alignedfusion.pages.run_errors import error_cells, error_heads

ROWS, CODES = np.array([5, 8, 9]), np.array([[0, -1], [1, 1], [-1, -1]])
NAN = float("nan")


def texts(tested, names):
    heads = error_heads(tested.task)
    cells = [error_cells(tested, error, names) for error in tested.errors()]
    assert all(len(row) == len(heads) for row in cells)
    return [
        (int(tested.rows[i]), *(text.replace("\u00a0", "") for text, _ in row))
        for (i, _), row in zip(tested.errors(), cells, strict=True)
    ]


def test_the_most_confident_wrong_class_comes_first():
    outputs = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    tested = RunCases(ROWS, CODES, np.array([1, 0, -1]), outputs, outputs.argmax(1))
    assert texts(tested, ("a", "b")) == [(8, "a", "b", "80.0%", "20.0%", "2"), (5, "b", "a", "60.0%", "40.0%", "1")]


def test_unknown_labels_are_no_errors():
    outputs = np.array([[0.9, 0.4], [0.3, 0.05], [0.6, 0.5]])
    labels = np.array([[0, 1], [-1, 1], [1, -1]])
    tested = RunCases(ROWS, CODES, labels, outputs, (outputs > 0.5).astype(int), "multilabel")
    assert texts(tested, ("a", "b")) == [
        (8, "b", "yes", "5.0%", "2"),
        (5, "a", "no", "90.0%", "1"),
        (5, "b", "yes", "40.0%", "1"),
    ]


def test_errors_of_numbers_are_relative_to_their_spread():
    labels = np.array([[0.0, 100.0], [2.0, NAN], [4.0, 900.0]])
    outputs = np.array([[1.0, 110.0], [2.0, 7.0], [4.0, 500.0]])
    tested = RunCases(ROWS, CODES, labels, outputs, outputs, "regression")
    found = texts(tested, ("size", "dose"))
    assert found[0] == (
        9,
        "dose",
        "900",
        "500",
        "-400",
        "0",
    )  # one deviation; the other known number is 0.6 deviations off
    assert found[1] == (5, "size", "0", "1", "1", "1")
    assert len(found) == 5
