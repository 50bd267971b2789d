from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import BackboneOutput

from alignedfusion import UNKNOWN, AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion
from alignedfusion.detection.feature_maps import READS

every_read = pytest.mark.parametrize("read", READS)
PLANES, VOLUMES = ((5, 7, 11), (13, 3, 2)), ((5, 2, 3, 7), (13, 1, 3, 2))


def maps_of(levels, rows=3):
    return [torch.randn(rows, *level) for level in levels]


@pytest.fixture
def fusion_for(schema):
    """Builds a fusion of D = 38 for such levels."""

    def fusion_for(levels, read="global", **kept):
        torch.manual_seed(0)
        tokenizer = AttributeTokenizer(schema, 38)
        return FeatureMapFusion(tokenizer, [level[0] for level in levels], read=read, num_heads=2, **kept)

    return fusion_for


@pytest.fixture
def codes():
    """B = 3 rows of A = 3: complete, one cell unmentioned, nothing mentioned."""
    return torch.tensor([[2, 1, 4], [0, UNKNOWN, 3], [UNKNOWN, UNKNOWN, UNKNOWN]])


def one_step(fusion, maps, codes):
    """One training step, after which the output layer is not zero."""
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    out = fusion.train()(maps, codes)
    (sum((m * torch.randn_like(m)).mean() for m in out.maps) + out.loss).backward()
    optimizer.step()
    return fusion.eval()


STRUCTURES = {
    "tensor": lambda a, b: a,
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dict": lambda a, b: {"0": a, "pool": b},
    "OrderedDict": lambda a, b: OrderedDict([("1", a), ("0", b)]),
    "Hugging Face backbone": lambda a, b: BackboneOutput(feature_maps=(a, b)),
    "maps with masks": lambda a, b: [(a, a[:, 0] > 0), (b, b[:, 0] > 0)],
    "nested": lambda a, b: {"first": {"level": [a, 17, None]}, "rest": (b, "P5", a[0, 0, 0], a.long(), (7, 11))},
}


@every_read
@pytest.mark.parametrize("wrap", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("levels", [PLANES, VOLUMES], ids=["2-D", "3-D"])
def test_what_comes_in_comes_out_bit_for_bit_before_training(levels, wrap, read, fusion_for, codes):
    maps = wrap(*maps_of(levels))
    before = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, maps)
    fusion = fusion_for(levels[:1] if isinstance(maps, torch.Tensor) else levels, read)
    for model in (fusion.eval(), fusion.train()):
        out = model(maps, codes).maps
        assert type(out) is type(maps)
        leaves, structure = torch.utils._pytree.tree_flatten(out)
        expected, expected_structure = torch.utils._pytree.tree_flatten(before)
        assert structure == expected_structure
        for ours, theirs, mine in zip(leaves, expected, torch.utils._pytree.tree_leaves(maps), strict=True):
            if isinstance(theirs, torch.Tensor):
                assert ours.dtype == theirs.dtype
                assert ours.shape == theirs.shape
                assert torch.equal(ours, theirs)
                assert torch.equal(mine, theirs)  # nothing is written into the caller's maps
                assert (ours is mine) == (not theirs.is_floating_point() or theirs.ndim not in (4, 5))
            else:
                assert ours == theirs
    assert not isinstance(maps, dict) or list(out) == list(maps)


@every_read
@pytest.mark.parametrize("levels", [PLANES[:1], PLANES, VOLUMES], ids=["one 2-D", "two 2-D", "two 3-D"])
def test_after_one_step_a_row_reacts_to_its_own_attributes_and_to_no_other(levels, read, fusion_for, codes):
    maps = maps_of(levels)
    fusion = one_step(fusion_for(levels, read), maps, codes)
    first = fusion(maps, codes)
    for row in range(3):
        changed = codes.clone()
        changed[row] = torch.tensor([1, 0, 0])
        second, others = fusion(maps, changed), [i for i in range(3) if i != row]
        for before, after in zip(first.maps, second.maps, strict=True):
            assert torch.equal(before[others], after[others])
            assert (before[row] - after[row]).abs().amax() > 1e-7
        assert torch.equal(first.reconstruction[others], second.reconstruction[others])
        assert not torch.equal(first.intermediate[row], second.intermediate[row])


@every_read
def test_a_row_alone_is_as_in_the_batch(read, fusion_for, codes):
    maps = maps_of(PLANES)
    fusion = one_step(fusion_for(PLANES, read), maps, codes)
    together, alone = fusion(maps, codes), fusion([m[1:2] for m in maps], codes[1:2])
    for all_rows, row in zip(together.maps, alone.maps, strict=True):
        torch.testing.assert_close(all_rows[1:2], row)
    torch.testing.assert_close(together.reconstruction[1:2], alone.reconstruction)


