import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import Metrics, compute_metrics, measure, missing_sweep, subgroup_metrics, table
from alignedfusion.evaluation.ablation import attribute_worth
from alignedfusion.evaluation.columns import OVERALL, PER_COLUMN, check_columns, weighted_columns
from alignedfusion.evaluation.testing import evaluate_model
from alignedfusion.presets import standard

NAMES = ["edema", "effusion", "opacity"]
TASKS = ("multilabel", "regression")


def make(task, cases=211, seed=0, unknown=0.3):
    """Outputs that predict the labels better than chance, and labels of which some are unknown."""
    rng = np.random.default_rng(seed)
    is_unknown = rng.random((cases, 3)) < unknown
    if task == "regression":
        labels = rng.normal((50, 3, 0), (20, 1, 5), (cases, 3))
        return labels + rng.normal(0, (10, 1, 5), (cases, 3)), np.where(is_unknown, np.nan, labels)
    labels = (rng.random((cases, 3)) < (0.3, 0.5, 0.1)).astype(int)
    outputs = 1 / (1 + np.exp(-rng.normal(2.0 * labels - 1, 1).round(1)))  # ties
    return outputs, np.where(is_unknown, -1, labels)


def test_several_labels_have_the_metrics_of_scikit_learn():
    outputs, labels = make("multilabel")
    found = measure(outputs, labels, NAMES, task="multilabel", resamples=10)
    predicted, known = outputs > 0.5, labels >= 0
    for c, name in enumerate(NAMES):
        truth, score, decided = labels[known[:, c], c], outputs[known[:, c], c], predicted[known[:, c], c]
        expected = {
            "precision": sk.precision_score(truth, decided),
            "recall": sk.recall_score(truth, decided),
            "f1": sk.f1_score(truth, decided),
            "auc": sk.roc_auc_score(truth, score),
            "ap": sk.average_precision_score(truth, score),
        }
        assert {key: interval.value for key, interval in found.classes[name].items()} == pytest.approx(expected)
        counts = {"positive": truth.sum(), "negative": (1 - truth).sum(), "unknown": (~known[known.any(1), c]).sum()}
        assert found.counts[name] == counts
        assert found.support[name] == truth.sum()
    overall = {key: interval.value for key, interval in found.overall.items()}
    rows = found.classes.values()
    for mean, key in (("macro_auc", "auc"), ("average_precision", "ap"), ("macro_f1", "f1")):
        assert overall[mean] == pytest.approx(np.mean([row[key].value for row in rows]))
    assert overall["micro_f1"] == pytest.approx(sk.f1_score(labels[known], predicted[known]))
    assert overall["cross_entropy"] == pytest.approx(sk.log_loss(labels[known], outputs[known]))
    assert overall["brier"] == pytest.approx(sk.brier_score_loss(labels[known], outputs[known]))


def test_numbers_have_the_metrics_of_scikit_learn():
    outputs, labels = make("regression")
    found = measure(outputs, labels, NAMES, task="regression", resamples=10)
    for c, name in enumerate(NAMES):
        known = ~np.isnan(labels[:, c])
        pair = labels[known, c], outputs[known, c]
        expected = {
            "mae": sk.mean_absolute_error(*pair),
            "rmse": np.sqrt(sk.mean_squared_error(*pair)),
            "r2": sk.r2_score(*pair),
        }
        assert {key: interval.value for key, interval in found.classes[name].items()} == pytest.approx(expected)
    for key in OVERALL["regression"]:
        assert found.overall[key].value == pytest.approx(np.mean([row[key].value for row in found.classes.values()]))


def test_the_calibration_error_by_hand():
    outputs = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.5]])
    labels = np.array([[1, 0], [0, 0], [0, -1]])
    # Bin of 0.9: |1 - 2.7|; bin of 0.1: |0 - 0.2|; five known labels.
    assert compute_metrics(outputs, labels, task="multilabel")["calibration_error"] == pytest.approx((1.7 + 0.2) / 5)


