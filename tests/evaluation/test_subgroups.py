import logging

import numpy as np
import pandas as pd
import pytest

from alignedfusion import Attribute, AttributeSchema
from alignedfusion.evaluation import measure, subgroup_columns, subgroup_metrics, subgroup_table
from alignedfusion.evaluation.subgroups import NOT_RECORDED, unpack_subgroups

SCHEMA = AttributeSchema(
    [Attribute("age", kind="numeric", units="years", edges=(30, 60)), Attribute("sex", values=("male", "female"))]
)
FRAME = pd.DataFrame(
    {
        "age": ["12", "30", None, "59", "60", "88"],
        "sex": ["female", "Male", "male", None, "female", "female"],
        "hospital": ["b", "a", "a", "b", "a", None],
    }
)


def test_numbers_are_divided_at_the_edges_of_the_schema():
    columns = subgroup_columns(FRAME, ["age", "sex", "hospital"], SCHEMA)
    assert list(columns["age"]) == [
        "below 30 years", "30 to 60 years", np.nan, "30 to 60 years", "60 years or more", "60 years or more",
    ]  # fmt: skip
    assert list(columns["sex"].categories) == ["male", "female"]  # spelled and ordered as in the schema
    assert columns["sex"].codes.tolist() == [1, 0, 0, -1, 1, 1]
    assert list(columns["hospital"]) == ["b", "a", "a", "b", "a", np.nan]


def test_a_subgroup_has_the_metrics_of_its_cases_alone():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), 90), rng.integers(0, 3, 90)
    patients = [f"P{i // 2}" for i in range(90)]
    sex = rng.permutation(["female"] * 50 + ["male"] * 35 + [None] * 5)
    found = subgroup_metrics(probabilities, labels, {"sex": sex}, ["a", "b", "c"], groups=patients, resamples=50)
    assert list(found["sex"]) == ["female", "male", NOT_RECORDED]
    own = sex == "male"
    alone = measure(probabilities[own], labels[own], ["a", "b", "c"], groups=np.array(patients)[own], resamples=50)
    assert found["sex"]["male"] == alone
    assert [metrics.cases for metrics in found["sex"].values()] == [50, 35, 5]


def test_a_subgroup_with_few_cases_is_marked_and_logged(caplog):
    probabilities, labels = np.full((60, 2), 0.5), np.arange(60) % 2
    site = ["arm"] * 52 + ["leg"] * 8
    with caplog.at_level(logging.WARNING, logger="alignedfusion"):
        found = subgroup_metrics(probabilities, labels, {"site": site}, resamples=20)
    warning = "fewer than 50 cases, too few to conclude from: site leg (8)"
    assert caplog.messages == [warning]
    lines = subgroup_table(found).splitlines()
    assert lines[-1] == warning
    assert [line.split()[:4] for line in lines[1:3]] == [["site", "arm", "52", "50.0"], ["site", "leg", "8", "!"]]


def test_subgroups_without_a_labelled_case_are_left_out():
    probabilities = np.full((4, 2), 0.5)
    found = subgroup_metrics(probabilities, np.array([0, 1, -1, -1]), {"x": ["a", "a", "b", "c"]}, resamples=5)
    assert list(found["x"]) == ["a"]


def test_subgroups_go_to_json_and_back():
    found = subgroup_metrics(np.full((4, 2), 0.5), np.array([0, 1, 0, 0]), {"x": [1, 1, 2, 2]}, resamples=5)
    data = {column: {value: m.to_dict() for value, m in values.items()} for column, values in found.items()}
    assert subgroup_table(unpack_subgroups(data)) == subgroup_table(found)


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"the table has no columns \['sxe'\] for subgroups; it has"):
        subgroup_columns(FRAME, ["sxe"], SCHEMA)
    with pytest.raises(ValueError, match="column 'x' must have one cell per label, got 3 for 2"):
        subgroup_metrics(np.full((2, 2), 0.5), np.array([0, 1]), {"x": [1, 1, 2]})
