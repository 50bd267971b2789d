import math

import pytest
import torch
from torch import nn

from alignedfusion import (
    UNKNOWN,
    AttributeTokenizer,
    IntermediateTokenFusion,
    VisualTokenizer,
)
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.modules.fusions import Fusion, FusionOutput
from alignedfusion.modules.masking import HideAttributes

IMAGES = ("clinical", "dermoscopy")


def test_the_output_is_the_same_in_training_and_evaluation(schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema)
    for mode in (True, False):
        for given_labels in (labels, None):
            out = model.train(mode)(image, codes, given_labels)
            names = ["loss", "logits", "reconstruction", "intermediate", "contributions"]
            assert list(out) == names[given_labels is None :]
            assert (out.loss is None) == (given_labels is None)
            assert out.logits.shape == (7, 17)
            assert out.reconstruction.shape == (7, 3, 5)
            assert out.intermediate.shape == (7, 1, 38)
            assert out.contributions.shape == (7, 3, 17)


@pytest.mark.parametrize("reconstruct", ["once", "two_pass"])
def test_with_all_attributes_mentioned_reconstruction_changes_nothing(reconstruct, schema, build, batch, same):
    image, codes, _ = batch(schema)
    model, without = build(schema, fill=reconstruct).eval(), build(schema, fill="none").eval()
    assert same(model(image, codes.clamp(min=0)), without(image, codes.clamp(min=0)))
    assert not torch.equal(model(image, codes).logits, without(image, codes).logits)


def test_with_none_mentioned_the_prediction_depends_on_the_image(schema, build, batch, assert_trainable):
    image, codes, labels = batch(schema)
    nothing = torch.full_like(codes, UNKNOWN)
    for reconstruct in ("once", "two_pass", "none"):
        model = build(schema, fill=reconstruct)
        out = model(image, nothing, labels)
        assert len(out.logits.unique(dim=0)) == 7
        assert_trainable(model, out)


@pytest.mark.parametrize("reconstruct", ["once", "two_pass", "none"])
@pytest.mark.parametrize("code", [0, UNKNOWN])
def test_every_parameter_has_a_gradient_when_nothing_is_hidden(
    reconstruct, code, schema, build, batch, assert_trainable
):
    image, codes, labels = batch(schema)
    for tokenizer in (None, AttributeTokenizer(schema, 38, text_encoder=torch.randn(10, 23))):
        model = build(schema, tokenizer=tokenizer, fill=reconstruct, hiding=HideAttributes(0.0, whole=0.1))
        assert_trainable(model, model(image, torch.full_like(codes, code), labels))


def test_attributes_are_hidden_in_training_only(schema, build, batch, same):
    image, codes, _ = batch(schema)
    model = build(schema, hiding=HideAttributes(1.0, whole=0.1))
    nothing = model(image, torch.full_like(codes, UNKNOWN))
    assert same(model(image, codes), nothing)
    assert same(model(image, codes, is_hidden=torch.zeros(7, 3, dtype=torch.bool)), model.eval()(image, codes))
    assert not torch.equal(model(image, codes).logits, nothing.logits)


def test_the_loss_is_cross_entropy_over_classes_and_hidden_cells_by_hand(schema, build, batch):
    image, _, _ = batch(schema)
    codes = torch.tensor([[0, 1, 4]] * 7)
    model = build(schema, unimodal_heads=False)
    model.head = Constant(torch.zeros(7, 17))
    model.reconstructor.query = nn.Sequential(Constant(torch.zeros(7, 3, 38)))
    # Even logits: ln 17 = 2.833213 for the class. Hidden are a cell of three values and one of two:
    # (ln 3 + ln 2) / 2 = 0.895880. Together 3.729093.
    is_hidden = torch.tensor([[True, True, False], *[[False] * 3] * 6])
    loss = model(image, codes, torch.arange(7), is_hidden=is_hidden).loss
    assert loss.item() == pytest.approx(3.729093, abs=1e-5)
    assert model.eval()(image, codes, torch.arange(7)).loss.item() == pytest.approx(2.833213, abs=1e-5)


