import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from alignedfusion.detection.global_read import GlobalRead, NormedMap, PointwiseWrite

# B = 3, D = 14 with 2 heads, maps of 5 and 11 channels in two and three dimensions.
LEVELS = {
    "one 2-D map": [(5, 7, 4)],
    "two 2-D maps": [(5, 7, 4), (11, 2, 3)],
    "one 3-D map": [(5, 2, 3, 7)],
    "2-D and 3-D": [(5, 7, 4), (11, 2, 3, 2)],
    "one position": [(5, 1, 1)],
}


def draw(levels, batch=3, dtype=torch.float64):
    """Maps off zero and of unlike deviations, which a layer norm has to undo."""
    shapes = [(batch, *level) for level in levels]
    return [(torch.randn(s, dtype=dtype) * (2 + i) + 1.5 - i).requires_grad_() for i, s in enumerate(shapes)]


def reader(levels, dim=14, num_heads=2, **settings):
    return GlobalRead([level[0] for level in levels], dim, num_heads=num_heads, **settings).double().eval()


def writer(channels, dim=14, **settings):
    """One that has learned something."""
    write = PointwiseWrite(channels, dim, **settings).double()
    torch.nn.init.normal_(write.value.weight)
    torch.nn.init.normal_(write.value.bias)
    return write


def positions_of(features):
    return F.layer_norm(features.flatten(2).mT, features.shape[1:2])  # (B, N, C)


def plain_read(read, maps, token):
    """Every position normed and projected, then the token's row of attention."""
    query, key, value = read.query_key_value(read.norm(token)).chunk(3, dim=-1)  # (B, 1, D)
    keys, values = [key], [value]
    for features, level in zip(maps, read.levels, strict=True):
        key, value = level(positions_of(features)).chunk(2, dim=-1)  # (B, N, D)
        keys.append(key)
        values.append(value)
    query, key, value = (
        x.unflatten(-1, (read.num_heads, -1)).transpose(1, 2) for x in (query, torch.cat(keys, 1), torch.cat(values, 1))
    )
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # (B, 1, D)
    token = token + read.out(mixed)
    return token + read.mlp(read.norm_mlp(token))


def plain_write(write, features, message):
    """At every position and head a softmax over {itself, message}; only the message has a value."""
    normed = positions_of(features)
    query, own = write.query_key(normed).unflatten(-1, (2, write.num_heads, -1)).unbind(2)  # (B, N, h, w)
    other = write.key(message).unflatten(-1, (write.num_heads, -1))[:, None]  # (B, 1, h, w)
    scores = torch.stack([(query * own).sum(-1), (query * other).sum(-1)], dim=-1) / math.sqrt(query.shape[-1])
    share = scores.softmax(-1)[..., 1]  # (B, N, h)
    values = write.value(message).unflatten(-1, (write.num_heads, -1))  # (B, h, C)
    return features.flatten(2) + (share @ values).mT


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_reading_is_one_row_of_attention_over_all_positions(levels):
    maps, read, token = draw(levels), reader(levels), torch.randn(3, 1, 14, dtype=torch.float64, requires_grad=True)
    out, expected = read([NormedMap(m) for m in maps], token), plain_read(read, maps, token)
    assert out.shape == (3, 1, 14)
    torch.testing.assert_close(out, expected)
    inputs = [token, *maps, *read.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(o.square().sum(), inputs) for o in (out, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_writing_is_a_softmax_over_itself_and_the_message_at_every_position(levels):
    message = torch.randn(3, 14, dtype=torch.float64, requires_grad=True)
    for features in draw(levels):
        write = writer(features.shape[1], num_heads=2, width=3)
        out, expected = write(NormedMap(features), message), plain_write(write, features, message)
        assert out.shape == features.flatten(2).shape
        torch.testing.assert_close(out, expected)
        inputs = [message, features, *write.parameters()]
        for ours, theirs in zip(*(torch.autograd.grad(o.square().sum(), inputs) for o in (out, expected)), strict=True):
            torch.testing.assert_close(ours, theirs)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.sampled_from([(6, 1), (6, 2), (6, 3)]),
)
def test_it_holds_for_any_shapes(levels, batch, width_and_heads):
    dim, heads = width_and_heads
    maps, read = draw(levels, batch), reader(levels, dim, heads)
    token = torch.randn(batch, 1, dim, dtype=torch.float64)
    torch.testing.assert_close(read([NormedMap(m) for m in maps], token), plain_read(read, maps, token))
    write = writer(levels[0][0], dim)
    torch.testing.assert_close(write(NormedMap(maps[0]), token[:, 0]), plain_write(write, maps[0], token[:, 0]))


def test_a_map_is_normed_without_being_written_anew():
    # Channels (1, 3) at the first position and (2, 8) at the second: means 2 and 5, deviations 1 and 3.
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 8.0]]]], dtype=torch.float64)
    normed = NormedMap(features)
    assert normed.flat.data_ptr() == features.data_ptr()
    plus, both = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64).unbind(1)
    product = normed.product(torch.stack([plus, both], dim=1))
    torch.testing.assert_close(product, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]).double(), atol=1e-5, rtol=0)
    total = normed.weighted_sum(torch.tensor([[[1.0, 0.5]]]).double())
    torch.testing.assert_close(total, torch.tensor([[[-1.5, 1.5]]]).double(), atol=1e-5, rtol=0)


