import math

import pytest
import torch
import torch.nn.functional as F

from alignedfusion import UNKNOWN, IntermediateTokenFusion
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.modules.heads import UnimodalHeads

IMAGES = ("clinical", "dermoscopy")


def tokenize(model, image, codes, **masks):
    """Tokens of every modality before fusion, and after its first round."""
    images = image if isinstance(image, dict) else {"image": image}
    tokens = {**{m: model.visual(x) for m, x in images.items()}, "report": model.tokenizer(codes)}
    return tokens, model.fusion(tokens, **masks).first_round


def test_attributes_add_up_and_patches_are_a_mean_by_hand(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema).eval()
    model.branch_weights.copy_(torch.tensor([2.0, 0.25, 0.5]))
    is_valid = torch.arange(11).expand(7, -1) < torch.tensor([[1], [2], [3], [5], [7], [11], [11]])
    each = model.unimodal_heads.token_contributions(*tokenize(model, image, codes, is_valid={"image": is_valid}))
    assert each["image"].shape == (7, 11, 17)
    assert each["report"].shape == (7, 3, 17)

    contributions = model(image, codes, is_valid={"image": is_valid}).contributions
    mean = torch.stack([row[:n].mean(0) for row, n in zip(each["image"], (1, 2, 3, 5, 7, 11, 11), strict=True)])
    torch.testing.assert_close(contributions[:, 0], 2.0 * mean)
    torch.testing.assert_close(
        contributions[:, 1], 0.25 * (each["report"][:, 0] + each["report"][:, 1] + each["report"][:, 2])
    )


@pytest.mark.parametrize(("absent", "branch"), [("image", 0), ("report", 1)])
def test_an_absent_modality_contributes_exactly_zero(absent, branch, schema, build, batch):
    image, codes, _ = batch(schema)
    model, is_present = build(schema).eval(), torch.arange(7) < 5
    whole, out = model(image, codes), model(image, codes, is_present={absent: is_present})
    assert not out.contributions[5:, branch].any()
    assert out.contributions[5:, 1 - branch].any(-1).all()
    assert torch.equal(out.contributions[:5], whole.contributions[:5])
    image[5:] = torch.nan
    with_nan = model(image, codes, is_present={"image": is_present, absent: is_present})
    assert not with_nan.contributions[5:, branch].any()


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
def test_padding_contributes_nothing(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema).eval()
    expected = model(image[:, :5], codes).contributions
    image[:, 5:] = torch.nan
    padded = model(image, codes, is_valid={"image": torch.arange(11).expand(7, -1) < 5}).contributions
    torch.testing.assert_close(padded, expected)
    nothing = model(image, codes, is_valid={"image": torch.zeros(7, 11, dtype=torch.bool)}).contributions
    assert not nothing[:, 0].any()


def test_several_images_are_one_branch_the_sum_of_their_means(schema, build, batch):
    first, codes, _ = batch(schema)
    image = {"clinical": first, "dermoscopy": torch.randn(7, 5, 13)}
    model = build(schema, modalities=(*IMAGES, "report")).eval()
    out = model(image, codes)
    assert model.branches == ("image", "report", "fused")
    assert out.contributions.shape == (7, 3, 17)
    each = model.unimodal_heads.token_contributions(*tokenize(model, image, codes))
    torch.testing.assert_close(out.contributions[:, 0], 1 / 2 * (each["clinical"].mean(1) + each["dermoscopy"].mean(1)))
    # With one of two absent, the other still contributes.
    one = model(image, codes, is_present={"dermoscopy": torch.arange(7) < 0}).contributions
    torch.testing.assert_close(one[:, 0], 1 / 2 * each["clinical"].mean(1))


@pytest.mark.parametrize(("modality", "branches"), [("image", ("image", "fused")), ("report", ("report", "fused"))])
def test_a_model_of_one_modality_has_one_unimodal_branch(modality, branches, schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema, fusion=JointSelfAttention(38, modalities=(modality,), num_heads=2))
    assert model.branches == branches
    assert model(image if modality == "image" else None, codes).contributions.shape == (7, 2, 17)
    torch.testing.assert_close(model.branch_weights, torch.tensor([1 / 2, 1 / 4]))


def test_a_fusion_without_the_first_round_that_it_promised_is_named(schema, build, batch):
    class Forgetful(IntermediateTokenFusion):
        def fuse(self, streams, is_valid, is_present):
            return super().fuse(streams, is_valid, is_present)._replace(first_round=None)

    image, codes, _ = batch(schema)
    model = build(schema, fusion=Forgetful(38, num_heads=2))
    with pytest.raises(ValueError, match=r"the fusion returned none: return them as FusionOutput.first_round, or set"):
        model(image, codes)
    Forgetful.has_first_round = False
    assert build(schema, fusion=Forgetful(38, num_heads=2))(image, codes).logits.shape == (7, 17)


