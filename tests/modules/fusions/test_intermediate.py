import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alignedfusion import IntermediateTokenFusion

THREE = ("clinical", "dermoscopy", "report")


class Average(nn.Module):
    """Replaces a self-attention block: every token becomes the mean of the valid ones."""

    def forward(self, tokens, is_valid=None):
        weight = torch.ones(tokens.shape[:2]) if is_valid is None else is_valid.float()
        mean = (tokens * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None]
        return mean.expand_as(tokens)


def averaging(intermediate, **settings):
    """A fusion of width 1 for calculations by hand; `intermediate` are its initial intermediate tokens."""
    fusion = IntermediateTokenFusion(1, num_heads=1, **settings)
    fusion.rounds = nn.ModuleList(nn.ModuleDict({m: Average() for m in fusion.modalities}) for _ in fusion.rounds)
    fusion.intermediate.data = torch.tensor(intermediate)[:, None]
    return fusion


def stream(*tokens):
    return torch.tensor(tokens)[None, :, None]


def test_equations_6_to_8_by_hand():
    tokens = {"image": stream(1.0, 5.0), "report": stream(10.0, 14.0)}

    # Round 1: image (3 + 1 + 5) / 3 = 3, report (3 + 10 + 14) / 3 = 9, the intermediate token (3 + 9) / 2 = 6.
    once = averaging([3.0], depth=1)(tokens)
    assert torch.equal(once.tokens["image"], stream(3.0, 3.0))
    assert torch.equal(once.tokens["report"], stream(9.0, 9.0))
    assert torch.equal(once.intermediate, stream(6.0))

    # Round 2: image (6 + 3 + 3) / 3 = 4, report (6 + 9 + 9) / 3 = 8, the intermediate token (4 + 8) / 2 = 6.
    twice = averaging([3.0], depth=2)(tokens)
    assert torch.equal(twice.tokens["image"], stream(4.0, 4.0))
    assert torch.equal(twice.tokens["report"], stream(8.0, 8.0))
    assert torch.equal(twice.intermediate, stream(6.0))


def test_padding_by_hand():
    # Image: 100 is padding and the intermediate token never is, so (3 + 1 + 8) / 3 = 4; report 9; together 6.5.
    tokens = {"image": stream(1.0, 8.0, 100.0), "report": stream(10.0, 14.0)}
    fused = averaging([3.0], depth=1)(tokens, is_valid={"image": torch.tensor([[True, True, False]])})
    assert torch.equal(fused.tokens["image"][:, :2], stream(4.0, 4.0))
    assert torch.equal(fused.intermediate, stream(6.5))


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
def test_three_modalities_by_hand():
    tokens = {"clinical": stream(3.0), "dermoscopy": stream(9.0), "report": stream(0.0)}

    # One token per pair: 0 for clinical-dermoscopy, 3 for clinical-report, 6 for dermoscopy-report.
    # Clinical (0 + 3 + 3) / 3 = 2, dermoscopy (0 + 6 + 9) / 3 = 5, report (3 + 6 + 0) / 3 = 3.
    # Then (2 + 5) / 2 = 3.5, (2 + 3) / 2 = 2.5, (5 + 3) / 2 = 4.
    pairwise = averaging([0.0, 3.0, 6.0], modalities=THREE, depth=1)
    assert torch.equal(pairwise(tokens).intermediate, stream(3.5, 2.5, 4.0))

    # One token for all, 3: clinical (3 + 3) / 2 = 3, dermoscopy (3 + 9) / 2 = 6, report (3 + 0) / 2 = 1.5; mean 3.5.
    shared = averaging([3.0], modalities=THREE, depth=1, topology="shared")
    assert torch.equal(shared(tokens).intermediate, stream(3.5))

    # An absent modality does not enter the average: pairs keep the copy of the other modality. If both are absent, the pair
    # keeps its token.
    absent, present = torch.tensor([False]), torch.tensor([True])
    without_report = {"report": absent, "clinical": present}
    assert torch.equal(pairwise(tokens, is_present=without_report).intermediate, stream(3.5, 2.0, 5.0))
    only_clinical = {"report": absent, "dermoscopy": absent}
    assert torch.equal(pairwise(tokens, is_present=only_clinical).intermediate, stream(2.0, 2.0, 6.0))
    nobody = dict.fromkeys(THREE, absent)
    assert torch.equal(pairwise(tokens, is_present=nobody).intermediate, stream(0.0, 3.0, 6.0))
    assert torch.equal(shared(tokens, is_present=without_report).intermediate, stream(4.5))  # (3 + 6) / 2