@every_read
def test_the_reconstruction_depends_on_the_image(read, fusion_for, codes):
    fusion, maps, others = fusion_for(PLANES, read).eval(), maps_of(PLANES), maps_of(PLANES)
    first, second = (fusion(m, codes).reconstruction for m in (maps, others))
    is_value = first.isfinite()
    assert ((first - second)[is_value]).abs().max() > 1e-7


@every_read
def test_the_truth_of_a_hidden_cell_changes_nothing_but_the_loss(read, fusion_for, codes):
    maps, is_hidden = maps_of(PLANES), torch.tensor([[False, True, False], [True, True, False], [True, True, True]])
    fusion = one_step(fusion_for(PLANES, read), maps, codes)
    other = codes.clone()
    other[0, 1], other[1, 0] = 0, 2
    first, second = (fusion(maps, c, is_hidden=is_hidden) for c in (codes, other))
    assert all(torch.equal(a, b) for a, b in zip(first.maps, second.maps, strict=True))
    assert torch.equal(first.reconstruction, second.reconstruction)
    assert torch.equal(first.intermediate, second.intermediate)
    assert first.loss != second.loss
    unmentioned = fusion(maps, codes.masked_fill(is_hidden, UNKNOWN))
    assert all(torch.equal(a, b) for a, b in zip(first.maps, unmentioned.maps, strict=True))


@every_read
def test_no_codes_are_all_unmentioned(read, fusion_for, codes):
    maps = maps_of(VOLUMES)
    fusion = one_step(fusion_for(VOLUMES, read), maps, codes)
    first, second = fusion(maps), fusion(maps, torch.full((3, 3), UNKNOWN))
    assert all(torch.equal(a, b) for a, b in zip(first.maps, second.maps, strict=True))
    assert not torch.equal(first.maps[0], maps[0])  # which is not to be skipped
    assert first.loss == second.loss == 0


def by_hand(logits, codes, is_hidden, num_values):
    """Mean over hidden, mentioned cells of -log of the probability of the truth among an attribute's own values."""
    cells = []
    for row, column in is_hidden.nonzero().tolist():
        if codes[row, column] != UNKNOWN:
            scores = logits[row, column, : num_values[column]].double().tolist()
            total = sum(torch.tensor(scores, dtype=torch.float64).exp().tolist())
            cells.append(float(torch.tensor(total).log()) - scores[codes[row, column]])
    return sum(cells) / max(len(cells), 1)


@every_read
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_cross_entropy_over_hidden_cells(read, training, fusion_for, schema, codes):
    is_hidden = torch.tensor([[False, True, True], [True, True, False], [True, False, True]])
    out = fusion_for(PLANES, read).train(training)(maps_of(PLANES), codes, is_hidden=is_hidden)
    assert out.reconstruction.shape == (3, 3, 5)
    assert out.loss.item() == pytest.approx(by_hand(out.reconstruction, codes, is_hidden, schema.num_values), rel=1e-5)
    assert out.loss > 0.1


def test_cells_are_hidden_in_training_only(fusion_for, schema):
    maps = maps_of(PLANES, rows=7)
    codes = torch.stack([torch.arange(7) % n for n in schema.num_values], dim=1)
    fusion = fusion_for(PLANES, hide_probability=1.0)
    evaluated, trained = fusion.eval()(maps, codes), fusion.train()(maps, codes)
    everything = torch.ones_like(codes, dtype=torch.bool)
    assert evaluated.loss == 0
    assert trained.loss.item() == pytest.approx(
        by_hand(trained.reconstruction, codes, everything, schema.num_values), rel=1e-5
    )
    assert torch.equal(trained.intermediate, fusion.eval()(maps).intermediate)
    kept = fusion_for(PLANES, hide_probability=0.0).train()(maps, codes)
    assert torch.equal(kept.intermediate, evaluated.intermediate)
    assert kept.loss == 0
    half = fusion_for(PLANES, hide_probability=0.5).train()
    assert half(maps, codes).loss != half(maps, codes).loss


