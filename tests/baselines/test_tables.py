import math

import numpy as np
import pytest
import torch
from torch import nn

from alignedfusion import UNKNOWN, Attribute, AttributeSchema
from alignedfusion.baselines import GradientBoosting, MajorityClass, NaiveBayes
from alignedfusion.baselines.tables import one_hot
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import predict

TINY = AttributeSchema([Attribute("itch", values=("yes", "no")), Attribute("side", values=("left", "right"))])

every_table = pytest.mark.parametrize("kind", [MajorityClass, NaiveBayes, GradientBoosting])


def table(codes, labels):
    """Cases whose images are uninformative."""
    codes, labels = torch.as_tensor(codes), torch.as_tensor(labels)
    return TensorCases(torch.zeros(len(labels), 1, 1), codes, labels)


@pytest.fixture(scope="module")
def exclusive_or():
    """211 cases whose label is the exclusive or of two attributes; one attribute alone is uninformative."""
    codes = torch.randint(2, (211, 2), generator=torch.Generator().manual_seed(0))
    return table(codes, codes[:, 0] ^ codes[:, 1])


def shares(model, codes):
    return model(None, torch.as_tensor(codes)).logits.exp()


def test_naive_bayes_by_hand():
    # Class 0 has two cases, class 1 one. Values are counted over the class, one more each: (3, 1, 2, 2) / 8 and
    # (1, 2, 1, 1) / 5.
    model = NaiveBayes(TINY, 2).fit(table([[0, 0], [0, 1], [1, UNKNOWN]], [0, 0, 1]))
    found = shares(model, [[0, UNKNOWN], [0, 0], [1, 1], [UNKNOWN, UNKNOWN]])
    expected = [
        (2 / 3 * 3 / 8, 1 / 3 * 1 / 5),  # itches
        (2 / 3 * 3 / 8 * 2 / 8, 1 / 3 * 1 / 5 * 1 / 5),  # on the left, too
        (2 / 3 * 1 / 8 * 2 / 8, 1 / 3 * 2 / 5 * 1 / 5),  # no itch, on the right
        (2 / 3, 1 / 3),  # nothing mentioned: the shares among the training cases
    ]
    expected = torch.tensor([[a / (a + b), b / (a + b)] for a, b in expected])
    torch.testing.assert_close(found, expected)
    assert found[0, 0].item() == pytest.approx(15 / 19)


def test_naive_bayes_ignores_unmentioned_attributes():
    codes = torch.randint(2, (53, 2), generator=torch.Generator().manual_seed(0))
    model = NaiveBayes(TINY, 3).fit(table(codes, codes.sum(1)))
    nothing, left, itch, both = shares(model, [[UNKNOWN, UNKNOWN], [UNKNOWN, 0], [0, UNKNOWN], [0, 0]])
    torch.testing.assert_close(nothing, codes.sum(1).bincount(minlength=3) / 53)
    # The likelihood ratios of two attributes multiply.
    product = left * itch / nothing
    torch.testing.assert_close(both, product / product.sum())


def test_gradient_boosting_learns_an_interaction_that_naive_bayes_cannot(exclusive_or):
    trees, bayes = (kind(TINY, 2).fit(exclusive_or) for kind in (GradientBoosting, NaiveBayes))
    codes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert shares(trees, codes).argmax(1).tolist() == [0, 1, 1, 0]
    assert (shares(trees, codes).amax(1) > 0.8).all()
    assert (shares(bayes, codes).amax(1) < 0.7).all()


def test_gradient_boosting_is_uncertain_when_cells_are_missing(exclusive_or):
    model = GradientBoosting(TINY, 2).fit(exclusive_or)
    found = shares(model, [[UNKNOWN, 0], [1, UNKNOWN], [UNKNOWN, UNKNOWN]])
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert ((found > 0.2) & (found < 0.8)).all()


def test_gradient_boosting_is_the_same_twice(exclusive_or):
    first, second = (GradientBoosting(TINY, 2).fit(exclusive_or) for _ in range(2))
    assert torch.equal(first(None, exclusive_or.codes).logits, second(None, exclusive_or.codes).logits)


def test_the_majority_class_predicts_smoothed_shares():
    model = MajorityClass(TINY, 3).fit(table([[0, 0], [0, 1], [1, 1]], [0, 0, 1]))
    expected = torch.tensor([[3 / 6, 2 / 6, 1 / 6]] * 2)  # one case more of each class
    torch.testing.assert_close(shares(model, [[0, 0], [UNKNOWN, 1]]), expected)


@pytest.mark.parametrize("kind", [NaiveBayes, GradientBoosting])
def test_a_class_without_training_cases_is_improbable_but_possible(kind, exclusive_or):
    cases = table(exclusive_or.codes, exclusive_or.labels * 2)  # classes 0 and 2 of four
    logits = kind(TINY, 4).fit(cases)(None, cases.codes).logits
    assert logits.shape == (211, 4)
    torch.testing.assert_close(logits[:, [1, 3]], torch.full((211, 2), math.log(1e-9)))
    assert (logits[:, [0, 2]] > math.log(1e-4)).all()


@every_table
def test_it_is_called_like_a_model(kind, exclusive_or):
    model = kind(TINY, 3)
    assert model.fit(exclusive_or) is model
    assert isinstance(model, nn.Module)
    missing = torch.full_like(exclusive_or.codes, UNKNOWN)
    full, empty = predict(model, exclusive_or, [exclusive_or.codes, missing], progress=False)
    assert full.shape == (211, 3)
    np.testing.assert_allclose(full.sum(1), 1, atol=1e-6)
    assert (len(np.unique(full, axis=0)) == 1) == (kind is MajorityClass)
    assert len(np.unique(empty, axis=0)) == 1
    # Images and labels are ignored.
    out = model(torch.randn(211, 5, 13), exclusive_or.codes, exclusive_or.labels, is_present=None)
    assert torch.equal(out.logits, model(None, exclusive_or.codes).logits)
    assert out.logits.dtype == torch.float32


def test_one_hot_has_one_column_per_value_and_zeros_for_unmentioned(schema):
    columns = one_hot(torch.tensor([[0, 1, 4], [2, UNKNOWN, 0], [UNKNOWN] * 3]), schema)
    expected = [[1, 0, 0, 0, 1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1, 0, 0, 0, 0], [0] * 10]
    assert columns.tolist() == expected
