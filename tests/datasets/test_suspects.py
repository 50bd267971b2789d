import logging

import numpy as np
import pandas as pd
import pytest
import torch

from alignedfusion.datasets.columns import CaseColumns, usable_attributes
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.suspects import find_leaks, identifier_reason, warn_of_leaks

RNG = np.random.default_rng(0)
SHUFFLED = RNG.permutation(200)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("lesion_id", [f"L{i}" for i in range(60)]),
        ("patientID", RNG.integers(0, 20, 60)),  # several rows per patient
        ("patientid", RNG.integers(0, 20, 60)),
        ("patient", [f"P{i // 2}" for i in range(60)]),
        ("Subject", RNG.integers(0, 20, 60)),
        ("case_index", [str(i) for i in range(60)]),
        ("Unnamed: 0", range(12)),  # the index that a table was saved with
        ("row", SHUFFLED),
        ("record", SHUFFLED + 1000.0),  # a column with gaps holds floats
        ("picture", [f"{i}.png" for i in range(60)]),
    ],
)
def test_identifiers_are_recognised(name, cells):
    assert "identifier" in identifier_reason(name, [*cells, None])


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("age", RNG.integers(20, 90, 60)),
        ("age", range(20, 80)),  # distinct by chance
        ("area", RNG.integers(0, 10**6, 200)),  # distinct, but not consecutive
        ("diameter", [f"{x:.3f}" for x in RNG.random(60)]),
        ("idea", ["a", "b"] * 30),
        ("identified", [f"text {i % 12}" for i in range(60)]),
        ("patient type", [f"type {i % 12}" for i in range(60)]),
        ("study_id", [1, 2] * 30),  # two studies: a site, not an identifier
        ("note", [f"L{i}" for i in range(12)]),  # too few rows
        ("empty_id", [None] * 60),
    ],
)
def test_other_columns_are_not(name, cells):
    assert identifier_reason(name, cells) == ""


def test_identifiers_are_left_out_unless_something_is_stated_about_them():
    frame = pd.DataFrame({"lesion_id": [f"L{i}" for i in range(30)], "fever": ["yes", "no"] * 15})
    usable, reasons = usable_attributes(frame, ["lesion_id", "fever"])
    assert usable == ["fever"]
    assert reasons["lesion_id"].startswith(
        "it is named like an identifier and has 30 distinct values; name it in --attr"
    )


def test_a_tree_on_one_column_finds_what_follows_from_the_label():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    noisy = np.where(np.arange(100) % 20 == 0, 0, labels)  # right in 95 % of the cases or more
    only_if_ill = np.where(
        labels == 0, -1, RNG.integers(0, 2, 100)
    )  # recorded or not gives class 0 away, but not 1 or 2
    unordered = np.array([7, 3, 5])[labels]
    chance = RNG.integers(-1, 5, 100)
    codes = torch.from_numpy(np.stack([noisy, only_if_ill, unordered, chance], axis=1))
    leaks = find_leaks(codes, labels, ["noisy", "only_if_ill", "unordered", "chance"])
    assert list(leaks) == ["noisy", "unordered"]
    assert leaks["unordered"] == 1.0
    two = find_leaks(codes, labels > 0, ["noisy", "only_if_ill", "unordered", "chance"])
    assert list(two) == ["noisy", "only_if_ill", "unordered"]  # whether it is recorded gives the label away


def test_a_class_of_two_cases_does_not_stop_the_search():
    labels = ["a"] * 20 + ["b"] * 20 + ["rare"] * 2
    codes = torch.tensor([[0]] * 20 + [[1]] * 22)
    assert list(find_leaks(codes, labels, ["x"])) == ["x"]
    assert find_leaks(codes[:22], labels[20:], ["x"]) == {}  # one class is left


def test_leaks_of_a_table_are_logged_before_training(tmp_path, caplog):
    np.save(tmp_path / "x.npy", np.zeros((3, 5), dtype=np.float32))
    labels = ["benign", "malignant"] * 30
    treatment = ["none" if label == "benign" else "surgery" for label in labels]
    frame = pd.DataFrame(
        {"file": "x.npy", "fever": RNG.permutation(["yes", "no"] * 30), "treatment": treatment, "label": labels}
    )
    manifest = Manifest.from_frame(frame, CaseColumns(images="file", label="label"), root=tmp_path)
    with caplog.at_level(logging.WARNING):
        warn_of_leaks(manifest.rows("train"), manifest.schema(), manifest.labels)
    (line,) = caplog.messages
    assert line.startswith("the column 'treatment' alone predicts 'label' in 100 % of the training cases")
    assert "(--exclude treatment)" in line
