import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion import UNKNOWN, Attribute, AttributeSchema
from alignedfusion.datasets.missingness import Scenario, drop_attributes, mar, mcar, mnar

NAMES = ("asymmetry", "border", "colour", "diameter", "evolution")
WIDE = AttributeSchema(Attribute(name, values=("absent", "present", "severe")) for name in NAMES)


def full_table(rows):
    return torch.randint(3, (rows, 5), generator=torch.Generator().manual_seed(0))


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


@given(st.floats(0, 1, allow_subnormal=False), st.floats(0, 1, allow_subnormal=False), st.integers(-5, 5))
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


def test_drop_attributes_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="cases must name every row: got 3 names for 2 rows"):
        drop_attributes(full_table(2), 0.5, WIDE, cases="abc")
    with pytest.raises(ValueError, match=r"codes must be int64 of shape \(B, 5\)"):
        drop_attributes(full_table(2)[:, :3], 0.5, WIDE)


FINDINGS = AttributeSchema(
    [
        Attribute("effusion", values=("absent", "present")),
        Attribute("nodule", values=("absent", "solid", "part-solid")),
        Attribute("sex", values=("female", "male")),
    ]
)


def test_a_rate_per_attribute_leaves_the_others_alone():
    dropped = drop_attributes(full_table(4000), {WIDE.names[1]: 0.4, WIDE.names[3]: 1.0}, WIDE) == UNKNOWN
    torch.testing.assert_close(dropped.float().mean(0), torch.tensor([0.0, 0.4, 0.0, 1.0, 0.0]), atol=0.03, rtol=0)
    with pytest.raises(ValueError, match="no attribute 'weight' in the schema"):
        drop_attributes(full_table(2), {"weight": 0.4}, WIDE)
    with pytest.raises(ValueError, match="takes no mechanism"):
        drop_attributes(full_table(2), {WIDE.names[0]: 0.4}, WIDE, mechanism=mar(WIDE.names[1]))


def test_with_denials_kept_only_the_other_cells_go_missing():
    codes = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 2, 0], [UNKNOWN, 0, 1]]).repeat(1000, 1)
    dropped = drop_attributes(codes, 0.4, FINDINGS, mechanism=mnar(denials=0, others=1)) == UNKNOWN
    is_denial = codes == torch.tensor([0, 0, -5])
    newly = dropped & (codes != UNKNOWN)
    assert not (newly & is_denial).any()
    assert newly[~is_denial & (codes != UNKNOWN)].float().mean().item() == pytest.approx(0.4, abs=0.02)


def test_reports_omit_what_was_looked_for_and_not_found_at_a_rate_per_attribute():
    codes = torch.tensor([[0, 0, 0], [1, 1, 1]]).repeat(4000, 1)
    mechanism = mnar(denials={"effusion": 0.24, "nodule": 1.0}, others=0.0)
    share = (drop_attributes(codes, 1.0, FINDINGS, mechanism=mechanism) == UNKNOWN).view(4000, 2, 3).float().mean(0)
    torch.testing.assert_close(share, torch.tensor([[0.24, 1.0, 0.0], [0.0, 0.0, 0.0]]), atol=0.03, rtol=0)
    with pytest.raises(ValueError, match="no attribute 'oedema'"):
        drop_attributes(codes, 1.0, FINDINGS, mechanism=mnar(denials={"oedema": 1.0}, others=0.0))


def test_what_is_missing_may_depend_on_another_value():
    codes = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 2, 1]]).repeat(3000, 1)
    dropped = drop_attributes(codes, 0.3, FINDINGS, mechanism=mar("nodule")) == UNKNOWN
    share = dropped.view(3000, 3, 3).float().mean(0)
    # absent, solid, part-solid: 0, half and all of the way to twice the rate; the driver stays.
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.3], [0.6, 0.0, 0.6]])
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


MECHANISMS = {
    "cell": mcar,
    "other": mar("effusion"),
    "own": mnar(denials=0.5, others=1),
}


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
@given(st.floats(0, 1, allow_subnormal=False), st.floats(0, 1, allow_subnormal=False))
def test_every_mechanism_is_nested_in_the_rate(mechanism, first, second):
    codes = torch.tensor([[0, 0, 0], [1, 1, 1], [UNKNOWN, 2, 1]]).repeat(20, 1)
    low, high = (drop_attributes(codes, rate, FINDINGS, mechanism=mechanism) for rate in sorted((first, second)))
    assert (high[low == UNKNOWN] == UNKNOWN).all()


def test_a_scenario_gives_each_part_its_rate():
    codes, cases = full_table(2000), range(2000)
    scenario = Scenario(train=0.5, test=0.2, seed=3)
    shares = {
        split: (scenario.apply(split, codes, WIDE, cases) == UNKNOWN).float().mean().item()
        for split in ("train", "valid", "test")
    }
    assert shares == pytest.approx({"train": 0.5, "valid": 0.0, "test": 0.2}, abs=0.02)
    assert torch.equal(scenario.apply("test", codes, WIDE, cases), drop_attributes(codes, 0.2, WIDE, seed=3))
    with pytest.raises(ValueError, match="split must be one of"):
        scenario.apply("val", codes, WIDE, cases)