def test_the_loss_has_a_term_for_every_branch_by_hand(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema).eval()
    # The prior of each of the seven classes that occur is (3 + 1) / 48 = 1 / 12, of the ten others (1 + 1) / 48.
    model.set_class_counts([3] * 7 + [1] * 10)
    is_right = torch.arange(17) < 7
    both = (model.unimodal_heads.heads, model.unimodal_heads.first_round_heads)
    for head, sign in ((both[0]["report"], 1), (both[1]["report"], 1), (model.head, -1)):
        nn.init.zeros_(head[2].weight)
        head[2].bias.data = sign * math.log(2) * is_right
    for heads in both:
        heads["image"] = Constant(torch.zeros(7, 11, 17))
    # The image contributes nothing: ln 12 = 2.484907. The report's three attributes contribute ln 2 each, a factor of 8:
    # 4 * 8 / (7 * 4 * 8 + 10 * 2) = 8 / 61, so 2.031432. Both have two heads. The fused tokens halve: even, ln 17 = 2.833213.
    for weights in (model.initial_branch_weights(), torch.rand(3)):
        model.branch_weights.copy_(weights)
        assert model(image, codes, torch.arange(7)).loss.item() == pytest.approx(11.865891, abs=1e-5)

    # Hidden are a cell of three even values and one of two: plus (ln 3 + ln 2) / 2 = 0.895880.
    model.reconstructor.query = nn.Sequential(Constant(torch.zeros(7, 3, 38)))
    is_hidden = torch.tensor([[True, True, False], *[[False] * 3] * 6])
    loss = model(image, torch.tensor([[0, 1, 4]] * 7), torch.arange(7), is_hidden=is_hidden).loss
    assert loss.item() == pytest.approx(11.865891 + 0.895880, abs=1e-5)


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, anything):
        return self.value


def test_pooling_ignores_padding_and_absent_rows_by_hand(schema, build):
    class Echo(Fusion):
        """A fusion that returns its tokens as they are."""

        def fuse(self, streams, is_valid, is_present):
            return FusionOutput(streams, streams["image"][:, :0])

    model = build(schema, fusion=Echo(38), visual=nn.Identity(), fill="none").eval()
    pooled = []
    model.head.register_forward_pre_hook(lambda head, arguments: pooled.append(arguments[0]))
    image = torch.tensor([1.0, 5.0, 100.0])[None, :, None].expand(2, 3, 38)
    model(
        image,
        torch.zeros(2, 3, dtype=torch.int64),
        is_valid={"image": torch.tensor([[True, True, False], [False, False, False]])},
        is_present={"report": torch.tensor([False, True])},
    )
    (out,) = pooled
    assert torch.equal(out[0, :38], torch.full((38,), 3.0))  # (1 + 5) / 2
    assert torch.equal(out[1, :38], torch.zeros(38))  # nothing valid
    assert torch.equal(out[0, 38:], torch.zeros(38))  # absent
    torch.testing.assert_close(out[1, 38:], model.tokenizer(torch.zeros(1, 3, dtype=torch.int64))[0].mean(0))


@pytest.mark.parametrize("topology", ["pairwise", "shared"])
def test_several_images_with_one_backbone_or_one_each(topology, schema, build, batch, assert_trainable, same):
    first, codes, labels = batch(schema)
    image = {"clinical": first, "dermoscopy": torch.randn(7, 5, 13)}
    for visual in (None, {m: VisualTokenizer(None, 38, num_features=13) for m in IMAGES}):
        fusion = IntermediateTokenFusion(38, modalities=(*IMAGES, "report"), num_heads=2, topology=topology)
        model = build(schema, visual=visual, fusion=fusion, hiding=HideAttributes(0.0, whole=0.0))
        out = model(image, codes, labels)
        assert out.intermediate.shape == (7, 3 if topology == "pairwise" else 1, 38)
        for absent in (torch.arange(7) < 3, torch.ones(7, dtype=torch.bool)):
            spoilt = {**image, "dermoscopy": image["dermoscopy"].masked_fill(absent[:, None, None], torch.nan)}
            is_present = {"dermoscopy": ~absent}
            assert same(model(spoilt, codes, is_present=is_present), model(image, codes, is_present=is_present))
        assert_trainable(model, model(spoilt, codes, labels, is_present=is_present))


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
def test_outputs_are_finite_when_everything_is_absent(schema, build, batch):
    image, codes, labels = batch(schema)
    absent = torch.zeros(7, dtype=torch.bool)
    for fusion in (None, JointSelfAttention(38, num_heads=2)):
        model = build(schema, fusion=fusion)
        out = model(image, codes, labels, is_present={"image": absent, "report": absent})
        assert len(out.logits.unique(dim=0)) == 1
        assert out.loss.isfinite()