def test_several_tokens_per_pair_or_in_all_by_hand():
    tokens = {"image": stream(1.0, 5.0), "report": stream(10.0, 14.0)}
    # Image (0 + 6 + 1 + 5) / 4 = 3, report (0 + 6 + 10 + 14) / 4 = 7.5; both tokens become (3 + 7.5) / 2 = 5.25.
    for topology in ("pairwise", "shared"):
        fused = averaging([0.0, 6.0], num_tokens=2, depth=1, topology=topology)(tokens)
        assert torch.equal(fused.tokens["report"], stream(7.5, 7.5))
        assert torch.equal(fused.intermediate, stream(5.25, 5.25))


@pytest.mark.parametrize("topology", ["pairwise", "shared"])
def test_report_tokens_depend_on_the_image_only_after_two_rounds(topology):
    image, other, report = torch.randn(7, 11, 38), torch.randn(7, 11, 38), torch.randn(7, 3, 38)
    once = IntermediateTokenFusion(38, depth=1, num_heads=2, topology=topology)
    twice = IntermediateTokenFusion(38, depth=2, num_heads=2, topology=topology)
    seen, unseen = ([fusion({"image": x, "report": report}) for x in (image, other)] for fusion in (twice, once))
    assert torch.equal(unseen[0].tokens["report"], unseen[1].tokens["report"])
    assert not torch.equal(unseen[0].intermediate, unseen[1].intermediate)
    assert (seen[0].tokens["report"] - seen[1].tokens["report"]).abs().amax((1, 2)).min() > 1e-6


def test_only_the_intermediate_token_connects_the_modalities():
    # If it is replaced after each round, the report does not depend on the image at any depth.
    fusion = IntermediateTokenFusion(38, depth=3, num_heads=2)
    fusion._average = lambda copies, weights, before: before
    report = torch.randn(7, 3, 38)
    first, second = (fusion({"image": torch.randn(7, 11, 38), "report": report}).tokens["report"] for _ in range(2))
    assert torch.equal(first, second)


def test_pairwise_and_shared_are_equal_at_two_modalities():
    pairwise = IntermediateTokenFusion(38, num_heads=2)
    shared = IntermediateTokenFusion(38, num_heads=2, topology="shared")
    shared.load_state_dict(pairwise.state_dict())
    tokens = {"image": torch.randn(7, 11, 38), "report": torch.randn(7, 3, 38)}
    masks = {
        "is_valid": {"image": torch.rand(7, 11) < 0.5},
        "is_present": {"report": torch.arange(7) > 2, "image": torch.arange(7) < 5},
    }
    for arguments in ({}, masks):
        first, second = pairwise(tokens, **arguments), shared(tokens, **arguments)
        assert torch.equal(first.intermediate, second.intermediate)
        assert all(torch.equal(first.tokens[m], second.tokens[m]) for m in tokens)


@pytest.mark.parametrize(
    ("modalities", "topology", "each", "count"),
    [
        (("image", "report"), "pairwise", 1, 1),
        (THREE, "pairwise", 1, 3),
        (THREE, "pairwise", 2, 6),
        (THREE, "shared", 1, 1),
        (THREE, "shared", 4, 4),
        (("image", "report"), "shared", 4, 4),
        (("a", "b", "c", "d"), "pairwise", 1, 6),
    ],
)
def test_number_of_tokens_per_pair_or_in_total(modalities, topology, each, count):
    fusion = IntermediateTokenFusion(38, modalities=modalities, num_heads=2, topology=topology, num_tokens=each)
    sizes = dict(zip(modalities, (11, 3, 5, 2), strict=False))
    fused = fusion({m: torch.randn(7, n, 38) for m, n in sizes.items()})
    assert fused.intermediate.shape == (7, count, 38)
    assert {m: tuple(tokens.shape) for m, tokens in fused.tokens.items()} == {m: (7, n, 38) for m, n in sizes.items()}


