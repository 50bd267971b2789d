import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion import UNKNOWN, Attribute, AttributeSchema, hide_attributes
from alignedfusion.missing import drop_attributes

NAMES = ("asymmetry", "border", "colour", "diameter", "evolution")
WIDE = AttributeSchema(Attribute(name, values=("absent", "present", "severe")) for name in NAMES)


def full_table(rows):
    return torch.randint(3, (rows, 5), generator=torch.Generator().manual_seed(0))


@given(st.floats(0, 1), st.integers(0, 2**32), st.integers(0, 7))
def test_hidden_cells_are_the_mentioned_ones_that_changed(p, seed, rows):
    codes = full_table(rows) - 1
    hidden_codes, is_hidden = hide_attributes(codes, p, generator=torch.Generator().manual_seed(seed))
    assert is_hidden.dtype == torch.bool
    assert torch.equal(is_hidden, hidden_codes != codes)
    assert (hidden_codes[is_hidden] == UNKNOWN).all()
    assert not is_hidden[codes == UNKNOWN].any()


def test_zero_hides_nothing_and_one_hides_every_mentioned_cell():
    codes = full_table(1009) - 1
    same, is_hidden = hide_attributes(codes, 0.0)
    assert torch.equal(same, codes)
    assert not is_hidden.any()
    none_left, is_hidden = hide_attributes(codes, 1.0)
    assert (none_left == UNKNOWN).all()
    assert torch.equal(is_hidden, codes != UNKNOWN)


def test_the_generator_decides_which_cells_are_hidden():
    codes = full_table(7)
    draw = torch.rand(7, 5, generator=torch.Generator().manual_seed(3))
    _, is_hidden = hide_attributes(codes, 0.4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(is_hidden, draw < 0.4)


def test_the_share_of_hidden_cells_is_p_by_default_the_paper_s():
    _, is_hidden = hide_attributes(full_table(4000), generator=torch.Generator().manual_seed(0))
    assert is_hidden.float().mean().item() == pytest.approx(0.3, abs=0.015)  # 20000 cells: standard error 0.003


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7])
def test_the_share_of_dropped_cells_is_the_rate_in_every_column(rate):
    is_dropped = drop_attributes(full_table(4000), rate, WIDE) == UNKNOWN
    assert is_dropped.float().mean().item() == pytest.approx(rate, abs=0.015)
    torch.testing.assert_close(is_dropped.float().mean(0), torch.full((5,), rate), atol=0.04, rtol=0)
    # No attribute goes missing together with another more often than chance has it.
    together = (is_dropped[:, 0] & is_dropped[:, 1]).float().mean().item()
    assert together == pytest.approx(rate**2, abs=0.03)


def test_rate_zero_drops_nothing_and_rate_one_everything():
    codes = full_table(101)
    assert torch.equal(drop_attributes(codes, 0.0, WIDE), codes)
    assert (drop_attributes(codes, 1.0, WIDE) == UNKNOWN).all()


@given(st.floats(0, 1), st.floats(0, 1), st.integers(-5, 5))
def test_what_is_missing_at_a_low_rate_is_missing_at_every_higher_one(first, second, seed):
    low, high = sorted((first, second))
    codes = full_table(53) - 1
    at_low, at_high = drop_attributes(codes, low, WIDE, seed=seed), drop_attributes(codes, high, WIDE, seed=seed)
    assert (at_high[at_low == UNKNOWN] == UNKNOWN).all()
    assert torch.equal(at_low[at_low != UNKNOWN], codes[at_low != UNKNOWN])


@given(st.permutations(range(11)), st.permutations(range(5)))
def test_neither_row_order_nor_column_order_matters(rows, columns):
    codes, cases = full_table(11), [f"case {i}" for i in range(11)]
    expected = drop_attributes(codes, 0.5, WIDE, cases=cases)[list(rows)][:, list(columns)]
    shuffled = AttributeSchema(WIDE.attributes[c] for c in columns)
    dropped = drop_attributes(codes[list(rows)][:, list(columns)], 0.5, shuffled, cases=[cases[r] for r in rows])
    assert torch.equal(dropped, expected)


def test_a_part_of_the_table_loses_the_same_cells():
    codes = full_table(11)
    whole = drop_attributes(codes, 0.5, WIDE, cases=range(11))
    assert torch.equal(drop_attributes(codes[4:], 0.5, WIDE, cases=range(4, 11)), whole[4:])
    assert torch.equal(drop_attributes(codes, 0.5, WIDE), whole)  # position is the default name


def test_the_draw_is_the_same_everywhere():
    dropped = drop_attributes(torch.zeros(3, 5, dtype=torch.int64), 0.5, WIDE, cases=["a", "b", "c"], seed=7) == UNKNOWN
    assert dropped.int().tolist() == [[1, 0, 1, 1, 1], [0, 0, 0, 1, 0], [1, 0, 0, 1, 1]]


def test_another_seed_drops_other_cells():
    codes = full_table(4000)
    first, second = (drop_attributes(codes, 0.5, WIDE, seed=seed) == UNKNOWN for seed in (0, 1))
    assert (first != second).float().mean().item() == pytest.approx(0.5, abs=0.02)  # as unlike as two coins


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match=re.escape(f"rate must be between 0 and 1, got {rate}")):
        drop_attributes(full_table(2), rate, WIDE)
    with pytest.raises(ValueError, match=re.escape(f"p must be between 0 and 1, got {rate}")):
        hide_attributes(full_table(2), rate)


def test_drop_attributes_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="cases must name every row: got 3 names for 2 rows"):
        drop_attributes(full_table(2), 0.5, WIDE, cases="abc")
    with pytest.raises(ValueError, match=r"codes must be int64 of shape \(B, 5\)"):
        drop_attributes(full_table(2)[:, :3], 0.5, WIDE)