@every_read
@pytest.mark.parametrize("known", ["all", "none", "some"])
def test_every_parameter_has_a_gradient(known, read, fusion_for, codes):
    codes = {"all": codes.clamp(min=0), "none": None, "some": codes}[known]
    fusion = fusion_for(PLANES, read, hide_probability=0.0 if known == "all" else 0.5).train()
    for m in fusion.modules():  # away from zero, so that gradients reach everything
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.1)
    maps = [m.requires_grad_() for m in maps_of(PLANES)]
    out = fusion(maps, codes)
    (sum(m.square().mean() for m in out.maps) + out.loss).backward()
    assert [n for n, p in fusion.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(m.grad.isfinite().all() and m.grad.abs().sum() > 0 for m in maps)
    silent = {n.split(".")[0] for n, p in fusion.named_parameters() if not p.grad.any()}
    assert silent == ({"tokenizer", "reconstructor"} if known == "all" else set())  # zero there, but never None


@every_read
@pytest.mark.parametrize("levels", [PLANES, VOLUMES], ids=["2-D", "3-D"])
def test_bfloat16(levels, read, fusion_for, codes):
    maps = [m.bfloat16() for m in maps_of(levels)]
    fusion = fusion_for(levels, read).bfloat16()
    assert all(torch.equal(a, b) for a, b in zip(fusion(maps, codes).maps, maps, strict=True))
    out = one_step(fusion, maps, codes)(maps, codes)
    assert all(m.dtype == torch.bfloat16 and m.isfinite().all() for m in out.maps)
    assert not torch.equal(out.maps[0], maps[0])


@every_read
def test_autocast_keeps_the_type_of_the_maps(read, fusion_for, codes):
    fusion = fusion_for(PLANES, read)
    for maps in (maps_of(PLANES), [m.bfloat16() for m in maps_of(PLANES)]):
        with torch.autocast("cpu", torch.bfloat16):
            out = fusion(maps, codes)
            (sum(m.float().square().mean() for m in out.maps) + out.loss).backward()
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(out.maps, maps, strict=True))
        assert all(p.grad.isfinite().all() for p in fusion.parameters())


@every_read
@settings(max_examples=15)
@given(data=st.data())
def test_any_shapes_and_any_pattern(read, schema, data):
    number, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    side = st.integers(1, 6)
    levels = [(data.draw(st.integers(1, 5)), *data.draw(st.lists(side, min_size=2, max_size=3))) for _ in range(number)]
    drawn = [[data.draw(st.integers(UNKNOWN, n - 1)) for n in schema.num_values] for _ in range(rows)]
    torch.manual_seed(0)
    fusion = FeatureMapFusion(AttributeTokenizer(schema, 10), [c for c, *_ in levels], read=read, num_heads=2)
    maps = maps_of(levels, rows)
    if data.draw(st.booleans()):
        maps = [m.to(memory_format=torch.channels_last) if m.ndim == 4 else m.mT.contiguous().mT for m in maps]
    out = fusion.eval()(maps, torch.tensor(drawn))
    assert all(torch.equal(a, b) for a, b in zip(out.maps, maps, strict=True))
    assert out.intermediate.shape == (rows, 1, 10)
    assert out.reconstruction.shape == (rows, 3, 5)
    out = one_step(fusion, maps, torch.tensor(drawn))(maps, torch.tensor(drawn))
    assert all(a.shape == b.shape and a.isfinite().all() for a, b in zip(out.maps, maps, strict=True))


def test_pooling_makes_full_attention_of_small_maps(fusion_for, codes):
    # Of at most 16 x 16 or 8 x 8 x 8 positions nothing is pooled, so two routes lead to one result.
    for levels in (((5, 16, 11),), ((5, 8, 3, 7),)):
        maps, (full, pooled) = maps_of(levels), (fusion_for(levels, read) for read in ("full", "pooled"))
        one_step(full, maps, codes)
        pooled.load_state_dict(full.state_dict())
        assert torch.equal(full(maps, codes).maps[0], pooled.eval()(maps, codes).maps[0])


def test_large_maps_are_pooled_and_their_change_is_smooth(fusion_for, codes):
    for levels in (((5, 37, 41),), ((5, 17, 19, 23),)):
        maps = maps_of(levels)
        fusion = one_step(fusion_for(levels, "pooled"), maps, codes)
        change = fusion(maps, codes).maps[0] - maps[0]
        assert (change.diff(dim=-1).abs().max() < change.abs().max() / 2) or levels[0][-1] == 23
        moved = maps[0].clone()
        moved[:, :, 0] += 1  # attention is over everything: the change is felt at the other end
        assert (fusion([moved], codes).maps[0] - moved - change)[:, :, -1].abs().max() > 0