@pytest.mark.parametrize("task", TASKS)
def test_a_weight_counts_a_case_as_often(task):
    outputs, labels = make(task, 31)
    counts = np.random.default_rng(3).integers(0, 4, 31)
    columns, repeated = check_columns(outputs, labels, task), [np.repeat(x, counts, 0) for x in (outputs, labels)]
    kept = counts[((labels >= 0) if task == "multilabel" else ~np.isnan(labels)).any(1)]
    first = weighted_columns(columns, kept[None].astype(float))
    second = weighted_columns(check_columns(*repeated, task), np.ones((1, kept.sum())))
    for found, expected in zip(first, second, strict=True):
        assert set(found) == set(expected)
        for name in found:
            np.testing.assert_allclose(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 1000), drop=st.lists(st.booleans(), min_size=40, max_size=40))
def test_unknown_cases_change_no_metric(task, seed, drop):
    outputs, labels = make(task, 40, seed)
    unknown = labels.copy()
    unknown[drop] = -1 if task == "multilabel" else np.nan
    kept = ~np.array(drop) & ((labels >= 0) if task == "multilabel" else ~np.isnan(labels)).any(1)
    if kept.any():
        arguments = {"task": task, "resamples": 10}
        first, second = measure(outputs, unknown, **arguments), measure(outputs[kept], labels[kept], **arguments)
        assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())