def test_an_untrained_write_changes_nothing():
    features = torch.randn(3, 5, 7, 4)
    assert torch.equal(PointwiseWrite(5, 14)(NormedMap(features), torch.randn(3, 14)), features.flatten(2))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.count = max([self.count, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


def cost(side):
    """Floating-point operations, and elements of the largest tensor, of a read and a write, forward and backward."""
    features = torch.randn(1, 5, side, side, requires_grad=True)
    read, write = GlobalRead([5], 14, num_heads=2), PointwiseWrite(5, 14)
    with FlopCounterMode(display=False) as flops, Largest() as largest:
        normed = NormedMap(features)
        write(normed, read([normed], torch.randn(1, 1, 14))[:, 0]).sum().backward()
    return flops.get_total_flops(), largest.count


def test_cost_is_linear_in_the_number_of_positions():
    (few, small), (more, medium), (many, large) = cost(16), cost(32), cost(64)
    assert (many - more) == 4 * (more - few)  # 256, 1,024 and 4,096 positions, over a constant part
    assert small == 64 * 256  # queries and keys: 2 x 4 heads x 8
    assert (medium, large) == (4 * small, 16 * small)


def test_positions_have_no_order():
    levels = LEVELS["2-D and 3-D"]
    maps, read, token = draw(levels), reader(levels), torch.randn(3, 1, 14, dtype=torch.float64)
    orders = [torch.randperm(m.flatten(2).shape[2]) for m in maps]
    moved = [m.flatten(2)[..., o].reshape(m.shape) for m, o in zip(maps, orders, strict=True)]
    out, again = (read([NormedMap(m) for m in each], token) for each in (maps, moved))
    torch.testing.assert_close(again, out)
    for features, other, order in zip(maps, moved, orders, strict=True):
        write = writer(features.shape[1])
        there, here = (write(NormedMap(m), out[:, 0]) for m in (features, other))
        torch.testing.assert_close(here, there[..., order])
        assert (there - features.flatten(2)).abs().amax((1, 2)).min() > 1e-3


def test_rows_do_not_touch_each_other():
    maps, token = [m.detach() for m in draw([(5, 7, 4), (11, 2, 3)])], torch.randn(3, 1, 14, dtype=torch.float64)
    read, write = reader([(5,), (11,)]), writer(5)
    other, message = [m.clone() for m in maps], torch.randn(3, 14, dtype=torch.float64)
    for m in other:
        m[1] += 1 + torch.randn_like(m[1])
    first, second = (read([NormedMap(m) for m in each], token) for each in (maps, other))
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert (first[1] - second[1]).abs().max() > 1e-6
    changed = message.clone()
    changed[1] += 1
    first, second = (write(NormedMap(maps[0]), m) for m in (message, changed))
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert (first[1] - second[1]).abs().max() > 1e-6


def test_the_bias_tells_levels_apart():
    read, token = reader([(5,), (5,)]), torch.randn(3, 1, 14, dtype=torch.float64)
    read.levels[1].weight.data.copy_(read.levels[0].weight.data)
    normed = [NormedMap(m) for m in draw([(5, 7, 4), (5, 2, 3)])]
    assert (read(normed, token) - read(normed[::-1], token)).abs().max() > 1e-6
    read.levels[1].bias.data.copy_(read.levels[0].bias.data)
    torch.testing.assert_close(read(normed, token), read(normed[::-1], token))


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.0])
def test_bfloat16_is_finite_and_close(scale):
    # 0: a constant map, such as zero padding; its deviation is 0.
    maps = [(m.detach() * scale).bfloat16() for m in draw(LEVELS["2-D and 3-D"])]
    read, token = reader(LEVELS["2-D and 3-D"]).bfloat16(), torch.randn(3, 1, 14).bfloat16()
    for m in maps:
        m.requires_grad_()
    out = read([NormedMap(m) for m in maps], token)
    assert out.dtype == torch.bfloat16
    expected = plain_read(read.double(), [m.double() for m in maps], token.double())
    torch.testing.assert_close(out.double(), expected, atol=0.1, rtol=0.1)
    read.bfloat16()
    write = writer(5).bfloat16()
    changed = write(NormedMap(maps[0]), out[:, 0])
    assert changed.dtype == torch.bfloat16
    (changed.float().square().mean() + out.float().square().mean()).backward()
    assert all(x.isfinite().all() for x in (out, changed, *(m.grad for m in maps)))
    assert all(p.grad.isfinite().all() for p in write.parameters())


def test_gradients_are_right():
    maps, read, write = draw([(3, 2, 2), (2, 1, 2, 1)], batch=2), reader([(3,), (2,)], 4), writer(3, 4, num_heads=2)
    token = torch.randn(2, 1, 4, dtype=torch.float64, requires_grad=True)

    def both(first, second, token):
        normed = NormedMap(first)
        token = read([normed, NormedMap(second)], token)
        return token, write(normed, token[:, 0])

    assert torch.autograd.gradcheck(both, (*maps, token))


def test_dropout_is_only_in_training():
    read, token = reader([(5,)], dropout=0.5), torch.randn(3, 1, 14, dtype=torch.float64)
    normed = [NormedMap(m) for m in draw([(5, 7, 4)])]
    assert torch.equal(read(normed, token), read(normed, token))
    read.train()
    assert not torch.equal(read(normed, token), read(normed, token))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"dim must be divisible by num_heads, got dim=14 and num_heads=3"):
        GlobalRead([5], 14, num_heads=3)


def test_as_many_maps_as_announced():
    read = reader([(5,), (11,)])
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is longer than argument 1"):
        read([NormedMap(draw([(5, 7, 4)])[0])], torch.randn(3, 1, 14, dtype=torch.float64))
