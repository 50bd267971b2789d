import pytest
import torch

from alignedfusion.explanation import shapley
from alignedfusion.explanation.shapley import choose_coalitions


def random_game(players, *, outputs=3):
    """A value for each of all coalitions, in the order of `choose_coalitions`."""
    return torch.randn(2**players, outputs, generator=torch.Generator().manual_seed(players))


def values_of(game, coalitions):
    """The values (1, R, ...) of some coalitions."""
    return game[(coalitions.members.long() << torch.arange(coalitions.members.shape[1])).sum(1)][None]


def test_the_glove_game_by_hand():
    # Player 0 has a left glove, players 1 and 2 have right ones; a pair is worth 1: 2/3, 1/6, 1/6.
    coalitions = choose_coalitions(3)
    left, right = coalitions.members[:, 0], coalitions.members[:, 1:].any(1)
    values, error = coalitions.shapley_values((left & right).double()[None])
    torch.testing.assert_close(values, torch.tensor([[2 / 3, 1 / 6, 1 / 6]], dtype=torch.float64))
    assert not error.any()


@pytest.mark.parametrize("players", [0, 1, 2, 5, 10, 11, 13])
def test_the_values_add_up_and_an_additive_game_returns_its_terms(players):
    coalitions = choose_coalitions(players, permutations=8)
    assert not coalitions.members[0].any()
    assert coalitions.members[-1].all()
    assert (len(coalitions.weights) == 1) == (players <= 10)
    game = random_game(players)
    values, _ = coalitions.shapley_values(values_of(game, coalitions))
    torch.testing.assert_close(values.sum(1), (game[-1:] - game[:1]).double())

    terms = torch.randn(players, 2)
    additive = 7.0 + coalitions.members.float() @ terms
    values, error = coalitions.shapley_values(additive[None])
    torch.testing.assert_close(values[0], terms.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(error, torch.zeros_like(error), atol=1e-5, rtol=0)


def test_sampled_values_agree_with_exact_ones_within_their_error():
    game = random_game(11, outputs=50)
    exact, _ = shapley._all_coalitions(11).shapley_values(game[None])
    sampled = choose_coalitions(11, permutations=400, seed=3)
    values, error = sampled.shapley_values(values_of(game, sampled))
    score = (values - exact) / error
    assert score.abs().max() < 5
    assert 0.9 < score.std() < 1.1  # the error is neither too small nor too large


def test_more_permutations_lower_the_error_and_seeds_differ():
    game = random_game(12, outputs=50)

    def estimate(**settings):
        coalitions = choose_coalitions(12, **settings)
        return coalitions.shapley_values(values_of(game, coalitions))

    few, many = estimate(permutations=40), estimate(permutations=640)
    assert float(many[1].mean() / few[1].mean()) == pytest.approx(1 / 4, rel=0.1)
    assert torch.equal(estimate(seed=5)[0], estimate(seed=5)[0])
    assert not torch.equal(estimate(seed=5)[0], estimate(seed=6)[0])


@pytest.mark.parametrize("permutations", [0, 2, 7])
def test_too_few_or_odd_permutations_are_refused(permutations):
    with pytest.raises(ValueError, match=f"even number of at least 4, got {permutations}"):
        choose_coalitions(3, permutations=permutations)


def test_captum_computes_the_same_values():
    from captum.attr import ShapleyValues

    game = random_game(4)

    def value(members):
        return game[(members.long() << torch.arange(4)).sum(1)]

    ours, _ = choose_coalitions(4).shapley_values(game[None])
    theirs = [ShapleyValues(value).attribute(torch.ones(1, 4), target=output) for output in range(3)]
    torch.testing.assert_close(ours.float(), torch.stack(theirs, dim=-1))
