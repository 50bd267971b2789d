import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.evaluation import PredictionSets, measure
from alignedfusion.evaluation.conformal import find_bins, nonconformity


def draw(cases, mentioned, seed):
    """Cases of four classes whose probabilities are right where all is mentioned, and overconfident where little is."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet([1.0, 0.6, 0.3, 0.1], cases)
    labels = (truth.cumsum(1) > rng.random((cases, 1))).argmax(1)
    power = np.where(np.asarray(mentioned) > 0.5, 1.0, 4.0)[..., None]
    claimed = np.maximum(truth, 1e-6) ** power
    return claimed / claimed.sum(-1, keepdims=True), labels


def coverage(sets, labels):
    return sets[np.arange(len(labels)), labels].mean()


@pytest.fixture(scope="module")
def calibration():
    mentioned = np.stack([np.ones(900), np.full(900, 0.3)])
    probabilities, labels = draw(900, mentioned, seed=0)
    return probabilities, labels, mentioned


@pytest.mark.parametrize("kind", ["lac", "aps", "class_conditional"])
def test_sets_cover_as_promised_wherever_much_or_little_is_mentioned(kind, calibration):
    sets = PredictionSets.calibrate(*calibration, kind=kind, coverage=0.8)
    for share in (1.0, 0.3):
        probabilities, labels = draw(4000, np.full(4000, share), seed=1)
        chosen = sets(probabilities, np.full(4000, share))
        assert coverage(chosen, labels) == pytest.approx(0.8, abs=0.03)
        if kind == "class_conditional":
            rare = labels == 3
            assert coverage(chosen[rare], labels[rare]) == pytest.approx(0.8, abs=0.1)


def test_without_the_bins_coverage_fails_where_little_is_mentioned(calibration):
    probabilities, labels, mentioned = calibration
    sets = PredictionSets.calibrate(probabilities[:1], labels, mentioned[:1], coverage=0.8)
    few = np.full(4000, 0.3)
    others, truth = draw(4000, few, seed=1)
    assert coverage(sets(others, np.ones(4000)), truth) < 0.75  # as if all were mentioned
    assert sets(others, few).all()  # nothing comparable: every class


def test_a_threshold_by_hand():
    """Nine calibration cases at 75 %: the eighth highest of the nine, rounded up from 0.75 times 10."""
    right = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.1])
    probabilities = np.stack([right, 1 - right], axis=1)[None]
    sets = PredictionSets.calibrate(probabilities, np.zeros(9, dtype=int), np.ones((1, 9)), coverage=0.75)
    found = sets(np.array([[0.41, 0.59], [0.39, 0.61], [0.95, 0.05]]), np.ones(3))
    assert found.tolist() == [[True, True], [False, True], [True, False]]


@pytest.mark.parametrize("kind", ["lac", "aps", "class_conditional"])
@pytest.mark.parametrize("share", [0.7, 0.71, 0.72, 2 / 3])
def test_a_case_like_all_calibration_cases_has_their_class_in_its_set(kind, share):
    """Models that read a few attributes have many equal predictions."""
    probabilities = np.tile([share, 1 - share], (1, 50, 1))
    sets = PredictionSets.calibrate(probabilities, np.zeros(50, dtype=int), np.ones((1, 50)), kind=kind)
    again = probabilities[0, :1].astype(np.float32)  # other rounding errors
    assert sets(again, np.ones(1))[0, 0]
    assert PredictionSets.from_dict(sets.to_dict())(again, np.ones(1))[0, 0]


def test_adaptive_scores_by_hand():
    scores = nonconformity(np.array([[0.2, 0.5, 0.3]]), "aps", np.zeros(3))
    assert scores[0] == pytest.approx([0.8, 0.0, 0.5])  # the total of the more probable classes


def test_offsets_let_rare_classes_in_earlier(calibration):
    probabilities, labels, mentioned = calibration
    prior = np.log([0.5, 0.3, 0.15, 0.05])
    found = {}
    for name, offsets in (("without", None), ("with", -0.7 * prior)):
        sets = PredictionSets.calibrate(probabilities, labels, mentioned, coverage=0.8, offsets=offsets)
        others, truth = draw(4000, np.ones(4000), seed=2)
        chosen = sets(others, np.ones(4000))
        assert coverage(chosen, truth) == pytest.approx(0.8, abs=0.03)
        rare = truth == 3
        found[name] = coverage(chosen[rare], truth[rare])
        best = (np.log(others) + (0 if offsets is None else offsets)).argmax(1)
        assert (chosen[np.arange(4000), best] | ~chosen.any(1)).all()  # no set without the preferred class
    assert found["with"] > found["without"] + 0.1


def test_a_class_with_few_calibration_cases_is_in_every_conditional_set():
    probabilities, labels = draw(60, np.ones(60), seed=3)
    labels[labels == 3] = 0
    labels[:4] = 3
    sets = PredictionSets.calibrate(probabilities[None], labels, np.ones((1, 60)), kind="class_conditional")
    assert sets(probabilities, np.ones(60))[:, 3].all()


def test_a_case_counts_once_in_a_bin_and_unknown_labels_not_at_all():
    probabilities = np.full((3, 5, 2), 0.5)
    mentioned = np.array([[1.0] * 5, [0.9] * 5, [0.0] * 5])
    sets = PredictionSets.calibrate(probabilities, np.array([0, 1, -1, 0, 1]), mentioned)
    assert sorted(sets.bins) == [0] * 4 + [4] * 4
    assert -1 not in sets.labels


def test_large_calibration_sets_are_sampled():
    probabilities, labels = draw(1500, np.ones(1500), seed=4)
    assert len(PredictionSets.calibrate(probabilities[None], labels, np.ones((1, 1500))).scores) == 1000


@given(st.floats(0, 1))
def test_bins_are_none_and_quarters(share):
    assert find_bins(np.array([share]))[0] == (0 if share < 1e-9 else min(4, int(np.ceil(share * 4 - 1e-8))))


def test_sets_go_to_json_and_back(calibration):
    sets = PredictionSets.calibrate(*calibration, kind="aps")
    again = PredictionSets.from_dict(json.loads(json.dumps(sets.to_dict())))
    assert again == sets


def test_coverage_and_size_are_metrics_with_intervals():
    probabilities, labels = draw(80, np.ones(80), seed=5)
    sets = np.eye(4, dtype=bool)[probabilities.argmax(1)]
    found = measure(probabilities, labels, sets=sets, resamples=50).overall
    assert found["coverage"].value == found["accuracy"].value
    assert found["coverage"] == found["accuracy"]
    assert found["set_size"] == (1.0, 1.0, 1.0)


def test_mistakes_are_refused(calibration, monkeypatch):
    probabilities, labels, mentioned = calibration
    with pytest.raises(ValueError, match=r"must be one of \['lac', 'aps', 'class_conditional'\], got 'raps'"):
        PredictionSets.calibrate(probabilities, labels, mentioned, kind="raps")
    with pytest.raises(ValueError, match=r"coverage is the share of sets that contain the true class, 0\.5 to 1"):
        PredictionSets.calibrate(probabilities, labels, mentioned, coverage=90)
    with pytest.raises(ValueError, match=r"need probabilities \(versions, n, C\)"):
        PredictionSets.calibrate(probabilities[0], labels, mentioned)
    with pytest.raises(ValueError, match="sets must have one row per label, got 3 for 900"):
        measure(probabilities[0], labels, sets=np.ones((3, 4), dtype=bool))
    monkeypatch.setitem(sys.modules, "crepes", None)
    with pytest.raises(ImportError, match=r"pip install 'alignedfusion\[conformal\]'"):
        PredictionSets.calibrate(probabilities, labels, mentioned)(probabilities, mentioned)
