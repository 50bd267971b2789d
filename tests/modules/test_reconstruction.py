import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alignedfusion import Attribute, AttributeSchema, MaskedTokenReconstructor, reconstruction_loss

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)


def test_equation_10_by_hand():
    schema = AttributeSchema([Attribute("size", values=("s", "m", "l")), Attribute("side", values=("left", "right"))])
    reconstructor = MaskedTokenReconstructor(4)
    reconstructor.query = reconstructor.key = nn.Identity()
    values = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 0]])
    # Token times value over sqrt(4): size gets ln 1, ln 2, ln 5; side gets ln 3 and ln 1, and no third value.
    tokens = torch.tensor([[[0.0, 2 * LN2, 2 * LN5, 0], [2 * LN3, 0, 0, 0]]])
    rebuilt = reconstructor(tokens, values, schema)
    torch.testing.assert_close(rebuilt.logits, torch.tensor([[[0.0, LN2, LN5], [LN3, 0.0, -math.inf]]]))

    # Softmax: size 1/8, 2/8, 5/8; side 3/4, 1/4. The expected token is their mixture of the value tokens.
    expected = torch.tensor([[[0.125, 0.25, 0.625, 0.0], [0.75, 0.0, 0.25, 0.75]]])
    torch.testing.assert_close(rebuilt.tokens, expected)

    # Cross-entropy: "m" has 1/4, so -ln(1/4) = 1.386294; "left" has 3/4, so -ln(3/4) = 0.287682; the mean is 0.836988.
    codes, both = torch.tensor([[1, 0]]), torch.tensor([[True, True]])
    assert reconstruction_loss(rebuilt.logits, codes, both).item() == pytest.approx(0.836988, abs=1e-6)
    first = torch.tensor([[True, False]])
    assert reconstruction_loss(rebuilt.logits, codes, first).item() == pytest.approx(1.386294, abs=1e-6)


def test_only_cells_that_were_mentioned_and_hidden_count():
    logits, codes = torch.randn(7, 3, 5), torch.randint(5, (7, 3))
    is_hidden = torch.rand(7, 3) < 0.5
    loss = reconstruction_loss(logits, codes, is_hidden)
    assert torch.equal(reconstruction_loss(torch.where(is_hidden[..., None], logits, 9.0), codes, is_hidden), loss)
    assert torch.equal(reconstruction_loss(logits, codes.masked_fill(~is_hidden, -1), is_hidden), loss)
    # A cell that was never mentioned has no target, even if is_hidden marks it.
    everything = torch.ones(7, 3, dtype=torch.bool)
    torch.testing.assert_close(reconstruction_loss(logits, codes.masked_fill(~is_hidden, -1), everything), loss)


def test_the_loss_is_zero_with_a_gradient_path_when_nothing_is_hidden():
    logits = torch.randn(7, 3, 5).index_fill(2, torch.tensor([4]), -math.inf).requires_grad_()
    loss = reconstruction_loss(logits, torch.full((7, 3), -1), torch.zeros(7, 3, dtype=torch.bool))
    assert loss.item() == 0.0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros(7, 3, 5))


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.integers(1, 3),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_logits_cover_exactly_the_attribute_s_own_values(counts, rows, dtype):
    schema = AttributeSchema(Attribute(f"a{i}", values=range(n)) for i, n in enumerate(counts))
    torch.manual_seed(0)
    reconstructor = MaskedTokenReconstructor(10).to(dtype)
    values = torch.randn(sum(counts), 10, dtype=dtype, requires_grad=True)
    tokens = torch.randn(rows, len(counts), 10, dtype=dtype, requires_grad=True)
    rebuilt = reconstructor(tokens, values, schema)
    assert rebuilt.logits.shape == (rows, len(counts), max(counts))
    assert rebuilt.logits.dtype == torch.float32
    assert rebuilt.tokens.shape == tokens.shape
    own = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    assert torch.equal(rebuilt.logits.isfinite(), own.expand(rows, -1, -1))
    assert (rebuilt.logits[:, ~own] == -math.inf).all()

    codes = torch.tensor(counts).expand(rows, -1) - 1
    loss = reconstruction_loss(rebuilt.logits, codes, torch.ones_like(codes, dtype=torch.bool))
    (loss + rebuilt.tokens.float().square().mean()).backward()
    assert all(t.grad.isfinite().all() for t in [values, tokens, *reconstructor.parameters()])


def test_an_attribute_with_one_value_is_certain_of_it():
    schema = AttributeSchema([Attribute("a", values=("only",)), Attribute("b", values=("x", "y"))])
    values = torch.randn(3, 38)
    rebuilt = MaskedTokenReconstructor(38)(torch.randn(7, 2, 38), values, schema)
    torch.testing.assert_close(rebuilt.tokens[:, 0], values[0].expand(7, -1))


def test_shapes_must_fit_the_schema(schema):
    reconstructor = MaskedTokenReconstructor(38)
    message = r"the schema has 3 attributes and 10 values; got tokens \(7, 5, 38\) and values \(10, 38\)"
    with pytest.raises(ValueError, match=message):
        reconstructor(torch.zeros(7, 5, 38), torch.zeros(10, 38), schema)
    with pytest.raises(ValueError, match=r"and values \(11, 38\)"):
        reconstructor(torch.zeros(7, 3, 38), torch.zeros(11, 38), schema)