def test_codes_change_nothing_in_a_model_of_images(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema, fusion=JointSelfAttention(38, modalities=("image",), num_heads=2)).eval()
    model.branch_slopes.fill_(3.0)
    assert torch.equal(model(image, codes).logits, model(image, torch.full_like(codes, UNKNOWN)).logits)


@pytest.mark.parametrize("unimodal_heads", [True, False])
def test_logits_are_the_prior_plus_the_contributions(unimodal_heads, schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema, unimodal_heads=unimodal_heads).eval()
    model.set_class_counts(range(17))
    out = model(image, codes)
    torch.testing.assert_close(out.logits, model.log_prior + out.contributions.sum(1))
    # A weight scales only the contribution of its branch.
    model.branch_weights[-1] *= 5
    louder = model(image, codes)
    torch.testing.assert_close(louder.contributions[:, -1], 5 * out.contributions[:, -1])
    assert torch.equal(louder.contributions[:, :-1], out.contributions[:, :-1])
    torch.testing.assert_close(louder.logits, model.log_prior + louder.contributions.sum(1))
    model.prior_weight.fill_(0.25)
    torch.testing.assert_close(model(image, codes).logits, 0.25 * model.log_prior + louder.contributions.sum(1))


def test_unimodal_contributions_do_not_depend_on_the_other_modality(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema).eval()
    out, other = model(image, codes).contributions, model(torch.randn(7, 11, 13), codes).contributions
    assert torch.equal(out[:, 1], other[:, 1])
    assert (out[:, [0, 2]] != other[:, [0, 2]]).any(-1).all()
    silent = model(image, torch.full_like(codes, -1)).contributions
    is_mentioned = (codes != -1).any(1)
    assert torch.equal(out[:, 0], silent[:, 0])
    assert (out[is_mentioned][:, [1, 2]] != silent[is_mentioned][:, [1, 2]]).any(-1).all()
    assert is_mentioned.any()


def test_the_gradient_of_a_contribution_reaches_its_own_modality_only(schema, build, batch):
    image, codes, _ = batch(schema)
    of_image, of_report = (
        (
            "visual.",
            *(
                f"{name}.{m}."
                for name in ("unimodal_heads.heads", "unimodal_heads.first_round_heads", "fusion.rounds.0")
            ),
        )
        for m in ("image", "report")
    )
    of_report = ("tokenizer.", *of_report[1:])
    for branch, own, others in ((0, of_image, of_report), (1, of_report, of_image)):
        model = build(schema)
        model(image, codes).contributions[:, branch].square().sum().backward()
        learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert all(any(name.startswith(prefix) for name in learned) for prefix in own)
        assert not any(name.startswith((*others, "fusion.rounds.1.", "head.", "reconstructor.")) for name in learned)


def test_the_prior_comes_from_smoothed_counts(schema, build):
    model = build(schema)
    assert not model.log_prior.any()
    model.set_class_counts([0, 1, 2, 5, *[7] * 13])
    counts = torch.tensor([1.0, 2.0, 3.0, 6.0, *[8.0] * 13])  # each one more
    torch.testing.assert_close(model.log_prior, (counts / 116).log())  # 12 + 13 * 8 = 116
    model.set_class_counts(torch.full((17,), 3))
    torch.testing.assert_close(model.log_prior.exp(), torch.full((17,), 1 / 17))
    for counts in ([1, 2, 3, 4, 5], torch.ones(5)):
        with pytest.raises(ValueError, match=r"counts must hold one number per class \(17\), got \(5,\)"):
            model.set_class_counts(counts)
    with pytest.raises(ValueError, match=r"counts must hold one number per class \(17\), got \(17, 1\)"):
        model.set_class_counts(torch.ones(17, 1))


def test_without_unimodal_heads_only_the_fused_branch_exists(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema, unimodal_heads=False).eval()
    assert model.branches == ("fused",)
    assert model.unimodal_heads is None
    assert torch.equal(model.branch_weights, torch.ones(1))
    assert torch.equal(model.log_prior.softmax(-1), torch.full((17,), 1 / 17))
    out = model(image, codes)
    assert out.contributions.shape == (7, 1, 17)
    assert torch.equal(out.logits, out.contributions[:, 0])


