import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from alignedfusion import UNKNOWN, VisualTokenizer
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import calibration_error, compute_metrics, missing_sweep, predict, table
from alignedfusion.evaluation.metrics import describe_missing


def test_metrics_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    labels = np.array([0, 0, 1, 1])
    found = compute_metrics(probabilities, labels)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75  # (2/2 + 1/2) / 2
    assert found["macro_auc"] == 0.75  # of the 4 pairs, (.4, .2) is the wrong way round
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    # class 0 ranks right, wrong, right, wrong: (1 + 2/3) / 2; class 1 the same from its end
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["cross_entropy"] == pytest.approx(-np.log([0.9, 0.6, 0.7, 0.2]).mean())
    assert found["brier"] == pytest.approx(2 * np.mean([0.01, 0.16, 0.09, 0.64]))
    # each confidence in a bin of its own: (|1 - .9| + |1 - .6| + |1 - .7| + |0 - .8|) / 4
    assert found["calibration_error"] == pytest.approx(0.4)


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 211)
    labels = rng.integers(0, 5, 211)
    found = compute_metrics(probabilities, labels)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(1)))
    assert found["macro_auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    assert found["cross_entropy"] == pytest.approx(log_loss(labels, probabilities))
    assert found["average_precision"] == pytest.approx(average_precision_score(np.eye(5)[labels], probabilities))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, probabilities.argmax(1), average="macro"))


def test_unknown_labels_take_no_part():
    rng = np.random.default_rng(1)
    probabilities, labels = rng.dirichlet(np.ones(3), 20), rng.integers(0, 3, 20)
    is_known = np.arange(20) % 3 > 0
    found = compute_metrics(probabilities, np.where(is_known, labels, -1))
    assert found == compute_metrics(probabilities[is_known], labels[is_known])


def test_another_decision_changes_what_depends_on_it():
    probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    labels = np.array([1, 0, 1])
    default, other = (compute_metrics(probabilities, labels, predicted=p) for p in (None, np.array([1, 0, 1])))
    assert (default["accuracy"], other["accuracy"]) == (pytest.approx(2 / 3), 1.0)
    assert other["macro_f1"] == other["balanced_accuracy"] == 1.0
    for name in ("macro_auc", "cross_entropy", "brier", "average_precision", "calibration_error"):
        assert default[name] == other[name]


def test_a_class_without_a_case_is_left_out():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]])
    assert compute_metrics(probabilities, np.array([0, 1, 0]))["macro_auc"] == 1.0
    assert np.isnan(compute_metrics(probabilities, np.array([0, 0, 0]))["macro_auc"])


@given(st.lists(st.tuples(st.floats(0, 1, allow_subnormal=False), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_between_zero_and_one(pairs):
    confidence, is_right = (np.array(column) for column in zip(*pairs, strict=True))
    assert 0 <= calibration_error(confidence, is_right) <= 1


def test_calibration_error_is_zero_where_confidence_is_accuracy():
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0], dtype=bool)) == 0


def test_metrics_refuse_other_numbers_of_rows():
    with pytest.raises(ValueError, match="need one row of probabilities per label, got 3 for 2"):
        compute_metrics(np.ones((3, 2)), np.zeros(2, dtype=int))


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([-1, -1], None, "no case has a label: of 2 labels all are negative"),
        ([0, 2], None, "label 2 is out of range: there are 2 probabilities a case"),
        ([0, 1], [1], "predicted must have one entry per label, got 1 for 2"),
    ],
)
def test_metrics_refuse_labels_that_do_not_fit(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(np.full((2, 2), 0.5), np.array(labels), predicted=predicted)


def test_metrics_refuse_nan():
    with pytest.raises(ValueError, match="1 cases have outputs that are nan"):
        compute_metrics(np.array([[0.5, np.nan], [0.5, 0.5]]), np.array([0, 1]))


def test_metrics_refuse_logits():
    with pytest.raises(
        ValueError, match=r"must be probabilities, 0 to 1, got 2\.5; for logits, pass what model\.activate"
    ):
        compute_metrics(np.array([[2.5, 0.5], [0.5, 0.5]]), np.array([0, 1]))


@pytest.fixture
def cases(schema, batch):
    image, codes, labels = batch(schema, rows=13)
    return TensorCases(image, codes.clamp(min=0), labels)


def test_predictions_do_not_depend_on_the_batch_size(schema, build, cases):
    model = build(schema)
    nothing = torch.full_like(cases.codes, UNKNOWN)
    found = predict(model, cases, [cases.codes, nothing], batch_size=5, progress=False)
    assert found.shape == (2, 13, 17)
    with torch.no_grad():
        for result, codes in zip(found, (cases.codes, nothing), strict=True):
            expected = model.eval()(cases.image, codes).logits.softmax(-1)
            torch.testing.assert_close(torch.from_numpy(result), expected)


def test_each_image_is_encoded_once(schema, build, cases, monkeypatch):
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32)
    batch_sizes = []
    features = visual.backbone.forward_features
    monkeypatch.setattr(visual.backbone, "forward_features", lambda x: batch_sizes.append(len(x)) or features(x))
    images = TensorCases(torch.randn(13, 3, 32, 32), cases.codes, cases.labels)
    missing_sweep(build(schema, visual=visual), images, schema, progress=False)
    assert sum(batch_sizes) == 13


