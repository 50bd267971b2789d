import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alignedfusion import UNKNOWN, Attribute, AttributeSchema, VisualTokenizer
from alignedfusion.attributes import REPORT
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.explanation import contributions

TWO = ("clinical", "dermoscopy", REPORT)


def by_branch(explained):
    patches = sum(stream.sum(1) for stream in explained.patches.values())
    return explained.prior + patches + explained.attributes.sum(1) + explained.together


def by_input(explained):
    images = sum(explained.image_totals.values())
    return explained.prior + explained.baseline + images + explained.attribute_totals.sum(1)


def assert_adds_up(explained, out):
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(explained.logits, out.logits, **close)
    torch.testing.assert_close(by_branch(explained), out.logits, **close)
    torch.testing.assert_close(by_input(explained), out.logits, **close)


def calibrated(model):
    """A model with different weights for each branch, which depend on the share of mentioned attributes."""
    torch.manual_seed(2)
    model.branch_weights.copy_(torch.rand(len(model.branches)) + 0.5)
    model.branch_slopes.copy_(torch.randn(len(model.branches)))
    model.set_class_counts(torch.arange(1, 18))
    model.prior_weight.fill_(0.7)
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"depth": 1},
        {"fill": "two_pass"},
        {"fill": "none"},
        {"fill": None},
        {"unimodal_heads": False},
        {"modalities": TWO},
        {"modalities": TWO, "depth": 1, "unimodal_heads": False},
        {"modalities": ("image", "other")},
        {"fusion": JointSelfAttention(38, modalities=(REPORT,), num_heads=2)},
        {"fusion": JointSelfAttention(38, modalities=("image", REPORT), num_heads=2)},
    ],
)
def test_both_sums_are_the_logits(settings, schema, build, batch):
    image, codes, _ = batch(schema)
    model = calibrated(build(schema, **settings))
    images = {m: image + i for i, m in enumerate(model.image_modalities)}
    gone = torch.tensor([0, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
    is_valid = {m: torch.arange(11).expand(7, -1) < torch.arange(3, 10)[:, None] for m in model.image_modalities}
    for masks in ({}, {"is_present": dict.fromkeys(model.modalities, ~gone), "is_valid": is_valid}):
        explained, out = contributions(model, images, codes, **masks), model(images, codes, **masks)
        assert_adds_up(explained, out)
        assert explained.error is None
        branches = dict(zip(model.branches, out.contributions.unbind(1), strict=True))
        torch.testing.assert_close(explained.together, branches["fused"], atol=1e-5, rtol=0)
        patches = sum(stream.sum(1) for stream in explained.patches.values())
        torch.testing.assert_close(patches, branches.get("image", 0 * patches), atol=1e-5, rtol=0)


@settings(max_examples=10)
@given(cells=st.lists(st.sampled_from([(0, 1, 2), (0,), (1, 2), ()]), min_size=7, max_size=7), size=st.integers(1, 40))
def test_any_missing_cells_and_any_batch_size_add_up(cells, size, schema, build, batch):
    image, codes, _ = batch(schema)
    for row, gone in enumerate(cells):
        codes[row, list(gone)] = UNKNOWN
    model = calibrated(build(schema, fill="once"))
    explained = contributions(model, image, codes, batch_size=size)
    assert_adds_up(explained, model(image, codes))
    unknown = codes == UNKNOWN
    assert not explained.attributes[unknown].any()
    assert not explained.shares[:, :3][unknown].any()


def test_two_attributes_and_an_image_by_hand(build, batch):
    schema = AttributeSchema([Attribute("a", values=("x", "y")), Attribute("b", values=("x", "y", "z"))])
    model = calibrated(build(schema))
    image, codes = batch(schema, rows=1)[0], torch.tensor([[1, 2]])

    def value(*players):
        visible = torch.tensor([[1 if "a" in players else UNKNOWN, 2 if "b" in players else UNKNOWN]])
        is_present = {"image": torch.tensor(["image" in players])}
        return model(image, visible, is_present=is_present).contributions[0].detach()

    explained = contributions(model, image, codes)
    report = (value("a") - value() + value("a", "b") - value("b"))[1] / 2
    torch.testing.assert_close(explained.attributes[0, 0], report)
    fused = (
        2 * (value("a") - value())
        + (value("a", "b") - value("b"))
        + (value("a", "image") - value("image"))
        + 2 * (value("a", "b", "image") - value("b", "image"))
    )[2] / 6
    torch.testing.assert_close(explained.shares[0, 0], fused)
    torch.testing.assert_close(explained.baseline[0], value()[2])


def test_more_than_ten_players_are_sampled_with_their_error(build):
    many = AttributeSchema([Attribute(f"a{i}", values=("x", "y")) for i in range(12)])
    model = calibrated(build(many))
    image, codes = torch.randn(3, 5, 13), torch.randint(2, (3, 12))
    codes[1, 4:] = UNKNOWN  # five players
    explained = contributions(model, image, codes, permutations=16)
    assert_adds_up(explained, model(image, codes))
    assert explained.error.shape == (3, 13, 17)
    assert (explained.error[[0, 2]] > 0).all()
    assert not explained.error[1].any()
    again = contributions(model, image, codes, permutations=16)
    assert torch.equal(explained.shares, again.shares)
    other = contributions(model, image, codes, permutations=16, seed=1)
    difference = (explained.attribute_totals - other.attribute_totals)[[0, 2]]
    scale = (explained.error**2 + other.error**2).sqrt()[[0, 2], :12]
    assert 0.5 < (difference / scale).std() < 1.5


def test_rows_do_not_influence_each_other_and_absent_inputs_do_not_matter(schema, build, batch):
    image, codes, _ = batch(schema)
    model = calibrated(build(schema, modalities=TWO))
    is_present = {"dermoscopy": torch.arange(7) < 4, REPORT: torch.arange(7) != 2}
    images = {"clinical": image, "dermoscopy": image + 1}
    explained = contributions(model, images, codes, is_present=is_present)

    images["dermoscopy"] = images["dermoscopy"].clone()
    images["dermoscopy"][4:] = torch.nan
    codes[2] = torch.tensor([1, 1, 1])
    again = contributions(model, images, codes, is_present=is_present)
    assert torch.equal(explained.shares, again.shares)
    assert not again.patches["dermoscopy"][4:].any()
    assert not again.shares[4:, 4].any()
    assert not again.attribute_totals[2].any()

    for row in (0, 5):
        alone = contributions(
            model,
            {m: stream[row : row + 1] for m, stream in images.items()},
            codes[row : row + 1],
            is_present={m: mask[row : row + 1] for m, mask in is_present.items()},
        )
        torch.testing.assert_close(alone.shares[0], again.shares[row], atol=1e-5, rtol=0)


class Counting(VisualTokenizer):
    """A tokenizer that counts how many images its backbone encodes."""

    encoded = 0

    def features(self, image):
        self.encoded += len(image)
        return super().features(image)


@pytest.mark.filterwarnings("ignore:pretrained=False")
def test_each_image_is_encoded_once(schema, build, batch):
    visual = Counting("test_vit", 38, pretrained=False, image_size=32)
    model = calibrated(build(schema, visual=visual))
    codes = batch(schema)[1]
    explained = contributions(model, torch.randn(7, 3, 32, 32), codes, batch_size=5)
    assert visual.encoded == 7
    assert explained.patches["image"].shape == (7, 4, 17)


def test_other_models_and_wrong_inputs_are_refused(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema)
    with pytest.raises(TypeError, match="must be an AlignedFusionClassifier, got Linear"):
        contributions(nn.Linear(2, 3), image, codes)
    with pytest.raises(ValueError, match="needs images of"):
        contributions(model, None, codes)
    with pytest.raises(ValueError, match="got 7 images of 'image' for 5 rows"):
        contributions(model, image, codes[:5])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        contributions(model, image, codes, batch_size=0)
    with pytest.raises(ValueError, match="is_valid"):
        contributions(model, image, codes, is_valid={"image": torch.ones(7, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="is_present"):
        contributions(model, image, codes, is_present={"image": torch.ones(5, dtype=torch.bool)})
