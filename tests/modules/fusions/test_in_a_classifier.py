import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion import AlignedFusionClassifier
from alignedfusion.baselines import (
    Concatenation,
    CrossAttention,
    ElementwiseSum,
    JointSelfAttention,
    MSMAFusion,
    RemixFormerFusion,
)

FUSIONS = (Concatenation, ElementwiseSum, CrossAttention, RemixFormerFusion, MSMAFusion, JointSelfAttention)
ONE, TWO = ("clinical", "report"), ("clinical", "dermoscopy", "report")
SIZES = {"clinical": 11, "dermoscopy": 5, "report": 3}

every_fusion = pytest.mark.parametrize("kind", FUSIONS)
one_or_two_images = pytest.mark.parametrize("modalities", [ONE, TWO])


@pytest.fixture
def model(kind, modalities, schema, build):
    """A classifier with a baseline fusion."""
    fusion = kind(38, modalities=modalities, num_heads=2)
    return build(schema, fusion=fusion, fill=None, unimodal_heads=False)


@pytest.fixture
def images(modalities):
    return {m: torch.randn(7, SIZES[m], 13) for m in modalities if m != "report"}


def make_tokens(modalities, rows=7):
    return {m: torch.randn(rows, SIZES[m], 38) for m in modalities}


def outputs(fusion, fused, *, is_valid=None, is_present=None):
    """All outputs of a fusion: tokens and pooled representation."""
    return [*fused.tokens.values(), fusion.pool(fused, is_valid or {}, is_present or {})]


def is_idle(name, model):
    """Whether a parameter is unused: RemixFormer's report has no self-attention, MSMA's only image no other to attend to."""
    if isinstance(model.fusion, RemixFormerFusion):
        return name.startswith("fusion.rounds.") and ".report." in name
    one_image = len(model.image_modalities) == 1
    return isinstance(model.fusion, MSMAFusion) and one_image and name.startswith("fusion.mutual.")


@every_fusion
@one_or_two_images
def test_a_classifier_with_it_trains_all_weights(model, images, schema, batch):
    _, codes, labels = batch(schema)
    out = model(images, codes, labels)
    assert out.logits.shape == (7, 17)
    assert out.intermediate.shape == (7, 0, 38)
    assert out.reconstruction is None
    assert out.logits.isfinite().all()
    assert len(out.logits.unique(dim=0)) == 7
    out.loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None and not is_idle(name, model)] == []
    assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)
    assert all(p.grad.any() for p in model.head.parameters())


@every_fusion
@one_or_two_images
def test_padding_equals_fewer_tokens(model, images, schema, batch):
    _, codes, _ = batch(schema)
    expected = model.eval()({**images, "clinical": images["clinical"][:, :5]}, codes).logits
    images["clinical"][:, 5:] = torch.nan
    is_valid = {"clinical": torch.arange(11).expand(7, -1) < 5}
    torch.testing.assert_close(model(images, codes, is_valid=is_valid).logits, expected)


@every_fusion
@one_or_two_images
def test_nan_in_an_absent_modality_does_not_reach_outputs_or_gradients(kind, modalities):
    fusion, is_present = kind(38, modalities=modalities, num_heads=2), torch.arange(7) < 5
    for m in modalities:
        tokens = make_tokens(modalities)
        spoilt = {**tokens, m: tokens[m].masked_fill(~is_present[:, None, None], torch.nan)}
        for each in (tokens, spoilt):
            each[m].requires_grad_()
        masks = {"is_present": {m: is_present}}
        fused, expected = (outputs(fusion, fusion(each, **masks), **masks) for each in (spoilt, tokens))
        assert all(torch.equal(a, b) for a, b in zip(fused, expected, strict=True))
        fusion.zero_grad()
        sum(output.square().mean() for output in fused).backward()
        assert all(p.grad.isfinite().all() for p in [spoilt[m], *fusion.parameters()] if p.grad is not None)
        assert not spoilt[m].grad[5:].any()


@every_fusion
@one_or_two_images
def test_rows_do_not_affect_each_other(model, images, schema, batch):
    _, codes, _ = batch(schema)
    masks = {"clinical": torch.arange(7) % 2 == 0, "report": torch.arange(7) < 5}
    together = model.eval()(images, codes, is_present=masks).logits
    for row in (0, 3, 6):
        part = slice(row, row + 1)
        alone = model(
            {m: x[part] for m, x in images.items()}, codes[part], is_present={m: x[part] for m, x in masks.items()}
        )
        torch.testing.assert_close(alone.logits, together[part], atol=1e-5, rtol=1e-5)


@every_fusion
@one_or_two_images
def test_settings_rebuild_it(kind, modalities):
    fusion = kind(38, modalities=modalities, depth=3, num_heads=2, dropout=0.25)
    again = kind(**fusion.to_dict())
    settings = {"dim": 38, "modalities": list(modalities), "depth": 3, "num_heads": 2, "dropout": 0.25}
    assert again.to_dict() == fusion.to_dict() == settings
    again.load_state_dict(fusion.state_dict())
    tokens = make_tokens(modalities)
    first, second = fusion.eval()(tokens), again.eval()(tokens)
    assert all(torch.equal(a, b) for a, b in zip(outputs(fusion, first), outputs(again, second), strict=True))


