"""The scikit-learn estimator with several labels and with numbers."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import cross_val_score

from alignedfusion.sklearn import AlignedFusionEstimator

SMALL = {"dim": 32, "epochs": 12, "learning_rate": 5e-3, "random_state": 0, "calibration": 0.2}
NAN = float("nan")


@pytest.fixture(scope="module")
def table():
    """90 rows with two labels and a number that follow from two attributes."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"colour": generator.choice(["blue", "pink"], 90), "border": generator.choice(["sharp", "vague"], 90)}
    )
    labels = np.stack(
        [frame["colour"] == "blue", (frame["border"] == "vague") & (frame["colour"] == "pink")], axis=1
    ).astype(int)
    frame.loc[::9, "border"] = None
    return frame, labels, 50 + 20.0 * labels[:, 0] + generator.normal(0, 1, 90)


@pytest.fixture(scope="module")
def several(table):
    frame, labels, _ = table
    labels = pd.DataFrame(labels, columns=["blueish", "rare"]).mask(np.arange(90)[:, None] % [[7, 5]] == 0, -1)
    return AlignedFusionEstimator(task="multilabel", **SMALL).fit(frame, labels)


def test_several_labels(table, several):
    frame, labels, _ = table
    assert several.label_names_ == ("blueish", "rare")
    probabilities, predicted = several.predict_proba(frame), several.predict(frame)
    assert probabilities.shape == predicted.shape == (90, 2)
    assert set(np.unique(predicted)) <= {0, 1}
    np.testing.assert_array_equal(predicted, probabilities > 0.5)
    assert (predicted[:, 0] == labels[:, 0]).mean() > 0.95
    assert is_classifier(several)


def test_the_score_counts_known_labels_only(table, several):
    frame, labels, _ = table
    is_right = several.predict(frame) == labels
    assert several.score(frame, labels) == pytest.approx(is_right.mean())
    assert several.score(frame, np.where(is_right, labels, -1)) == 1.0
    assert several.score(frame, np.where(is_right, 1 - labels, -1)) == 0.0
    with pytest.raises(ValueError, match="no label of y is known"):
        several.score(frame, np.full((90, 2), -1))


def test_several_labels_survive_pickle_and_clone(table, several):
    again = pickle.loads(pickle.dumps(several))
    np.testing.assert_array_equal(again.predict_proba(table[0]), several.predict_proba(table[0]))
    assert clone(several).task == "multilabel"


def test_numbers_have_the_shape_of_y_and_its_unit(table):
    frame, _, y = table
    hidden = np.where(np.arange(90) % 6 == 0, NAN, y)
    estimator = AlignedFusionEstimator(task="regression", **SMALL).fit(frame, hidden)
    predicted = estimator.predict(frame)
    assert predicted.shape == (90,)
    assert estimator.score(frame, y) > 0.8
    assert is_regressor(estimator)
    assert not is_classifier(estimator)
    assert not hasattr(estimator, "predict_proba")
    assert not hasattr(estimator, "classes_")
    known = ~np.isnan(hidden)
    residual = ((y - predicted) ** 2)[known].sum() / ((y[known] - y[known].mean()) ** 2).sum()
    assert estimator.score(frame, hidden) == pytest.approx(1 - residual, abs=1e-4)
    with pytest.raises(ValueError, match="at least two known numbers"):
        estimator.score(frame, np.where(np.arange(90) == 5, y, np.nan))
    both = AlignedFusionEstimator(task="regression", **{**SMALL, "epochs": 1}).fit(frame, np.stack([y, -y], axis=1))
    assert both.predict(frame).shape == (90, 2)
    assert both.label_names_ == ("y0", "y1")


def test_cross_validation_of_several_labels(table):
    frame, labels, _ = table
    estimator = AlignedFusionEstimator(task="multilabel", **{**SMALL, "epochs": 4})
    assert cross_val_score(estimator, frame, labels, cv=2, scoring="roc_auc").min() > 0.5


WRONG = [
    ("multilabel", np.arange(90) % 2, "must have one column for each label, got the shape (90,)"),
    ("multilabel", np.arange(180).reshape(90, 2), "cells of the label column 'y0' are neither yes nor no"),
    ("multilabel", np.ones((90, 2), dtype=int), "label columns need at least 2 positive and 2 negative"),
    ("regression", ["old"] * 90, "90 cells of the label column 'y0' are no numbers"),
    ("regression", [1.0] * 90, "two different numbers"),
    ("ordinal", [1, 2] * 45, "task must be one of ['multiclass', 'multilabel', 'regression'], got 'ordinal'"),
]


@pytest.mark.parametrize(("task", "y", "message"), WRONG)
def test_labels_that_do_not_fit_the_task(table, task, y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AlignedFusionEstimator(task=task, **SMALL).fit(table[0], y)


def test_rows_without_weight_are_left_out(table):
    frame, labels, _ = table
    weights = np.where(np.arange(90) < 60, 1.0, 0.0)
    settings = {**SMALL, "epochs": 1, "calibration": 0.0}
    garbled = np.where(weights[:, None] > 0, labels, 1 - labels)
    first, second = (
        AlignedFusionEstimator(task="multilabel", **settings).fit(frame, y, weights) for y in (labels, garbled)
    )
    np.testing.assert_array_equal(first.predict_proba(frame), second.predict_proba(frame))


def test_an_estimator_fitted_again_with_another_task_forgets_its_classes(table):
    frame, labels, y = table
    estimator = AlignedFusionEstimator(**{**SMALL, "epochs": 1}).fit(frame, labels[:, 0])
    assert estimator.classes_.tolist() == [0, 1]
    assert not hasattr(estimator.set_params(task="regression").fit(frame, y), "classes_")


def test_the_score_finds_labels_by_name(table, several):
    frame, labels, _ = table
    named = pd.DataFrame(labels, columns=["blueish", "rare"])
    assert several.score(frame, named[["rare", "blueish"]]) == several.score(frame, labels)
    with pytest.raises(ValueError, match=r"y has no columns \['rare'\]; it has \['blueish', 'other'\]"):
        several.score(frame, named.rename(columns={"rare": "other"}))


def test_settings_of_a_backbone_do_not_matter_without_image_columns(table):
    one, other = (
        AlignedFusionEstimator(**{**SMALL, **settings}).fit(table[0], table[1][:, 0]).predict(table[0])
        for settings in ({}, {"backbone": "resnet18", "image_size": 64, "tokens": "folder"})
    )
    assert np.array_equal(one, other)
