from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.datasets.splits import check_groups, draw_splits, read_splits, shuffle_groups


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_of_five_cases_are_split_three_one_one_each(seed):
    labels = np.array(["a"] * 5 + ["b"] * 5)
    splits = draw_splits(labels, None, seed)
    for name in ("a", "b"):
        assert Counter(splits[labels == name]) == {"train": 3, "valid": 1, "test": 1}


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_of_five_patients_are_split_by_patient(seed):
    labels = np.array(["a"] * 10 + ["b"] * 10)
    patients = pd.Series(np.arange(20) // 2)
    splits = draw_splits(labels, patients, seed)
    for name in ("a", "b"):
        assert Counter(splits[labels == name]) == {"train": 6, "valid": 2, "test": 2}
    check_groups(splits, patients)


def test_another_seed_draws_other_patients():
    labels, patients = np.array(["a", "b"] * 30), pd.Series(np.arange(60) // 2)
    drawn = {tuple(patients[draw_splits(labels, patients, seed) == "test"]) for seed in range(4)}
    assert len(drawn) == 4


@given(keys=st.lists(st.sampled_from("abcdefgh"), min_size=1), seed=st.integers(0, 99))
def test_shuffled_groups_are_the_same_groups(keys, seed):
    keys = np.array(keys, dtype=object)
    numbers = shuffle_groups(keys, seed)
    assert ((numbers[:, None] == numbers) == (keys[:, None] == keys)).all()
    assert sorted(set(numbers)) == list(range(len(set(keys))))


def test_patients_are_shuffled_as_by_a_release_of_scikit_learn_that_does():
    model_selection = pytest.importorskip("sklearn.model_selection")
    pytest.importorskip("sklearn", minversion="1.8", reason="older releases shuffle the counts without the groups")
    labels = np.random.default_rng(0).choice(["a", "b", "c"], 90, p=[0.6, 0.3, 0.1])
    patients = np.random.default_rng(1).integers(0, 40, 90)
    one = model_selection.StratifiedGroupKFold(5, shuffle=True, random_state=3).split(labels, labels, patients)
    other = model_selection.StratifiedGroupKFold(5).split(labels, labels, shuffle_groups(patients, 3))
    assert all((a[1] == b[1]).all() for a, b in zip(one, other, strict=True))


def test_four_cases_are_too_few():
    with pytest.raises(ValueError, match="class 'b' has 4 cases, too few to draw"):
        draw_splits(np.array(["a"] * 5 + ["b"] * 4), None, 0)


def test_spellings_of_splits_are_read():
    frame = pd.DataFrame({"set": ["Training", "val ", "TEST", "train"]})
    assert read_splits(frame, "set").tolist() == ["train", "valid", "test", "train"]


def test_a_patient_in_two_splits_is_named_by_rows_not_by_number():
    splits = np.array(["train", "test", "train", "test"], dtype=object)
    check_groups(splits, pd.Series(["p1", None, "p1", None]))  # a row without a patient is a patient of its own
    with pytest.raises(ValueError, match=r"1 patients are .*: rows 0 \(train\) and 3 \(test\)") as error:
        check_groups(splits, pd.Series(["SECRET", "b", "SECRET", "SECRET"]))
    assert "SECRET" not in str(error.value)
