import numpy as np
import pytest
import torch

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import ablation
from alignedfusion.evaluation.inference import outputs, predict
from alignedfusion.evaluation.predictions import check_predictions
from alignedfusion.evaluation.testing import evaluate_model


@pytest.fixture(scope="module")
def model(build, schema):
    return build(schema).eval()


@pytest.fixture(scope="module")
def cases(batch, schema):
    image, codes, labels = batch(schema, rows=23)
    return TensorCases(image, codes, labels % 3)


def test_each_version_is_that_of_a_forward_pass_of_its_own(model, cases):
    variants = [cases.codes, torch.full_like(cases.codes, UNKNOWN), cases.codes.roll(1, 0)]
    together = outputs(model, cases, variants, "logits", batch_size=5, progress=False)
    with torch.no_grad():
        for logits, codes in zip(together, variants, strict=True):
            torch.testing.assert_close(logits, model(cases.image, codes).logits, rtol=1e-4, atol=1e-5)


def test_without_images_is_the_model_with_absent_images(model, cases):
    absent = {"image": torch.zeros(len(cases), dtype=torch.bool)}
    with torch.no_grad():
        expected = model(cases.image, cases.codes, is_present=absent).logits.softmax(-1)
    found = ablation.predict_attributes_only(model, [cases.codes])
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_a_model_of_one_modality_has_nothing_to_leave_out(build, schema, batch):
    image, codes, labels = batch(schema)
    reads_report = build(schema, fusion=JointSelfAttention(38, modalities=(REPORT,), depth=1, num_heads=2)).eval()
    assert ablation.predict_attributes_only(reads_report, [codes]) is None
    result, _ = evaluate_model(reads_report, TensorCases(image, codes, labels % 2), progress=False)
    assert "image_only" not in result
    assert "attributes_only" not in result
    assert [*result["permuted"]["attributes"]] == [*schema.names]


def test_a_permutation_keeps_the_values_of_a_column_and_leaves_the_others(cases, schema):
    variants, is_chosen = ablation.permuted_variants(cases.codes)
    assert is_chosen.all()
    for a, variant in enumerate(variants):
        others = [b for b in range(len(schema)) if b != a]
        assert torch.equal(variant[:, others], cases.codes[:, others])
        assert torch.equal(variant[:, a].sort().values, cases.codes[:, a].sort().values)


def test_of_many_cases_a_share_is_permuted(monkeypatch):
    monkeypatch.setattr(ablation, "MAX_ROWS", 12)
    codes = torch.arange(100).repeat(3, 1).T
    variants, is_chosen = ablation.permuted_variants(codes)
    assert is_chosen.sum() == 4
    assert torch.equal(variants[1][~is_chosen], codes[~is_chosen])


def test_the_worth_of_an_attribute_by_hand():
    labels = np.array([0, 1] * 50)
    right = np.eye(2)[labels] * 0.8 + 0.1
    half = right.copy()
    half[:50] = half[:50, ::-1]  # the first 50 are wrong without it
    predictions = check_predictions(right, labels, None, None)
    worth = ablation.attribute_worth(predictions, np.stack([half, right]).argmax(-1))
    assert worth[0, 0] == 0.5
    assert worth[0, 1] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert worth[0, 2] == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert worth[1].tolist() == [0.0, 0.0, 0.0]


def test_the_worth_is_that_of_the_decision(build, schema, cases):
    model = build(schema).eval()
    model.set_class_counts([1e6] * 16 + [0])
    plain, _ = evaluate_model(model, cases, progress=False)
    assert any(row["worth"] != [0.0, 0.0, 0.0] for row in plain["permuted"]["attributes"].values())
    model.prior_exponent = 50.0  # the decision is always the last class, whatever the attributes
    decided, _ = evaluate_model(model, cases, progress=False)
    assert all(row["worth"] == [0.0, 0.0, 0.0] for row in decided["permuted"]["attributes"].values())


def test_an_attribute_that_the_model_ignores_is_worth_nothing(build, schema, cases):
    model = build(schema, fill=None, unimodal_heads=False).eval()
    with torch.no_grad():
        for parameter in (model.tokenizer.value_vectors, model.tokenizer.identity, model.tokenizer.unknown):
            parameter.zero_()
    result, probabilities = evaluate_model(model, cases, progress=False)
    np.testing.assert_allclose(predict(model, cases, [cases.codes], progress=False)[0], probabilities)
    assert all(row["worth"] == [0.0, 0.0, 0.0] for row in result["permuted"]["attributes"].values())
    assert result["image_only"]["accuracy"] == result["test"]["overall"]["accuracy"][0]