def test_for_model_finds_the_channels(schema):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 13, 3))

        def forward(self, image, *, scale=1.0):
            return self.body(image * scale)

    model, tokenizer, image = Network(), AttributeTokenizer(schema, 38), torch.randn(2, 3, 11, 7)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    sides = {"output": (13,), "input": (5,)}
    for side, channels in sides.items():
        fusion = FeatureMapFusion.for_model(
            model, tokenizer, at="body.2", example=image, side=side, read="pooled", num_heads=2
        )
        assert fusion.channels == channels
        assert fusion.read == "pooled"
    named = {"image": image, "scale": 2.0}
    assert FeatureMapFusion.for_model(model, tokenizer, at="body.1", example=named, num_heads=2).channels == (5,)
    assert model.training  # and as it was: no statistics moved, no hook left
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match=r"submodule 'flat' has no feature map \(B, C, H, W\) .* as its output"):
        FeatureMapFusion.for_model(
            nn.Sequential(OrderedDict(flat=nn.Flatten())), tokenizer, at="flat", example=image, num_heads=2
        )
    with pytest.raises(ValueError, match=r"no submodule 'bdy'; the submodules of the model are \['body'\]"):
        FeatureMapFusion.for_model(model, tokenizer, at="bdy", example=image)


def test_settings_are_refused_by_name(schema):
    tokenizer = AttributeTokenizer(schema, 38)
    with pytest.raises(ValueError, match=r"read must be one of \('global', 'pooled', 'full'\), got 'local'"):
        FeatureMapFusion(tokenizer, [5], read="local")
    for channels in ([], [5, 0]):
        with pytest.raises(
            ValueError, match=r"channels must hold a positive number for each map, one map or more; got \["
        ):
            FeatureMapFusion(tokenizer, channels)
    for read in READS:
        with pytest.raises(ValueError, match=r"dim must be divisible by num_heads, got dim=38 and num_heads=3"):
            FeatureMapFusion(tokenizer, [5], read=read, num_heads=3)


@every_read
def test_maps_and_codes_are_refused_by_what_came(read, fusion_for, codes):
    fusion, maps = fusion_for(PLANES, read), maps_of(PLANES)
    announced = r"this fusion takes maps of \[5, 13\] channels; got "
    with pytest.raises(ValueError, match=announced + r"1 maps of the shapes \[\(3, 5, 7, 11\)\]"):
        fusion(maps[0], codes)
    with pytest.raises(
        ValueError, match=announced + r"2 maps of the shapes .* FeatureMapFusion.for_model finds the ch"
    ):
        fusion(maps[::-1], codes)
    with pytest.raises(ValueError, match=announced + r"0 maps"):
        fusion([], codes)
    with pytest.raises(ValueError, match=r"got 2 rows of codes for maps of 3 images"):
        fusion(maps, codes[:2])
    with pytest.raises(ValueError, match=r"codes must be int64 of shape \(B, 3\).* got torch.float32"):
        fusion(maps, codes.float())
    with pytest.raises(ValueError, match=r"codes must be int64 of shape \(B, 3\).* of shape \(3, 2\)"):
        fusion(maps, codes[:, :2])
    with pytest.raises(ValueError, match=r"code 2 in row 1 is out of range for attribute 'ulceration'"):
        fusion(maps, torch.tensor([[0, 0, 0], [0, 2, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match=r"is_hidden must be bool of shape \(3, 3\), got torch.int64"):
        fusion(maps, codes, is_hidden=codes)


def test_full_attention_over_too_many_positions_is_refused(fusion_for, codes):
    maps = maps_of(PLANES)  # 7 x 11 and 3 x 2 positions
    with pytest.raises(
        ValueError, match=r"compute attention between 83 positions, .* max_positions=82; read='global' or"
    ):
        fusion_for(PLANES, "full", max_positions=82)(maps, codes)
    assert fusion_for(PLANES, "full", max_positions=83)(maps, codes).maps[0].shape == (3, 5, 7, 11)
    assert fusion_for(PLANES, "pooled", max_positions=82)(maps, codes).maps[0].shape == (3, 5, 7, 11)


@every_read
@pytest.mark.parametrize("levels", [PLANES, VOLUMES], ids=["2-D", "3-D"])
def test_the_memory_layout_is_kept(levels, read, fusion_for, codes):
    fusion = fusion_for(levels, read).eval()
    for layout in (torch.channels_last if levels is PLANES else torch.channels_last_3d, torch.contiguous_format):
        maps = [each.contiguous(memory_format=layout) for each in maps_of(levels)]
        out = fusion(maps, codes).maps
        assert all(each.is_contiguous(memory_format=layout) for each in out)
        assert all(torch.equal(a, b) for a, b in zip(out, maps, strict=True))


def test_a_state_dict_rebuilds_it_and_settings_show(fusion_for, codes):
    for read in READS:
        maps, other = maps_of(PLANES), fusion_for(PLANES, read).eval()
        fusion = one_step(fusion_for(PLANES, read), maps, codes)
        other.load_state_dict(fusion.state_dict())
        assert torch.equal(other(maps, codes).maps[1], fusion(maps, codes).maps[1])
        assert f"channels=(5, 13), read='{read}'\n" in repr(fusion)
