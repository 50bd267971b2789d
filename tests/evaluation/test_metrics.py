import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from alignedfusion import UNKNOWN, VisualTokenizer
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import calibration_error, compute_metrics, missing_sweep, predict, table


def test_metrics_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    labels = np.array([0, 0, 1, 1])
    found = compute_metrics(probabilities, labels)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75  # (2/2 + 1/2) / 2
    assert found["macro_auc"] == 0.75  # of the 4 pairs, (.4, .2) is the wrong way round
    # each confidence in a bin of its own: (|1 - .9| + |1 - .6| + |1 - .7| + |0 - .8|) / 4
    assert found["calibration_error"] == pytest.approx(0.4)


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 211)
    labels = rng.integers(0, 5, 211)
    found = compute_metrics(probabilities, labels)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(1)))
    assert found["macro_auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))


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
        assert row == pytest.approx({"missing": row["missing"], **expected})


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
