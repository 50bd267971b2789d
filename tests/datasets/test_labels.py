import re

import numpy as np
import pandas as pd
import pytest
import torch

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.labels import Labels, read_strata, strata_of
from alignedfusion.datasets.splits import draw_splits, join_small
from alignedfusion.datasets.suspects import warn_of_leaks
from alignedfusion.datasets.tasks import resolve_task

NAN = float("nan")


def read(task, **columns):
    return Labels(tuple(columns), task, tuple(columns)).read(pd.DataFrame(columns))


@pytest.mark.parametrize(
    "cells",
    [
        [1, 0, None],
        [1.0, 0.0, NAN],
        ["1", "0", ""],
        ["Yes", "NO", "UN"],
        ["true", "False", None],
        [True, False, None],
        ["Positive", "negative", pd.NA],
        ["present ", " Absent", NAN],
        [np.bool_(True), np.int8(0), None],
    ],
)
def test_all_spellings_of_yes_and_no(cells):
    labels = read("multilabel", a=cells, b=cells[::-1])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[1, -1], [0, 0], [-1, 1]]


def test_numbers_keep_their_unit_and_empty_cells_are_unknown():
    labels = read("regression", a=[1, None, "2,5"], b=["-3.25", 1e3, ""])
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels, torch.tensor([[1, -3.25], [NAN, 1000], [2.5, NAN]]), equal_nan=True)


def test_classes_are_their_index_up_to_case_and_spaces():
    labels = Labels(("kind",), "multiclass", ("a", "b"))
    assert labels.read(pd.DataFrame({"kind": ["b", " A", "a"]}, index=[7, 7, 9])).tolist() == [1, 0, 0]


MISTAKES = [
    (
        "multilabel",
        [1, "maybe", 0, 2],
        "present or absent, and leave a cell empty where the label is unknown; numbers are the task regression, and classes "
        "are one column of the task multiclass): 'maybe' (row 1); 2 (row 3)",
    ),
    ("multilabel", [1, 0, -1, 0], "1 cells of the label column 'a' are neither yes nor no"),
    ("multilabel", [1, 0, "error", 0], "'error' (row 2)"),
    ("regression", [1, "old", 2, "1,250"], "2 cells of the label column 'a' are no numbers (write a number without a unit"),
    ("regression", [1, "old", 2, "1,250"], "'old' (row 1); '1,250' (row 3)"),
    ("regression", [1, 2, float("inf"), 3], "are no numbers"),
    ("regression", [1, "2,5", "n.a.", "1.250"], "both decimal signs, '1.250' (row 3) and '2,5' (row 1); write all of them"),
    ("multiclass", ["x", "y", None, "x"], "1 rows have no label: 2"),
    ("multiclass", ["x", "y", "z"], "1 rows of column 'a' have a label that is not among the classes ['x', 'y']: row 2 ('z')"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "cells", "message"), MISTAKES)
def test_cells_that_do_not_fit_the_task_are_named(task, cells, message):
    names = ("x", "y") if task == "multiclass" else ("a",)
    with pytest.raises(ValueError, match=re.escape(message)):
        Labels(("a",), task, names).read(pd.DataFrame({"a": cells}))


