import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion import UNKNOWN, hide_attributes
from alignedfusion.modules.masking import HideAttributes


def full_table(rows):
    return torch.randint(3, (rows, 5), generator=torch.Generator().manual_seed(0))


@given(st.floats(0, 1, allow_subnormal=False), st.integers(0, 2**32), st.integers(0, 7))
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


def test_hidden_cells_depend_on_the_generator():
    codes = full_table(7)
    draw = torch.rand(7, 5, generator=torch.Generator().manual_seed(3))
    _, is_hidden = hide_attributes(codes, 0.4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(is_hidden, draw < 0.4)


def test_the_share_of_hidden_cells_is_p_with_the_paper_s_default():
    _, is_hidden = hide_attributes(full_table(4000), generator=torch.Generator().manual_seed(0))
    assert is_hidden.float().mean().item() == pytest.approx(0.3, abs=0.015)  # 20000 cells: standard error 0.003


def test_whole_reports_are_hidden_with_their_probability():
    codes = full_table(4000)
    visible, is_hidden = hide_attributes(codes, 0.0, whole=0.1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(is_hidden.any(1), is_hidden.all(1))
    assert is_hidden.all(1).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(visible == UNKNOWN, is_hidden)
    with pytest.raises(ValueError, match=r"whole must be between 0 and 1, got 2"):
        hide_attributes(codes, whole=2)


def test_sparse_reports_are_hidden_at_rates_from_p_to_one():
    codes = torch.zeros(4000, 40, dtype=torch.long)
    _, is_hidden = hide_attributes(codes, 0.3, sparse=0.2, generator=torch.Generator().manual_seed(0))
    # The mean rate is 0.8 * 0.3 + 0.2 * 0.65; rates above 0.6 are those of 0.2 * 4 / 7 of the reports.
    assert is_hidden.float().mean().item() == pytest.approx(0.37, abs=0.01)
    assert (is_hidden.float().mean(1) > 0.6).float().mean().item() == pytest.approx(0.2 * 4 / 7, abs=0.02)
    _, plain = hide_attributes(codes, 0.3, generator=torch.Generator().manual_seed(0))
    assert (is_hidden | ~plain).all()  # cells are only hidden in addition
    assert hide_attributes(codes, 1.0, sparse=1.0)[1].all()
    with pytest.raises(ValueError, match=r"sparse must be between 0 and 1, got -1"):
        hide_attributes(codes, sparse=-1)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_is_a_probability(p):
    with pytest.raises(ValueError, match=re.escape(f"p must be between 0 and 1, got {p}")):
        hide_attributes(full_table(2), p)


def test_a_given_mask_hides_its_mentioned_cells_and_nothing_else():
    codes = torch.tensor([[2, UNKNOWN, 0]])
    is_hidden = torch.tensor([[True, True, False]])
    visible, hidden = HideAttributes(1.0)(codes, is_hidden)
    assert visible.tolist() == [[UNKNOWN, UNKNOWN, 0]]
    assert hidden.tolist() == [[True, False, False]]
    with pytest.raises(ValueError, match="is_hidden"):
        HideAttributes(0.0)(codes, is_hidden.float())


def test_cells_are_drawn_in_training_only():
    codes = full_table(11)
    visible, is_hidden = HideAttributes(1.0).eval()(codes)
    assert torch.equal(visible, codes)
    assert not is_hidden.any()
    assert (HideAttributes(1.0)(codes)[0] == UNKNOWN).all()
    with pytest.raises(ValueError, match=r"whole must be between 0 and 1, got 1\.5"):
        HideAttributes(0.3, whole=1.5)