def test_an_absent_report_adds_nothing_to_the_reconstruction_loss(schema, build, batch):
    image, codes, labels = batch(schema)
    model, is_present = build(schema), {"report": torch.arange(7) < 5}
    everything = torch.ones(7, 3, dtype=torch.bool)
    unsaid = codes.masked_fill(~is_present["report"][:, None], UNKNOWN)
    expected = model(image, unsaid, labels, is_present=is_present, is_hidden=everything).loss
    assert torch.equal(model(image, codes, labels, is_present=is_present, is_hidden=everything).loss, expected)
    assert (codes != unsaid).any()


@pytest.mark.parametrize("kind", ["padded", "absent"])
def test_nan_in_absent_inputs_does_not_reach_the_gradients(kind, schema, build, batch, assert_trainable):
    image, codes, labels = batch(schema)
    model = build(schema)
    is_valid, is_present = torch.arange(11).expand(7, -1) < 5, torch.arange(7) < 5
    if kind == "padded":
        image[~is_valid] = torch.nan
        out = model(image, codes, labels, is_valid={"image": is_valid})
    else:
        image[~is_present] = torch.nan
        out = model(image, codes, labels, is_present={"image": is_present})
    assert_trainable(model, out)


def test_bfloat16_autocast_agrees(schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema).eval()
    expected = model(image, codes, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(image, codes, labels)
    torch.testing.assert_close(out.logits.float(), expected.logits, atol=0.05, rtol=0.05)
    torch.testing.assert_close(out.loss, expected.loss, atol=0.05, rtol=0.05)
    torch.testing.assert_close(out.reconstruction, expected.reconstruction, atol=0.05, rtol=0.05)


def test_a_few_steps_reduce_the_loss(schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = model(image, codes, labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 2.0
    assert sum(losses[-5:]) / 5 < losses[0] / 2


def test_labels_that_are_all_ignored_and_empty_batches_have_a_loss_of_zero(schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema, fill="none", hiding=HideAttributes(0.0))
    ignored = torch.full_like(labels, -100)
    for rows, some in ((slice(None), ignored), (slice(0, 0), labels[:0])):
        out = model(image[rows], codes[rows], some)
        assert out.loss.item() == 0.0
        out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    # One label in seven: the loss is that of its case alone.
    ignored[3] = labels[3]
    part = model.eval()(image, codes, ignored).loss
    torch.testing.assert_close(part, model(image[3:4], codes[3:4], labels[3:4]).loss)


@pytest.mark.parametrize("unimodal_heads", [True, False])
def test_a_modality_without_any_token_contributes_nothing(unimodal_heads, schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema, unimodal_heads=unimodal_heads).eval()
    out = model(image[:, :0], codes, labels)
    assert all(value.isfinite().all() for name, value in out.items() if name != "reconstruction")
    if unimodal_heads:
        assert not out.contributions[:, 0].any()


def test_nan_of_a_visual_module_in_padding_does_not_spread(schema, build, batch):
    image, codes, _ = batch(schema)
    is_valid = torch.arange(11).expand(7, -1) < 5

    class Normalising(nn.Module):
        """A user's module that divides by the norm of a token: 0 / 0 for padding."""

        def forward(self, tokens):
            return (tokens / tokens.norm(dim=-1, keepdim=True)).repeat(1, 1, 3)[..., :38]

    model = build(schema, visual=Normalising()).eval()
    expected = model(image[:, :5], codes)
    padded = model(image, codes, is_valid={"image": is_valid})
    torch.testing.assert_close(padded.logits, expected.logits)
    torch.testing.assert_close(padded.contributions, expected.contributions)


@pytest.mark.parametrize("counts", [[-1.0] * 17, [float("nan")] * 17])
def test_negative_and_nan_counts_are_refused(counts, schema, build):
    with pytest.raises(ValueError, match="counts are numbers of cases and cannot be negative or nan"):
        build(schema).set_class_counts(counts)
