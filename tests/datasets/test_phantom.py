import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from alignedfusion import UNKNOWN
from alignedfusion.datasets import phantom


@pytest.fixture(scope="module")
def drawn():
    return phantom.make(600, seed=3, image_size=24)


def one_hot(codes, columns):
    sizes = [n + 1 for n in phantom.SCHEMA.num_values]
    return torch.cat([torch.nn.functional.one_hot(codes[:, i] + 1, sizes[i]) for i in columns], dim=1).numpy()


def test_equal_seeds_draw_equal_cases_of_any_number(drawn):
    fewer = phantom.make(11, seed=3, image_size=24)
    assert np.array_equal(fewer.images, drawn.images[:11])
    assert fewer.rows == drawn.rows[:11]
    assert torch.equal(fewer.codes, drawn.codes[:11])
    assert not np.array_equal(phantom.make(11, seed=4, image_size=24).images, fewer.images)


def test_shapes_and_types(drawn):
    assert drawn.images.shape == (600, 24, 24, 3)
    assert drawn.images.dtype == np.uint8
    assert drawn.codes.shape == (600, 9)
    assert set(drawn.labels.tolist()) == {0, 1, 2, 3}
    cases = drawn.cases(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    assert cases.image.shape == (600, 3, 24, 24)
    assert cases.image[7, 0, 5, 2] == pytest.approx((drawn.images[7, 5, 2, 0] / 255 - 0.5) / 0.25, abs=1e-6)


def test_the_missing_share_is_dropped_and_nothing_else_changes(drawn):
    gappy = phantom.make(600, seed=3, image_size=24, missing=0.3)
    is_gone = gappy.codes == UNKNOWN
    assert 0.27 < is_gone.float().mean() < 0.33
    assert torch.equal(gappy.codes[~is_gone], drawn.codes[~is_gone])
    assert np.array_equal(gappy.images, drawn.images)


def test_attributes_tell_the_class_and_each_other(drawn):
    train, test = slice(0, 400), slice(400, 600)

    def score(inputs, targets):
        return LogisticRegression(max_iter=500).fit(inputs[train], targets[train]).score(inputs[test], targets[test])

    everything = score(one_hot(drawn.codes, range(9)), drawn.labels.numpy())
    visible = score(one_hot(drawn.codes, range(4)), drawn.labels.numpy())
    assert everything > visible + 0.1 > 0.55  # the report knows more than can be seen, and that is more than chance

    growth = drawn.codes[:, 4].numpy()
    others = score(one_hot(drawn.codes, [0, 1, 2, 3, 5, 6, 7, 8]), growth)
    assert others > max(growth[test].mean(), 1 - growth[test].mean()) + 0.05  # what is missing can be guessed


def test_pictures_show_what_no_report_says(drawn):
    # The dark patch and the pale crust: the darkest and brightest pixels tell classes apart.
    flat = drawn.images.reshape(600, -1, 3).mean(-1)
    extremes = np.stack([flat.min(1), flat.max(1) - np.median(flat, 1)], axis=1)
    carcinoma, melanoma = extremes[drawn.labels == 2], extremes[drawn.labels == 3]
    assert carcinoma[:, 0].mean() > melanoma[:, 0].mean() + 5


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        phantom.make(0)


def test_the_likelihood_is_a_distribution_of_the_values_and_agrees_with_the_drawn_cases(drawn):
    codes = torch.full((4, 9), UNKNOWN)
    codes[:, 7] = torch.arange(4)  # age
    nothing = phantom.likelihood(torch.full((1, 9), UNKNOWN))
    torch.testing.assert_close(nothing, torch.ones(1, 4, dtype=torch.float64))
    torch.testing.assert_close(phantom.likelihood(codes).sum(0), torch.ones(4, dtype=torch.float64))
    # By hand: a nevus has its age from a normal distribution with mean 34 and deviation 11; Phi((29.5 - 34) / 11) = 0.3412.
    assert phantom.likelihood(codes)[0, 0] == pytest.approx(0.3412, abs=1e-4)

    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    codes = torch.full((4, 9), UNKNOWN)
    codes[:, [0, 4]] = pairs  # border and growth depend on each other given the class
    expected = phantom.likelihood(codes)[:, drawn.labels].mean(1)
    share = (drawn.codes[:, None, [0, 4]] == pairs).all(-1).double().mean(0)
    torch.testing.assert_close(share, expected, atol=0.06, rtol=0)
    assert share[3] > 1.2 * (share[3] + share[2]) * (share[3] + share[1])

    is_right = phantom.likelihood(drawn.codes).argmax(1) == drawn.labels
    assert 0.7 < is_right.float().mean() < 0.95
