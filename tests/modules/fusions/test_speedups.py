"""Optimised fusions equal the plain equations in float64."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignedfusion import IntermediateTokenFusion
from alignedfusion.modules.attention import SelfAttentionBlock

LENGTHS = {"clinical": 5, "dermoscopy": 7, "report": 3}


def plain_block(block, tokens, is_valid):
    """Pre-norm self-attention, one row and one head at a time."""
    rows = []
    for row, valid in zip(tokens, is_valid, strict=True):
        query, key, value = block.qkv(block.norm_attention(row)).chunk(3, dim=-1)
        width = row.shape[-1] // block.num_heads
        heads = []
        for head in range(block.num_heads):
            part = slice(head * width, (head + 1) * width)
            scores = (query[:, part] @ key[:, part].T / width**0.5).masked_fill(~valid, -torch.inf)
            heads.append(scores.softmax(-1) @ value[:, part])
        rows.append(row + block.out(torch.cat(heads, dim=-1)))
    tokens = torch.stack(rows)
    return tokens + block.mlp(block.norm_mlp(tokens))


def plain_fusion(fusion, tokens, is_valid, is_present):
    """Equations 6 to 8 in plain form, with the average of each row's copies computed one by one."""
    rows = len(tokens["report"])
    streams = {m: s * is_valid[m][..., None] * is_present[m][:, None, None] for m, s in tokens.items()}
    bridge = fusion.intermediate.expand(rows, -1, -1)
    for blocks in fusion.rounds:
        copies = {}
        for m, stream in streams.items():
            carried = fusion.carried[m]
            joined = torch.cat([bridge[:, carried], stream], dim=1)
            valid = torch.cat([torch.ones(rows, len(carried), dtype=torch.bool), is_valid[m]], dim=1)
            joined = plain_block(blocks["shared" if fusion.share_weights else m], joined, valid)
            copies[m], streams[m] = joined[:, : len(carried)], joined[:, len(carried) :]
        averaged = bridge.clone()
        for row in range(rows):
            for k in range(bridge.shape[1]):
                holders = [m for m in streams if k in fusion.carried[m] and is_present[m][row]]
                if holders:
                    mine = [copies[m][row, fusion.carried[m].index(k)] for m in holders]
                    averaged[row, k] = torch.stack(mine).mean(0)
        bridge = averaged
    return streams, bridge


@pytest.mark.parametrize("topology", ["pairwise", "shared"])
@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_fusion_equals_the_equations_written_out(masked, share_weights, topology):
    fusion = IntermediateTokenFusion(
        38, modalities=tuple(LENGTHS), num_heads=2, topology=topology, num_tokens=2, share_weights=share_weights
    ).double()
    tokens = {m: torch.randn(4, n, 38, dtype=torch.float64) for m, n in LENGTHS.items()}
    is_valid = {m: torch.ones(4, n, dtype=torch.bool) for m, n in LENGTHS.items()}
    is_present = {m: torch.ones(4, dtype=torch.bool) for m in LENGTHS}
    masks = {}
    if masked:
        is_valid["dermoscopy"] = torch.arange(7) < torch.tensor([7, 4, 1, 6])[:, None]
        is_present["report"] = torch.tensor([True, False, True, False])
        is_present["clinical"] = torch.tensor([True, True, False, False])
        masks = {
            "is_valid": {"dermoscopy": is_valid["dermoscopy"]},
            "is_present": {m: is_present[m] for m in ("report", "clinical")},
        }
    streams, bridge = plain_fusion(fusion, tokens, is_valid, is_present)
    fused = fusion(tokens, **masks)
    torch.testing.assert_close(fused.intermediate, bridge)
    for m, stream in streams.items():
        counts = is_valid[m] & is_present[m][:, None]
        torch.testing.assert_close(fused.tokens[m][counts], stream[counts])


def test_concatenated_sets_equal_single_sets():
    block = SelfAttentionBlock(38, num_heads=2).double()
    sets = [torch.randn(7, n, 38, dtype=torch.float64, requires_grad=True) for n in (11, 3, 1)]
    masks = [torch.arange(11).expand(7, -1) < 5, None, None]
    together = block.within_sets(torch.cat(sets, dim=1), [11, 3, 1], masks).split([11, 3, 1], dim=1)
    alone = [block(tokens, mask) for tokens, mask in zip(sets, masks, strict=True)]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    ours, theirs = (
        torch.autograd.grad(sum(out.square().sum() for out in outs), [*block.parameters(), *sets], retain_graph=True)
        for outs in (together, alone)
    )
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second)


def test_shared_weights_use_one_product_for_all_modalities():
    shapes = []
    fusion = IntermediateTokenFusion(38, num_heads=2, depth=1, share_weights=True)
    fusion.rounds[0]["shared"].qkv.register_forward_hook(lambda _, inputs, out: shapes.append(tuple(out.shape)))
    fusion({"image": torch.randn(7, 11, 38), "report": torch.randn(7, 3, 38)})
    assert shapes == [(7, 11 + 1 + 3 + 1, 3 * 38)]


class OneKernel(nn.Module):
    """A self-attention block that allows only one kind of kernel."""

    def __init__(self, block, backend):
        super().__init__()
        self.block, self.backend = block, backend

    def forward(self, tokens, is_valid=None):
        with sdpa_kernel(self.backend):  # an error if the kernel does not support these inputs
            return self.block(tokens, is_valid)


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_without_padding_attention_uses_the_flash_kernel(device):
    fusion = IntermediateTokenFusion(384, num_heads=6).to(device, torch.bfloat16)
    for blocks in fusion.rounds:
        for m in blocks:
            blocks[m] = OneKernel(blocks[m], SDPBackend.FLASH_ATTENTION)
    tokens = {
        m: torch.randn(4, n, 384, device=device, dtype=torch.bfloat16) for m, n in (("image", 196), ("report", 14))
    }
    fusion(tokens).intermediate.sum().backward()
    if device == "cuda":  # with padding the kernel is refused, which shows that the test above is meaningful
        with pytest.raises(RuntimeError):
            fusion(tokens, is_valid={"report": torch.ones(4, 14, dtype=torch.bool, device=device)})