def test_blocks_are_shared_on_request():
    own = IntermediateTokenFusion(38, modalities=THREE, num_heads=2)
    one = IntermediateTokenFusion(38, modalities=THREE, num_heads=2, share_weights=True)
    count = [sum(p.numel() for p in fusion.rounds.parameters()) for fusion in (own, one)]
    assert count[0] == 3 * count[1]
    # With one block and the same tokens, both modalities have equal outputs.
    fusion, tokens = IntermediateTokenFusion(38, num_heads=2, share_weights=True), torch.randn(7, 11, 38)
    fused = fusion({"image": tokens, "report": tokens})
    assert torch.equal(fused.tokens["image"], fused.tokens["report"])


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
@given(st.data(), st.sampled_from(["pairwise", "shared"]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_pattern_is_finite_and_independent_of_absent_inputs(data, topology, dtype):
    rows, sizes = data.draw(st.integers(1, 4)), {m: data.draw(st.integers(1, 5)) for m in THREE}
    booleans = st.sampled_from([True, False])

    def pattern(*shape):
        count = torch.Size(shape).numel()
        return torch.tensor(data.draw(st.lists(booleans, min_size=count, max_size=count))).reshape(shape)

    masks = {
        "is_valid": {m: pattern(rows, n) for m, n in sizes.items() if data.draw(booleans)},
        "is_present": {m: pattern(rows) for m in THREE if data.draw(booleans)},
    }
    torch.manual_seed(0)
    fusion = IntermediateTokenFusion(10, modalities=THREE, num_heads=2, topology=topology).to(dtype)
    tokens = {m: torch.randn(rows, n, 10, dtype=dtype) for m, n in sizes.items()}
    garbage = {}
    for m, clean in tokens.items():
        is_there = masks["is_valid"].get(m, torch.ones(rows, sizes[m], dtype=torch.bool)).clone()
        is_there &= masks["is_present"].get(m, torch.ones(rows, dtype=torch.bool))[:, None]
        garbage[m] = torch.where(is_there[..., None], clean, torch.nan).requires_grad_()
    fused, spoilt = fusion(tokens, **masks), fusion(garbage, **masks)

    outputs = [fused.intermediate, *fused.tokens.values()]
    assert all(torch.equal(a, b) for a, b in zip(outputs, [spoilt.intermediate, *spoilt.tokens.values()], strict=True))
    assert all(output.isfinite().all() for output in outputs)
    sum(output.float().square().mean() for output in [spoilt.intermediate, *spoilt.tokens.values()]).backward()
    assert all(tensor.grad.isfinite().all() for tensor in [*garbage.values(), *fusion.parameters()])

    row = data.draw(st.integers(0, rows - 1))
    alone = fusion(
        {m: t[row : row + 1] for m, t in tokens.items()},
        **{kind: {m: mask[row : row + 1] for m, mask in each.items()} for kind, each in masks.items()},
    )
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(alone.intermediate, fused.intermediate[row : row + 1], **tolerance)


def test_settings_rebuild_it():
    fusion = IntermediateTokenFusion(
        38, modalities=THREE, depth=3, num_heads=2, topology="shared", num_tokens=4, share_weights=True, dropout=0.25
    )
    assert fusion.to_dict()["num_tokens"] == 4
    again = IntermediateTokenFusion(**fusion.to_dict())
    assert again.to_dict() == fusion.to_dict()
    again.load_state_dict(fusion.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"modalities": ("image",)},
            "modalities must be 2 or more distinct names such as ('image', 'report'), got ('image',)",
        ),
        ({"modalities": ("image", "image")}, "modalities must be 2 or more distinct names"),
        ({"modalities": "image"}, "modalities must be 2 or more distinct names"),
        ({"topology": "star"}, "topology must be 'pairwise' or 'shared', got 'star'"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_tokens": 0}, "num_tokens must be at least 1, got 0"),
    ],
)
def test_a_fusion_refuses(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        IntermediateTokenFusion(38, num_heads=2, **settings)


def test_a_call_refuses_what_does_not_fit():
    fusion = IntermediateTokenFusion(38, num_heads=2)
    image, report, mask = torch.zeros(7, 11, 38), torch.zeros(7, 3, 38), torch.ones(7, 11, dtype=torch.bool)
    tokens = {"image": image, "report": report}
    with pytest.raises(
        ValueError,
        match=r"takes tokens of \['image', 'report'\], got \['image'\]; pass zeros for a modality that rows lack",
    ):
        fusion({"image": image})
    with pytest.raises(ValueError, match=r"takes tokens of \['image', 'report'\], got \['image', 'report', 'text'\]"):
        fusion({**tokens, "text": report})
    with pytest.raises(ValueError, match=r"tokens of 'report' must be \(7, N, 38\), got \(5, 3, 38\)"):
        fusion({"image": image, "report": report[:5]})
    with pytest.raises(ValueError, match=r"tokens of 'image' must be \(7, N, 38\), got \(7, 11, 37\)"):
        fusion({"image": image[..., :37], "report": report})
    with pytest.raises(ValueError, match=r"is_valid names the modality 'img'; this fusion has \['image', 'report'\]"):
        fusion(tokens, is_valid={"img": mask})
    with pytest.raises(ValueError, match=r"is_valid\['image'\] must be bool of shape \(7, 11\), got torch.float32"):
        fusion(tokens, is_valid={"image": mask.float()})
    with pytest.raises(
        ValueError, match=r"is_present\['report'\] must be bool of shape \(7,\), got torch.bool of shape \(7, 11\)"
    ):
        fusion(tokens, is_present={"report": mask})