def learn(task, splits=None, **columns):
    frame = pd.DataFrame(columns)
    splits = np.array(["train"] * len(frame) if splits is None else splits, dtype=object)
    return Labels.learn(frame, tuple(columns), task, splits)


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("multilabel", {"a": [1, 1, 0, 0, 1], "b": [1, 0, 0, None, 0]}, "leave out 'b' (1 positive, 3 negative)"),
        ("multilabel", {"a": [1, 1, 1], "b": [None] * 3}, "'a' (3 positive, 0 negative); 'b' (0 positive, 0 negative)"),
        (
            "regression",
            {"a": [3.0, 3.0, None]},
            "two different numbers among the training cases; leave out 'a' (2 known)",
        ),
    ],
)
def test_labels_that_teach_nothing_are_named(task, columns, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        learn(task, **columns)


def test_only_training_rows_count():
    with pytest.raises(ValueError, match="leave out 'a'"):
        learn("multilabel", ["train"] * 3 + ["test"] * 2, a=[1, 0, 0, 1, 0])


def test_a_wrong_cell_outside_the_training_rows_is_found_too():
    with pytest.raises(ValueError, match="'unclear' "):
        learn("multilabel", ["train"] * 4 + ["test"], a=[1, 0, 0, 1, "unclear"])


def test_counts():
    frame = pd.DataFrame({"a": ["yes", "no", None, "no"], "b": [1, 1, 1, 0]})
    assert Labels(("a", "b"), "multilabel", ("a", "b")).count(frame) == {
        "a": {"positive": 1, "negative": 2, "unknown": 1},
        "b": {"positive": 3, "negative": 1, "unknown": 0},
    }
    numbers = Labels(("b", "c"), "regression", ("b", "c")).count(frame.assign(c=None))
    assert numbers["b"] == {"known": 4, "unknown": 0, "mean": 0.75, "deviation": pytest.approx(3**0.5 / 4)}
    assert numbers["c"] == {"known": 0, "unknown": 4, "mean": None, "deviation": None}
    assert Labels(("a",), "multiclass", ("no", "yes")).count(frame.dropna()) == {"no": 2, "yes": 1}


@pytest.mark.parametrize(
    ("columns", "task", "expected"),
    [
        (("a",), "", "multiclass"),
        (("a", "b"), "", "multilabel"),
        (("a",), "multilabel", "multilabel"),
        (("a", "b"), "regression", "regression"),
        (("a",), "regression", "regression"),
    ],
)
def test_the_task_follows_from_the_number_of_columns(columns, task, expected):
    assert resolve_task(columns, task) == expected
    assert CaseColumns(images="file", label=columns, task=task).task == expected


@pytest.mark.parametrize(
    ("label", "task", "message"),
    [
        (
            ("a", "b"),
            "multiclass",
            "the task multiclass has one label column, whose cells name the class; got ['a', 'b']",
        ),
        ("a", "binary", "task must be one of ['multiclass', 'multilabel', 'regression'], got 'binary'"),
        (("a", "a"), "", "label must name one or more distinct columns, got ('a', 'a')"),
        ((), "", "label must name one or more distinct columns"),
    ],
)
def test_label_columns_that_do_not_fit_the_task(label, task, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CaseColumns(images="file", label=label, task=task)


def test_the_stratum_of_a_case_is_its_rarest_answer():
    # positive 4, 2, 1; negative 2, 3, 4
    labels = np.array([[1, 1, 0], [1, 0, -1], [1, 0, 0], [0, 0, 1], [0, -1, 0], [1, 1, 0], [-1, -1, -1]])
    strata = strata_of(labels, "multilabel", ["a", "b", "c"])
    assert strata.tolist() == ["b", "no b", "no b", "c", "no a", "b", "no label is known"]


def test_the_stratum_of_a_number_is_its_fifth():
    values = np.array([[i, NAN] for i in range(10)] + [[NAN, 3.0]], dtype=np.float32)
    strata = strata_of(values, "regression", ["size", "depth"])
    assert strata.tolist() == [f"fifth {1 + i // 2} of size" for i in range(10)] + ["no size"]


def test_small_strata_are_joined_and_can_be_drawn():
    strata = np.array(["a"] * 20 + ["b"] * 3 + ["c"] * 2 + ["d"] * 9, dtype=object)
    joined = join_small(strata, None)
    assert joined.tolist() == ["a"] * 20 + ["others"] * 5 + ["d"] * 9
    assert {*draw_splits(joined, None, 0)} == {"train", "valid", "test"}
    assert join_small(strata[:22], None).tolist() == ["a"] * 22  # two others are still too few
    patients = pd.Series([f"P{i // 10}" for i in range(34)])
    assert join_small(strata, patients).tolist() == ["others"] * 34  # three patients at most have each


def test_drawn_splits_have_similar_shares_of_every_label():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({name: generator.random(400) < share for name, share in (("a", 0.4), ("b", 0.1), ("c", 0.03))})
    splits = draw_splits(join_small(read_strata(frame, tuple(frame), "multilabel"), None), None, 0)
    for name in frame:
        expected = 0.2 * frame[name].sum()
        assert abs(frame[name][splits == "test"].sum() - expected) <= 1 + 0.25 * expected


def test_rare_negatives_are_in_every_split_where_most_labels_are_unknown():
    cells = np.full((300, 2), -1)
    cells[:40, 0], cells[40:52, 0], cells[52:64, 1], cells[64:90, 1] = 1, 0, 0, 1
    strata = join_small(strata_of(cells, "multilabel", ["a", "b"]), None)
    splits = draw_splits(strata, None, 0)
    for name in ("train", "valid", "test"):
        assert all((cells[splits == name, column] == answer).any() for column in (0, 1) for answer in (0, 1))


def test_several_label_columns_may_not_be_attributes():
    frame = pd.DataFrame({"file": ["x"], "a": [1], "b": [0]})
    columns = CaseColumns(images="file", label=("a", "b"), attributes=("a", "b"))
    with pytest.raises(ValueError, match=re.escape("the label columns ['a', 'b'] are among the attributes")):
        columns.check(frame)
    assert columns.reserved == {"file", "a", "b"}


def test_leaks_of_several_labels_and_of_numbers_are_named(caplog):
    generator = np.random.default_rng(0)
    grade = generator.integers(0, 3, 90)
    frame = pd.DataFrame({"grade": [("low", "mid", "high")[g] for g in grade], "sex": generator.choice(["f", "m"], 90)})
    frame["ill"] = [None if i % 5 == 0 else int(g == 2) for i, g in enumerate(grade)]
    frame["other"] = generator.integers(0, 2, 90)
    frame["size"] = 10.0 * grade + generator.normal(0, 1, 90)
    schema = AttributeSchema.from_table(frame, ["grade", "sex"])
    with caplog.at_level("WARNING"):
        warn_of_leaks(frame, schema, Labels(("ill", "other"), "multilabel", ("ill", "other")))
        warn_of_leaks(frame, schema, Labels(("size",), "regression", ("size",)))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the column 'grade' alone predicts 'ill' in 100 % of the training cases",
        "the column 'grade' alone predicts 'size' with R2 0.98",
    ]
