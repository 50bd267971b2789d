import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from alignedfusion.evaluation import Metrics, compute_metrics, measure
from alignedfusion.evaluation.bootstrap import resample, weighted_metrics
from alignedfusion.evaluation.intervals import PER_CLASS
from alignedfusion.evaluation.metrics import METRICS
from alignedfusion.evaluation.predictions import check_predictions

CLASSES = 5


def make(cases=211, seed=0, classes=CLASSES, step=0.1):
    """Probabilities with many ties, and labels that they predict better than chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, cases)
    logits = rng.normal(0, 1, (cases, classes)).round(1) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(1, keepdims=True), labels


def test_weights_of_one_give_the_metrics_of_scikit_learn():
    probabilities, labels = make()
    probabilities = (probabilities * 20).round() / 20  # ties
    cases = check_predictions(probabilities, labels, None, None)
    found = weighted_metrics(cases, np.ones((1, len(labels))))
    expected = compute_metrics(probabilities, labels)
    for name in METRICS:
        assert found[name] == pytest.approx([expected[name]]), name
    precision, recall, f1, _ = precision_recall_fscore_support(labels, probabilities.argmax(1))
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found[name][0] == pytest.approx(values)
    assert found["auc"][0] == pytest.approx([roc_auc_score(labels == c, probabilities[:, c]) for c in range(CLASSES)])


def test_a_weight_counts_a_case_as_often():
    probabilities, labels = make(31)
    counts = np.random.default_rng(3).integers(0, 4, 31)
    cases = check_predictions(probabilities, labels, None, None)
    found = weighted_metrics(cases, counts[None].astype(float))
    expected = compute_metrics(np.repeat(probabilities, counts, 0), np.repeat(labels, counts))
    assert {name: found[name][0] for name in METRICS} == pytest.approx(expected)
    for c in range(CLASSES):
        area = average_precision_score(labels == c, probabilities[:, c], sample_weight=counts)
        assert found["ap"][0, c] == pytest.approx(area)


def test_the_interval_of_an_accuracy_is_that_of_a_proportion():
    probabilities, labels = make(1000)
    found = measure(probabilities, labels).overall["accuracy"]
    error = 1.96 * np.sqrt(found.value * (1 - found.value) / 1000)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.1)


def test_cases_that_repeat_within_a_group_do_not_narrow_the_interval():
    probabilities, labels = make(300)
    one = measure(probabilities, labels, groups=[f"P{i}" for i in range(300)])
    four = measure(
        np.repeat(probabilities, 4, 0), np.repeat(labels, 4), groups=[f"P{i}" for i in range(300) for _ in range(4)]
    )
    as_cases = measure(np.repeat(probabilities, 4, 0), np.repeat(labels, 4))
    assert (one.groups, four.groups, as_cases.groups) == (300, 300, None)
    assert four.overall["macro_f1"] == pytest.approx(one.overall["macro_f1"])

    def width(metrics):
        return metrics.overall["macro_f1"].high - metrics.overall["macro_f1"].low

    assert width(as_cases) < 0.6 * width(four)


def test_a_case_without_a_group_is_a_group_of_its_own():
    probabilities, labels = make(6)
    assert measure(probabilities, labels, groups=["a", None, "a", float("nan"), "b", None], resamples=5).groups == 5


def test_two_models_get_the_same_draws():
    probabilities, labels = make(40)
    first, second = (
        resample(check_predictions(p, labels, None, None), resamples=50, seed=4) for p in (probabilities, probabilities)
    )
    assert np.array_equal(first["macro_f1"], second["macro_f1"])
    assert first["macro_f1"].std() > 0


@given(st.integers(1, 12), st.integers(2, 4), st.integers(0, 10_000), st.booleans())
def test_any_few_cases_have_metrics_without_a_warning(count, classes, seed, by_group):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), count).round(2)
    labels = rng.integers(0, rng.integers(1, classes + 1), count)
    groups = rng.integers(0, 3, count) if by_group else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(probabilities, labels, groups=groups, resamples=20)
    assert sum(found.support.values()) == sum(map(sum, found.confusion)) == found.cases == count
    for metrics in (found.overall, *found.classes.values()):
        for interval in metrics.values():
            assert np.isnan(interval.low) or 0 <= interval.low <= interval.value <= interval.high


def test_a_single_group_has_no_interval():
    probabilities, labels = make(9)
    interval = measure(probabilities, labels, groups=["P1"] * 9).overall["accuracy"]
    assert interval.value >= 0
    assert np.isnan([interval.low, interval.high]).all()


def test_a_class_without_a_case_is_undefined():
    probabilities = np.array([[0.2, 0.8, 0.0], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1], [0.9, 0.1, 0.0]])
    found = measure(probabilities, np.array([1, 1, 1, 0]), ["a", "b", "c"], resamples=30)
    assert found.support == {"a": 1, "b": 3, "c": 0}
    assert found.classes["c"]["precision"].value == 0  # one case was predicted
    assert np.isnan([found.classes["c"][name].value for name in ("recall", "f1", "auc")]).all()
    assert found.confusion == [[1, 0, 0], [0, 2, 1], [0, 0, 0]]


def test_metrics_go_to_json_and_back():
    probabilities, labels = make(20, classes=3)
    labels[labels == 2] = 0
    metrics = measure(probabilities, labels, ["a", "b", "c"], groups=range(20), resamples=20)
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    again = Metrics.from_dict(json.loads(text))
    assert again.to_dict() == metrics.to_dict()
    assert str(again) == str(metrics)
    assert set(again.classes["a"]) == set(PER_CLASS)


def test_metrics_print_as_tables():
    probabilities, labels = make(20, classes=2)
    text = str(measure(probabilities, labels, ["benign", "malignant"], resamples=20))
    assert text.startswith("20 cases; low and high: 95% interval, bootstrap of cases")
    assert "balanced accuracy" in text
    assert any(line.split()[:2] == ["malignant", str((labels == 1).sum())] for line in text.splitlines())


def test_class_names_must_fit():
    with pytest.raises(ValueError, match=r"class_names must name 5 classes, got 1: \['a'\]"):
        measure(*make(7), ["a"])


@given(st.integers(0, 10_000), st.integers(5, 25))
def test_an_interval_holds_its_value_and_stays_within_the_range_of_the_metric(seed, cases):
    found = measure(*make(cases, seed, classes=3, step=0.5), [str(c) for c in range(3)])
    rows = [found.overall, *found.classes.values()]
    for name, (value, low, high) in (item for row in rows for item in row.items()):
        largest = {"cross_entropy": np.inf, "brier": 2.0}.get(name, 1.0)
        assert np.isnan(low) or 0.0 <= low <= value <= high <= largest, name
