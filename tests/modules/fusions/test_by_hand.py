import torch
from torch import nn

from alignedfusion.baselines import ElementwiseSum, MSMAFusion, RemixFormerFusion

ONE, TWO = ("clinical", "report"), ("clinical", "dermoscopy", "report")


class Keep(nn.Module):
    """Replaces an attention block; tokens stay as they are."""

    def forward(self, tokens, *others):
        return tokens


def by_hand(kind, modalities):
    """A fusion of width 1 whose attention does nothing."""
    fusion = kind(1, modalities=modalities, num_heads=1)
    fusion.rounds = nn.ModuleList(nn.ModuleDict({m: Keep() for m in blocks}) for blocks in fusion.rounds)
    return fusion


def pooled(fusion, tokens, is_valid=None, is_present=None):
    fused = fusion(tokens, is_valid=is_valid, is_present=is_present)
    return fusion.pool(fused, is_valid or {}, is_present or {})


def stream(*tokens):
    return torch.tensor(tokens)[None, :, None]


def test_element_wise_sum_adds_means_by_hand(schema, build):
    fusion = by_hand(ElementwiseSum, TWO)
    tokens = {"clinical": stream(1.0, 5.0, 100.0), "dermoscopy": stream(7.0), "report": stream(10.0, 14.0)}
    is_valid = {"clinical": torch.tensor([[True, True, False]])}
    # (1 + 5) / 2 + 7 + (10 + 14) / 2 = 22; absent modalities add nothing.
    assert torch.equal(pooled(fusion, tokens, is_valid), torch.tensor([[22.0]]))
    absent = {"report": torch.tensor([False])}
    assert torch.equal(pooled(fusion, tokens, is_valid, absent), torch.tensor([[10.0]]))
    model = build(schema, fusion=ElementwiseSum(38, num_heads=2), fill=None)
    assert model.head[2].in_features == 38


class Listen(nn.Module):
    """Replaces a cross-attention block: ten times the token, plus the mean of its context."""

    def forward(self, tokens, context, is_valid):
        return 10 * tokens + context.mean(1, keepdim=True)


def test_in_remixformer_an_image_s_mean_attends_to_the_others_by_hand():
    tokens = {"clinical": stream(1.0, 5.0), "dermoscopy": stream(8.0, 6.0), "report": stream(10.0, 14.0)}
    # Means 3, 7 and 12. Each image attends to the other's patches, or to its own if it is the only one.
    for modalities, expected in ((TWO, [[37.0, 73.0, 12.0]]), (ONE, [[33.0, 12.0]])):
        fusion = by_hand(RemixFormerFusion, modalities)
        fusion.exchange = nn.ModuleDict({m: Listen() for m in modalities if m != "report"})
        fusion.metadata = nn.Identity()
        assert torch.equal(pooled(fusion, {m: tokens[m] for m in modalities}), torch.tensor(expected))


def test_in_msma_the_metadata_gate_the_images_by_hand():
    fusion = by_hand(MSMAFusion, TWO)
    fusion.mutual = nn.ModuleDict({m: Keep() for m in ("clinical", "dermoscopy")})
    fusion.metadata = Keep()
    fusion.gate.weight.data[:] = -1.0
    fusion.gate.bias.data[:] = 12.0
    tokens = {"clinical": stream(1.0, 5.0), "dermoscopy": stream(8.0), "report": stream(10.0, 14.0)}
    # The metadata's mean is 12, so the gate is sigmoid(12 - 12) = 1/2: half of 3, half of 8, and 12 itself.
    assert fusion.pooled_dim == 3
    assert torch.equal(pooled(fusion, tokens), torch.tensor([[1.5, 4.0, 12.0]]))