def test_a_branch_is_the_mean_of_its_heads_and_each_head_has_its_own_loss(schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema).eval()
    model.set_class_counts(range(17))
    tokens, first_round = tokenize(model, image, codes)
    mentions = {"report": (codes != UNKNOWN).any(1)}
    per_head = model.unimodal_heads(tokens, {}, mentions, first_round=first_round)
    before = UnimodalHeads(38, ("image", "report"), 17)
    before.heads = model.unimodal_heads.heads
    after = UnimodalHeads(38, ("image", "report"), 17)
    after.heads = model.unimodal_heads.first_round_heads
    parts = before.eval()(tokens, {}, mentions), after.eval()(first_round, {}, mentions)
    out = model(image, codes, labels)
    for position, branch in enumerate(("image", "report")):
        assert per_head[branch].shape == (7, 2, 17)
        torch.testing.assert_close(per_head[branch], torch.cat([part[branch] for part in parts], dim=1))
        torch.testing.assert_close(out.contributions[:, position], 1 / 2 * per_head[branch].mean(1))
    heads = [*per_head["image"].unbind(1), *per_head["report"].unbind(1), 4 * out.contributions[:, 2]]
    losses = [F.cross_entropy(model.log_prior + head, labels) for head in heads]
    torch.testing.assert_close(
        out.loss, sum(losses)
    )  # in evaluation no cell is hidden, and the reconstruction adds zero


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_heads_read_no_other_modality_at_any_depth(depth, schema, build, batch):
    image, codes, _ = batch(schema)
    fusion = IntermediateTokenFusion(38, depth=depth, num_heads=2)
    model = build(schema, fusion=fusion).eval()
    first = fusion({"image": model.visual(image), "report": model.tokenizer(codes)}).first_round
    other = fusion({"image": torch.randn(7, 11, 38), "report": model.tokenizer(codes)}).first_round
    assert torch.equal(first["report"], other["report"])
    assert not torch.equal(first["report"], model.tokenizer(codes))
    one_round = IntermediateTokenFusion(38, depth=1, num_heads=2).eval()
    one_round.load_state_dict(
        {k: v for k, v in fusion.state_dict().items() if not k.startswith(("rounds.1", "rounds.2"))}
    )
    alone = one_round({"image": model.visual(image), "report": model.tokenizer(codes)}).tokens
    assert all(torch.equal(alone[m], first[m]) for m in ("image", "report"))


def test_the_weights_of_branches_depend_on_the_share_mentioned_by_hand(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema).eval()
    codes[0], codes[1], codes[2] = UNKNOWN, torch.tensor([0, UNKNOWN, UNKNOWN]), torch.tensor([0, 0, 0])
    plain = model(image, codes).contributions
    model.branch_slopes.copy_(torch.tensor([math.log(4), 0.0, -math.log(4)]))
    sloped = model(image, codes).contributions
    # exp(log 4 (1/2 - s)) is 2 for an empty report and 1/2 for a complete one.
    for row, factor in ((0, 2.0), (1, 4 ** (1 / 6)), (2, 0.5)):
        torch.testing.assert_close(sloped[row, 0], factor * plain[row, 0])
        torch.testing.assert_close(sloped[row, 2], plain[row, 2] / factor)
    assert torch.equal(sloped[:, 1], plain[:, 1])
    # A hidden cell and a report that is absent count as unmentioned.
    hidden = torch.zeros_like(codes, dtype=torch.bool)
    hidden[2, 1:] = True
    torch.testing.assert_close(model.weigh_branches(model.hiding(codes, hidden)[0])[2], model.weigh_branches(codes)[1])
    absent = model(image, codes, is_present={"report": torch.arange(7) != 2}).contributions
    torch.testing.assert_close(absent[2, 0], 4 * sloped[2, 0])


def test_heads_have_dropout_in_training_only_and_list_their_branches():
    heads = UnimodalHeads(38, (*IMAGES, "report"), 17, dropout=0.5)
    tokens = {"clinical": torch.randn(7, 11, 38), "dermoscopy": torch.randn(7, 5, 38), "report": torch.randn(7, 3, 38)}
    assert heads.branches == ("image", "report")
    assert not torch.equal(heads(tokens, {}, {})["report"], heads(tokens, {}, {})["report"])
    heads.eval()
    contributions = heads(tokens, {}, {})
    assert set(contributions) == {"image", "report"}
    assert all(torch.equal(contributions[branch], heads(tokens, {}, {})[branch]) for branch in contributions)


def test_a_report_that_mentions_nothing_contributes_nothing(schema, build, batch):
    image, codes, _ = batch(schema)
    codes = codes.clone()
    codes[:, 0], codes[2] = 1, UNKNOWN
    model = build(schema).eval()
    report = model.branches.index("report")
    contributions = model(image, codes).contributions[:, report]
    assert (contributions != 0).all(1).tolist() == [True, True, False, True, True, True, True]
    assert (contributions[2] == 0).all()
    everything = torch.ones_like(codes, dtype=torch.bool)
    assert (model(image, codes, is_hidden=everything).contributions[:, report] == 0).all()