def test_two_images_and_absent_ones_are_evaluated(schema, build, cases):
    class Gappy(TensorCases):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "is_present": {"b": torch.tensor(index > 3)}}

    model = build(schema, modalities=("a", "b", "report"))
    gappy = Gappy({"a": cases.image, "b": cases.image.clone()}, cases.codes, cases.labels)
    expected = predict(model, gappy, [cases.codes], progress=False)
    gappy.image["b"][:4] = torch.nan  # absent images are ignored
    assert np.array_equal(predict(model, gappy, [cases.codes], progress=False), expected)


def test_a_sweep_has_one_row_per_rate(schema, build, cases):
    rows = missing_sweep(build(schema), cases, schema, rates=(0.0, 0.5, 1.0), progress=False)
    assert [row["missing"] for row in rows] == [0.0, 0.5, 1.0]
    labels = cases.labels.numpy()
    for row, codes in ((rows[0], cases.codes), (rows[2], torch.full_like(cases.codes, UNKNOWN))):
        expected = compute_metrics(predict(build(schema), cases, [codes], progress=False)[0], labels)
        unmentioned = float((codes == UNKNOWN).double().mean())
        assert row == pytest.approx({"missing": row["missing"], "unmentioned": unmentioned, **expected})


def test_a_sweep_counts_the_cells_that_were_empty_before(schema, build, cases):
    cases.codes[:5, 0] = UNKNOWN
    rows = missing_sweep(build(schema), cases, schema, rates=(0.0, 1.0), progress=False)
    assert [row["unmentioned"] for row in rows] == [5 / cases.codes.numel(), 1.0]
    assert f"{100 * rows[0]['unmentioned']:.1f} % of all cells are unmentioned already" in describe_missing(rows)


def test_a_table_aligns_its_columns():
    text = table([{"missing": 0.0, "macro_auc": 0.9}, {"missing": 0.25, "macro_auc": float("nan")}])
    assert text.splitlines() == ["missing  macro auc", "  0.0 %      0.900", " 25.0 %          -"]


def test_each_image_is_encoded_once_with_any_column_name(schema, build):
    names = ("img.front", "keys")
    visual = {name: VisualTokenizer("test_vit", 38, pretrained=False, image_size=32) for name in names}
    model = build(schema, visual=visual, modalities=(*names, "report")).eval()
    images = {name: torch.randn(5, 3, 32, 32) for name in names}
    codes = torch.tensor([[0, 1, 4], [-1, 0, -1], [2, -1, 3], [1, 1, 0], [-1, -1, -1]])
    cases = TensorCases(images, codes, torch.zeros(5, dtype=torch.int64))
    calls = []
    for module in visual.values():
        module.backbone.forward_features = _counted(module.backbone.forward_features, calls)
    variants = [codes, torch.full_like(codes, UNKNOWN)]
    probabilities = predict(model, cases, variants, progress=False)
    assert len(calls) == 2  # one batch of two images; not once per variant
    for result, variant in zip(probabilities, variants, strict=True):
        expected = model(images, variant).logits.softmax(-1)
        np.testing.assert_allclose(result, expected.detach().numpy(), atol=1e-6)


def _counted(function, calls):
    def count(*arguments):
        calls.append(1)
        return function(*arguments)

    return count
