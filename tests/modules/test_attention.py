import pytest
import torch
from torch import nn

from alignedfusion.modules.attention import CrossAttentionBlock, SelfAttentionBlock


def test_one_block_by_hand():
    block = SelfAttentionBlock(2, num_heads=1)
    for layer in (block.qkv, block.out, block.mlp[3]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    block.qkv.weight.data[4:] = torch.eye(2)  # query and key are 0, so attention is uniform; value is the normed token
    block.out.weight.data[:] = torch.eye(2)

    # Normed: (1, 3) -> (-1, 1), (5, 1) -> (1, -1), (2, 8) -> (-1, 1). Their mean (-1/3, 1/3) is added to each.
    tokens = torch.tensor([[[1.0, 3.0], [5.0, 1.0], [2.0, 8.0]]])
    expected = torch.tensor([[[1 - 1 / 3, 3 + 1 / 3], [5 - 1 / 3, 1 + 1 / 3], [2 - 1 / 3, 8 + 1 / 3]]])
    torch.testing.assert_close(block(tokens), expected, atol=1e-5, rtol=0)

    # The second token is padding: the mean of the others is (-1, 1).
    is_valid = torch.tensor([[True, False, True]])
    expected = torch.tensor([[[0.0, 4.0], [1.0, 9.0]]])
    torch.testing.assert_close(block(tokens, is_valid)[:, [0, 2]], expected, atol=1e-5, rtol=0)


def test_padding_equals_absent_tokens():
    block = SelfAttentionBlock(38, num_heads=2)
    tokens = torch.randn(7, 11, 38)
    is_valid = torch.arange(11).expand(7, -1) < 5
    padded = block(tokens, is_valid)
    assert padded.shape == (7, 11, 38)
    torch.testing.assert_close(padded[:, :5], block(tokens[:, :5]))
    tokens[:, 5:] = 1e4
    assert torch.equal(block(tokens, is_valid)[:, :5], padded[:, :5])


def test_a_full_mask_equals_no_mask_and_order_does_not_matter():
    block = SelfAttentionBlock(38, num_heads=2)
    tokens, order = torch.randn(7, 11, 38), torch.randperm(11)
    torch.testing.assert_close(block(tokens, torch.ones(7, 11, dtype=torch.bool)), block(tokens))
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def test_dropout_in_training_only_and_gradients():
    block = SelfAttentionBlock(38, num_heads=2, mlp_ratio=1.5, dropout=0.5)
    tokens = torch.randn(7, 11, 38, requires_grad=True)
    assert block.mlp[0].out_features == 57
    assert not torch.equal(block(tokens), block(tokens))
    block.eval()
    assert torch.equal(block(tokens), block(tokens))
    block(tokens).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in [tokens, *block.parameters()])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dim is the width of the tokens, 1 or more; got 0"):
        SelfAttentionBlock(0)
    with pytest.raises(ValueError, match="dim must be divisible by num_heads, got dim=38 and num_heads=3"):
        SelfAttentionBlock(38, num_heads=3)


def by_hand(block, tokens, context, heads):
    """The expected output of a cross-attention block, computed head by head."""
    width = tokens.shape[-1] // heads
    query = block.query(block.norm_query(tokens))
    key, value = block.key_value(block.norm_context(context)).chunk(2, dim=-1)
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / width**0.5  # (B, N, M)
        mixed.append(scores.softmax(-1) @ value[..., part])
    tokens = tokens + block.out(torch.cat(mixed, dim=-1))
    return tokens + block.mlp(block.norm_mlp(tokens))


def test_cross_attention_is_a_softmax_over_the_context_by_hand():
    block = CrossAttentionBlock(38, num_heads=2)
    tokens, context = torch.randn(7, 3, 38), torch.randn(7, 11, 38)
    crossed = block(tokens, context)
    assert crossed.shape == (7, 3, 38)
    torch.testing.assert_close(crossed, by_hand(block, tokens, context, 2))


def test_padding_in_the_context_is_ignored():
    block = CrossAttentionBlock(38, num_heads=2)
    tokens, context = torch.randn(7, 3, 38), torch.randn(7, 11, 38)
    is_valid = torch.arange(11).expand(7, -1) < 5
    crossed = block(tokens, context, is_valid)
    torch.testing.assert_close(crossed, by_hand(block, tokens, context[:, :5], 2))
    context[:, 5:] = 1e4
    assert torch.equal(block(tokens, context, is_valid), crossed)
    torch.testing.assert_close(block(tokens, context, torch.ones(7, 11, dtype=torch.bool)), block(tokens, context))


def test_cross_attention_keeps_tokens_and_rows_independent():
    block = CrossAttentionBlock(38, num_heads=2)
    tokens, context = torch.randn(7, 3, 38), torch.randn(7, 11, 38)
    torch.testing.assert_close(block(tokens[:, 1:2], context), block(tokens, context)[:, 1:2])
    torch.testing.assert_close(block(tokens[2:3], context[2:3]), block(tokens, context)[2:3])


def test_dropout_of_cross_attention_in_training_only_and_gradients():
    block = CrossAttentionBlock(38, num_heads=2, dropout=0.5)
    tokens, context = torch.randn(7, 3, 38, requires_grad=True), torch.randn(7, 11, 38, requires_grad=True)
    assert block.mlp[0].out_features == 152
    assert not torch.equal(block(tokens, context), block(tokens, context))
    block.eval()
    assert torch.equal(block(tokens, context), block(tokens, context))
    block(tokens, context).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in [tokens, context, *block.parameters()])


def test_heads_of_cross_attention_must_divide_the_width():
    with pytest.raises(ValueError, match="dim must be divisible by num_heads, got dim=38 and num_heads=3"):
        CrossAttentionBlock(38, num_heads=3)