@every_fusion
@one_or_two_images
def test_a_saved_model_with_it_is_rebuilt(kind, model, images, schema, batch, tmp_path):
    _, codes, _ = batch(schema)
    model.save_pretrained(tmp_path)
    again = AlignedFusionClassifier.from_pretrained(tmp_path)
    assert type(again.fusion) is kind
    assert (again.reconstructor, again.unimodal_heads) == (None, None)
    assert torch.equal(again(images, codes).logits, model.eval()(images, codes).logits)


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
@given(st.sampled_from(FUSIONS), st.integers(0, 2**22 - 1), st.integers(0, 15))
def test_any_pattern_is_finite(kind, valid_bits, present_bits):
    bits = torch.tensor([valid_bits >> i & 1 for i in range(22)], dtype=torch.bool).reshape(2, 11)
    is_present = torch.tensor([present_bits >> i & 1 for i in range(4)], dtype=torch.bool).reshape(2, 2)
    torch.manual_seed(0)
    fusion = kind(10, num_heads=2)
    tokens = {m: torch.randn(2, n, 10, requires_grad=True) for m, n in (("image", 11), ("report", 3))}
    masks = {"is_valid": {"image": bits}, "is_present": dict(zip(("image", "report"), is_present, strict=True))}
    fused = outputs(fusion, fusion(tokens, **masks), **masks)
    assert all(output.isfinite().all() for output in fused)
    sum(output.square().mean() for output in fused).backward()
    assert all(t.grad.isfinite().all() for t in [*tokens.values(), *fusion.parameters()] if t.grad is not None)


@every_fusion
def test_it_refuses_what_does_not_fit(kind):
    too_few = ("image",)[: kind.min_modalities - 1]
    with pytest.raises(ValueError, match=f"modalities must be {kind.min_modalities} or more distinct names"):
        kind(38, modalities=too_few, num_heads=2)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        kind(38, num_heads=2, depth=0)
    with pytest.raises(ValueError, match=r"takes tokens of \['image', 'report'\], got \['image'\]"):
        kind(38, num_heads=2)({"image": torch.zeros(7, 11, 38)})


def test_concatenation_keeps_modalities_independent():
    fusion, tokens = Concatenation(38, modalities=TWO, num_heads=2), make_tokens(TWO)
    fused = fusion(tokens)
    for changed in TWO:
        again = fusion({**tokens, changed: torch.randn_like(tokens[changed])})
        assert {m for m in TWO if not torch.equal(again.tokens[m], fused.tokens[m])} == {changed}


def test_in_cross_attention_each_modality_depends_on_the_others_after_one_round():
    fusion, tokens = CrossAttention(38, modalities=TWO, depth=1, num_heads=2), make_tokens(TWO)
    fused = fusion(tokens)
    for changed in TWO:
        again = fusion({**tokens, changed: torch.randn_like(tokens[changed])})
        for m in TWO:
            assert (again.tokens[m] - fused.tokens[m]).abs().amax((1, 2)).min() > 1e-6
    # Absent modalities are ignored.
    absent = {"dermoscopy": torch.zeros(7, dtype=torch.bool)}
    alone = fusion({**tokens, "dermoscopy": torch.randn(7, 5, 38)}, is_present=absent)
    assert torch.equal(alone.tokens["report"], fusion(tokens, is_present=absent).tokens["report"])


@every_fusion
def test_without_masks_all_tokens_are_pooled(kind):
    fusion, tokens = kind(38, modalities=TWO, num_heads=2).eval(), make_tokens(TWO)
    is_present = {m: torch.ones(7, dtype=torch.bool) for m in TWO}
    fused = fusion(tokens)
    pooled = fusion.pool(fused)
    assert pooled.shape == (7, fusion.pooled_dim)
    torch.testing.assert_close(pooled, fusion.pool(fused, None, is_present))


def test_in_remixformer_images_exchange_information_and_metadata_do_not():
    fusion, tokens = RemixFormerFusion(38, modalities=TWO, num_heads=2), make_tokens(TWO)
    assert fusion.pooled_dim == 3 * 38
    parts = fusion.pool(fusion(tokens), {}, {}).split(38, dim=1)
    seen = {}
    for changed in TWO:
        again = fusion({**tokens, changed: torch.randn_like(tokens[changed])})
        again = fusion.pool(again, {}, {}).split(38, dim=1)
        seen[changed] = {m for m, a, b in zip(TWO, parts, again, strict=True) if not torch.equal(a, b)}
    images = {"clinical", "dermoscopy"}
    assert seen == {"clinical": images, "dermoscopy": images, "report": {"report"}}


def test_in_msma_metadata_attend_to_patches_and_images_to_each_other():
    fusion, tokens = MSMAFusion(38, modalities=TWO, num_heads=2), make_tokens(TWO)
    fused = fusion(tokens)
    for changed in TWO:
        again = fusion({**tokens, changed: torch.randn_like(tokens[changed])})
        change = fusion.pool(again, {}, {}) - fusion.pool(fused, {}, {})
        assert (change.reshape(7, 3, 38).abs().amax(2) > 1e-6).all()
        touched = {m for m in TWO if not torch.equal(again.tokens[m], fused.tokens[m])}
        assert touched == ({"report"} if changed == "report" else {"clinical", "dermoscopy"})
    # An absent report contributes nothing, and gates all rows equally.
    is_present = {"report": torch.arange(7) < 0}
    fused = fusion(tokens, is_present=is_present)
    pooled = fusion.pool(fused, {}, is_present)
    gated = fused.tokens["clinical"].mean(1) * fusion.gate.bias.sigmoid()
    torch.testing.assert_close(pooled, torch.cat([gated, pooled[:, 38:76], torch.zeros(7, 38)], dim=1))
