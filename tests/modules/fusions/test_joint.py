import pytest
import torch

from alignedfusion.baselines import JointSelfAttention


def test_every_token_depends_on_every_other_after_one_round():
    fusion = JointSelfAttention(38, depth=1, num_heads=2)
    report = torch.randn(7, 3, 38)
    first, second = (fusion({"image": torch.randn(7, 11, 38), "report": report}) for _ in range(2))
    assert first.tokens["image"].shape == (7, 11, 38)
    assert first.tokens["report"].shape == (7, 3, 38)
    assert first.intermediate.shape == (7, 0, 38)
    assert (first.tokens["report"] - second.tokens["report"]).abs().amax((1, 2)).min() > 1e-6


def test_an_absent_modality_equals_a_fusion_without_it():
    both = JointSelfAttention(38, num_heads=2)
    alone = JointSelfAttention(38, modalities=("report",), num_heads=2)
    alone.load_state_dict({**both.state_dict(), "origin": both.origin[1:]})
    tokens = {"image": torch.full((7, 11, 38), torch.nan), "report": torch.randn(7, 3, 38)}
    fused = both(tokens, is_present={"image": torch.zeros(7, dtype=torch.bool)})
    torch.testing.assert_close(fused.tokens["report"], alone({"report": tokens["report"]}).tokens["report"])
    assert fused.tokens["image"].isfinite().all()


def test_padding_equals_fewer_tokens():
    fusion = JointSelfAttention(38, num_heads=2)
    image, report = torch.randn(7, 11, 38), torch.randn(7, 3, 38)
    expected = fusion({"image": image[:, :5], "report": report})
    image[:, 5:] = torch.nan
    padded = fusion({"image": image, "report": report}, is_valid={"image": torch.arange(11).expand(7, -1) < 5})
    torch.testing.assert_close(padded.tokens["report"], expected.tokens["report"])
    torch.testing.assert_close(padded.tokens["image"][:, :5], expected.tokens["image"])


@pytest.mark.parametrize("modality", ["image", "report"])
def test_a_model_of_one_modality_ignores_the_other(modality, schema, build, batch):
    model = build(schema, fusion=JointSelfAttention(38, modalities=(modality,), num_heads=2)).eval()
    image, codes, labels = batch(schema)
    other = torch.full_like(codes, -1) if modality == "image" else codes
    out = model(image if modality == "image" else None, codes, labels)
    assert out.logits.shape == (7, 17)
    assert (out.reconstruction is None) == (modality == "image")
    assert torch.equal(model(image, other).logits, out.logits)
    if modality == "report":
        assert not torch.equal(model(None, torch.zeros_like(codes)).logits, out.logits)
        assert model.visual is None
    out.loss.backward()