@pytest.mark.parametrize("task", TASKS)
@given(cases=st.integers(1, 9), seed=st.integers(0, 1000))
def test_few_cases_have_metrics_without_a_warning(task, cases, seed):
    outputs, labels = make(task, cases, seed, unknown=0.4)
    labels[0, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(outputs, labels, NAMES, task=task, resamples=20)
    assert set(found.overall) == set(OVERALL[task])
    for metrics in (found.overall, *found.classes.values()):
        for name, (value, low, high) in metrics.items():
            assert np.isnan(low) or low <= value <= high, name
            assert np.isnan(value) or value <= 1 or name in ("cross_entropy", "mae", "rmse"), name


@pytest.mark.parametrize("task", TASKS)
def test_metrics_go_to_json_and_print(task):
    metrics = measure(*make(task), NAMES, task=task, groups=[f"P{i // 2}" for i in range(211)], resamples=20)
    again = Metrics.from_dict(json.loads(json.dumps(metrics.to_dict(), allow_nan=False)))
    assert (again, str(again)) == (metrics, str(metrics))
    assert set(metrics.classes["edema"]) == set(PER_COLUMN[task])
    lines = [line.split() for line in str(metrics).splitlines()]
    unknown = str(metrics.counts["effusion"]["unknown"])
    assert any(line[:1] == ["effusion"] and unknown in line for line in lines)


def test_older_metrics_are_those_of_classes():
    found = measure(np.eye(2), np.array([0, 1]), resamples=5).to_dict()
    del found["task"], found["counts"]
    assert Metrics.from_dict(found).task == "multiclass"


def test_shifted_errors_are_in_the_unit_of_the_target():
    outputs, labels = make("regression")
    first, second = (compute_metrics(k * outputs + 7, k * labels + 7, task="regression") for k in (1, 10))
    assert second["mae"] == pytest.approx(10 * first["mae"])
    assert second["r2"] == pytest.approx(first["r2"])


def test_the_worth_of_an_attribute_is_the_variance_that_it_explains():
    rng = np.random.default_rng(0)
    labels = rng.normal(5, 2, (400, 1))
    columns = check_columns(labels.copy(), labels, "regression")
    constant = np.full_like(labels, labels.mean())
    worth = attribute_worth(columns, np.stack([constant, labels]), resamples=50)
    assert worth[0, 0] == pytest.approx(1.0)  # all of the variance
    assert worth[1].tolist() == [0, 0, 0]
    assert worth[0, 1] < 1 < worth[0, 2]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_is_tested_in_all_respects(task, schema):
    generator = torch.Generator().manual_seed(0)
    limits = torch.tensor(schema.num_values)
    codes = (torch.rand(60, 3, generator=generator) * (limits + 1)).long() - 1
    _, labels = make(task, 60)
    dtype = torch.int64 if task == "multilabel" else torch.float32
    cases = TensorCases(torch.randn(60, 5, 13, generator=generator), codes, torch.from_numpy(labels).to(dtype))
    model = standard(schema, NAMES, backbone=None, num_features=13, dim=64, task=task)
    model.set_prior(cases.labels)
    result, outputs = evaluate_model(model, cases, subgroups={"half": ["a", "b"] * 30}, progress=False)
    json.dumps(result)
    assert outputs.shape == (60, 3)
    assert result["test"]["task"] == task
    value = result["test"]["overall"][OVERALL[task][0]][0]
    assert result["missing"][0][OVERALL[task][0]] == pytest.approx(value)
    assert missing_sweep(model, cases, schema, rates=(0.0,), progress=False)[0][OVERALL[task][0]] == pytest.approx(
        value
    )
    assert set(result["image_only"]) == set(OVERALL[task])
    assert set(result["attributes_only"][0]) >= set(OVERALL[task])
    assert result["permuted"]["metric"] == "explained_variance"
    assert set(result["subgroups"]["half"]) == {"a", "b"}
    assert OVERALL[task][0].replace("_", " ") in table(result["missing"])


@pytest.mark.parametrize("task", TASKS)
def test_a_subgroup_without_a_known_label_is_left_out(task):
    outputs, labels = make(task, 60)
    labels[:20] = -1 if task == "multilabel" else np.nan
    found = subgroup_metrics(outputs, labels, {"x": ["a"] * 20 + ["b"] * 40}, task=task, resamples=5)
    assert list(found["x"]) == ["b"]


@pytest.mark.parametrize(
    ("outputs", "labels", "task", "message"),
    [
        (np.zeros((3, 2)), np.zeros(3, int), "multilabel", r"both have the shape \(n, L\), got \(3, 2\) and \(3,\)"),
        (np.zeros((1, 2)), np.array([[0, 2]]), "multilabel", "labels of the task 'multilabel' are 0, 1, or -1"),
        (np.zeros((2, 1)), np.full((2, 1), np.nan), "regression", "no case has a label: all 2 labels of 2 cases are unknown"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), "regression", "2 cases have outputs that are nan"),
        (np.full((2, 1), np.inf), np.zeros((2, 1)), "regression", "2 cases have outputs that are nan or infinite"),
        (np.zeros((2, 1)), np.full((2, 1), np.inf), "regression", "2 labels are infinite; an unknown one is nan"),
        (np.array([[0.2, -1.5]]), np.array([[0, 1]]), "multilabel", "must be probabilities, 0 to 1, got -1.5; for logits"),
    ],
)  # fmt: skip
def test_outputs_and_labels_must_fit(outputs, labels, task, message):
    with pytest.raises(ValueError, match=message):
        measure(outputs, labels, task=task)


def test_arguments_of_classes_are_refused():
    outputs, labels = make("multilabel", 20)
    with pytest.raises(ValueError, match="prediction sets are sets of classes; the task 'multilabel' has none"):
        measure(outputs, labels, task="multilabel", sets=outputs > 0.5)
    with pytest.raises(ValueError, match=r"class_names must name 3 classes, got 1: \['a'\]"):
        measure(outputs, labels, ["a"], task="multilabel")
    with pytest.raises(ValueError, match="groups must have one entry per case, got 1 for 20"):
        measure(outputs, labels, task="multilabel", groups=["a"])
    with pytest.raises(ValueError, match=r"predicted must have the shape of the labels \(20, 3\), got \(20,\)"):
        measure(outputs, labels, task="multilabel", predicted=labels[:, 0])
    with pytest.raises(ValueError, match="predicted labels are 0 or 1, got other numbers"):
        measure(outputs, labels, task="multilabel", predicted=outputs)
