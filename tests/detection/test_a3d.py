import copy
import io
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from alignedfusion import AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion, FusedDetector
from alignedfusion.detection.a3d import ANCHOR_SIZES, a3d_detector
from alignedfusion.detection.a3d_backbone import A3DBackbone, A3DConv

# B = 2, D = 3 slices: what holds for seven holds for three, and three are faster.
SETTINGS = {
    "1 x 1": {"kernel_size": 1},
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "7 x 7": {"kernel_size": 7, "padding": 3, "stride": 2},
    "uneven": {"kernel_size": 2, "stride": 3},
}


@pytest.fixture(scope="module")
def flat():
    """A 2-D network with statistics that are not those it starts with."""
    torch.manual_seed(2)
    flat = timm.create_model("densenet121", num_classes=0).double().eval()
    for module in flat.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.normal_(std=0.1)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 1.5)
    return flat


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(3)
    return A3DBackbone(3, pretrained=False).eval()


def conv(dtype=torch.float64, num_slices=3, **settings):
    conv = A3DConv(5, 2, num_slices=num_slices, **{"kernel_size": 3, **settings}).to(dtype)
    nn.init.normal_(conv.mixing)
    return conv


def detector(seed=4, **settings):
    torch.manual_seed(seed)
    model = a3d_detector(
        3, **{"num_slices": 3, "pretrained": False, "head_width": 13, "score_threshold": 0.0, **settings}
    )
    # Heads take their time with each box.
    model.roi_heads.detections_per_img = 7
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    return model


def draw_images(*sizes, num_slices=3):
    return [255 * torch.rand(num_slices, *size) for size in sizes]


def draw_targets(count):
    boxes = torch.tensor([[3.0, 5, 24, 22], [30, 8, 47, 40]])
    return [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in range(count)]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_convolution_by_hand(settings):
    a3d = conv(**settings)
    x = torch.randn(2, 5, 3, 11, 13, dtype=torch.float64)

    out = a3d(x)

    assert len(out[0, 0]) == 3
    for i in range(3):
        mixed = sum(a3d.mixing[i, j][:, None, None] * x[:, :, j] for j in range(3))
        expected = F.conv2d(mixed, a3d.weight, None, settings.get("stride", 1), settings.get("padding", 0))
        torch.testing.assert_close(out[:, :, i], expected, rtol=0, atol=1e-10)


def test_one_number_by_hand():
    a3d = A3DConv(1, 1, 1, num_slices=2)
    with torch.no_grad():
        a3d.mixing[..., 0] = torch.tensor([[1.0, 10.0], [0.0, 2.0]])
        a3d.weight.fill_(3)
        out = a3d(torch.tensor([5.0, 7.0]).view(1, 1, 2, 1, 1))
    assert out.flatten().tolist() == [3 * (5 + 10 * 7), 3 * 2 * 7]


def test_convolution_gradients():
    a3d = conv(stride=2, padding=1)
    x = torch.randn(2, 5, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weights = dict(a3d.named_parameters())

    def call(x, *values):
        return torch.func.functional_call(a3d, dict(zip(weights, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *weights.values()))


def test_identity_mixing_is_the_2d_convolution():
    a3d = conv(padding=1)
    a3d.reset_mixing(0)
    x = torch.randn(2, 5, 3, 7, 11, dtype=torch.float64)
    expected = F.conv2d(x.transpose(1, 2).flatten(0, 1), a3d.weight, padding=1)  # (B * D, C, H, W)
    torch.testing.assert_close(a3d(x).transpose(1, 2).flatten(0, 1), expected, rtol=0, atol=1e-12)


def test_mixing_starts_near_identity():
    noise = A3DConv(31, 2, 1, num_slices=7).mixing.detach() - torch.eye(7)[..., None]
    assert noise.abs().max() <= 0.1 + 1e-6
    assert noise.std() == pytest.approx(0.1 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("shape", [(2, 5, 7, 11, 13), (2, 3, 5, 11, 13), (2, 4, 3, 11, 13), (5, 3, 11, 13)])
def test_convolution_refuses(shape):
    with pytest.raises(ValueError, match=rf"\(B, 5, 3, H, W\).*got \({', '.join(map(str, shape))}\)"):
        conv(torch.float32)(torch.randn(shape))


def test_convolution_in_bfloat16():
    a3d = conv(torch.float32, padding=1)
    x = torch.randn(2, 5, 3, 7, 11)
    with torch.autocast("cpu", torch.bfloat16):
        out = a3d(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), a3d(x), rtol=0.1, atol=0.3)


def test_published_size_and_maps():
    with torch.device("meta"):
        backbone = A3DBackbone(pretrained=False).eval()
        volume = torch.empty(1, 1, 7, 512, 512)

        maps, out = backbone.features(volume), backbone(volume)

    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == 16_039_209 - 6_921  # the public code's, less mixing matrices that it never uses
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 7, 128, 128), (512, 7, 64, 64), (1024, 7, 32, 32)]
    assert [(key, tuple(x.shape)) for key, x in out.items()] == [("0", (1, 512, 128, 128))]
    assert backbone.out_channels == 512


def test_small_maps_of_uneven_size(backbone):
    volume = torch.randn(2, 1, 3, 48, 88)
    with torch.no_grad():
        out, maps = backbone(volume)["0"], backbone.features(volume)
        alone = backbone(volume[1:])["0"]
    assert [tuple(x.shape[2:]) for x in maps] == [(3, 12, 22), (3, 6, 11), (3, 3, 5)]
    assert out.shape == (2, 512, 12, 22)
    torch.testing.assert_close(out[1:], alone, rtol=1e-3, atol=1e-4)  # rows of a batch do not touch each other


def test_every_slice_counts(backbone):
    volume = torch.randn(1, 1, 3, 32, 32, requires_grad=True)
    backbone(volume)["0"].square().mean().backward()
    assert (volume.grad.abs().amax((0, 1, 3, 4)) > 0).all()
    backbone.zero_grad()


def test_begins_as_the_2d_network(flat):
    backbone = A3DBackbone(3, pretrained=False).double().eval()
    backbone.load_2d(flat.state_dict())
    volume = torch.randn(2, 1, 3, 64, 64, dtype=torch.float64)
    slices = volume.transpose(1, 2).flatten(0, 1)  # (B * D, 1, H, W)
    green = torch.cat([torch.zeros_like(slices), slices, torch.zeros_like(slices)], 1)  # (B * D, RGB, H, W)
    expected, x = [], green
    with torch.no_grad():
        near = backbone.features(volume)
        backbone.reset_mixing(0)
        maps = backbone.features(volume)
        for name, module in flat.features.named_children():
            x = module(x)
            expected += [x] if name in ("denseblock1", "denseblock2", "denseblock3") else []

    for ours, with_noise, theirs in zip(maps, near, expected, strict=True):
        theirs = theirs.unflatten(0, (2, 3)).transpose(1, 2)  # (B, C, D, H, W)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        assert not torch.allclose(with_noise, theirs, atol=1e-3)


def public_weights(backbone):
    """Our weights under the public code's names. Its mixing matrices have the input slice first, ours the output slice."""
    weights = {}
    for name, value in backbone.state_dict().items():
        name = name.removeprefix("features.").replace("mixing", "adaptive_align_weights")
        if name.startswith("reductions"):
            name = f"reductionz{int(name.split('.')[1]) + 1}.reduction_z_conv.weight"
        elif name.startswith("laterals"):
            name = f"lateral{int(name.split('.')[1]) + 2}.{name.split('.')[2]}"
        weights[name] = value.transpose(0, 1) if name.endswith("adaptive_align_weights") else value
    return weights


def public_forward(w, x):
    """The arithmetic of the public code in evaluation mode, written by hand from its weights."""

    def norm_relu(x, name):
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"]).relu()

    def a3d(x, name, padding=0):
        mixed = torch.einsum("bcdhw,dkc->bckhw", x, w[f"{name}.adaptive_align_weights"])
        return F.conv3d(mixed, w[f"{name}.weight"].unsqueeze(2), padding=(0, padding, padding))

    x = F.conv3d(x, w["conv0.weight"], stride=(1, 2, 2), padding=(0, 3, 3))
    x = F.max_pool3d(norm_relu(x, "norm0"), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    reduced = []
    for block, layers in ((1, 6), (2, 12), (3, 24)):
        for layer in range(1, layers + 1):
            name = f"denseblock{block}.denselayer{layer}"
            inner = a3d(norm_relu(x, f"{name}.norm1"), f"{name}.conv1")
            x = torch.cat([x, a3d(norm_relu(inner, f"{name}.norm2"), f"{name}.conv2", padding=1)], 1)
        reduced.append(F.conv3d(x, w[f"reductionz{block}.reduction_z_conv.weight"]).squeeze(2))
        if block < 3:
            x = F.conv3d(norm_relu(x, f"transition{block}.norm"), w[f"transition{block}.conv.weight"])
            x = F.avg_pool3d(x, (1, 2, 2))
    x = F.conv2d(reduced[2], w["lateral4.weight"], w["lateral4.bias"])
    for level in (3, 2):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = x + F.conv2d(reduced[level - 2], w[f"lateral{level}.weight"], w[f"lateral{level}.bias"])
    return x


def test_it_computes_what_the_public_code_computes():
    torch.manual_seed(7)
    backbone = A3DBackbone(3, pretrained=False).double().eval()
    for module in backbone.modules():
        if isinstance(module, A3DConv):
            nn.init.normal_(module.mixing, std=0.6)  # far from symmetric
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    volume = torch.randn(2, 1, 3, 48, 64, dtype=torch.float64)
    weights = public_weights(backbone)
    with torch.no_grad():
        expected, ours = public_forward(weights, volume), backbone(volume)["0"]
        for name in weights:
            if name.endswith("adaptive_align_weights"):
                weights[name] = weights[name].transpose(0, 1)
        untransposed = public_forward(weights, volume)
    assert ours.shape == (2, 512, 12, 16)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    assert (untransposed - expected).norm() / expected.norm() > 0.1


def test_equal_slices_give_equal_maps(flat):
    backbone = A3DBackbone(7, pretrained=flat.state_dict()).eval()
    backbone.reset_mixing(0)
    with torch.no_grad():
        for x in backbone.features(torch.randn(1, 1, 1, 32, 48).expand(-1, -1, 7, -1, -1)):
            torch.testing.assert_close(x, x[:, :, :1].expand_as(x), rtol=1e-4, atol=1e-5)


def test_weights_of_a_file(flat, tmp_path):
    torch.save(flat.state_dict(), tmp_path / "densenet.pth")
    backbone = A3DBackbone(3, pretrained=tmp_path / "densenet.pth")
    weight = flat.features.denseblock3.denselayer24.conv2.weight
    assert torch.equal(backbone.features.denseblock3.denselayer24.conv2.weight, weight.float())


def test_refuses_other_weights(flat, tmp_path):
    with pytest.raises(ValueError, match="no weights file"):
        A3DBackbone(3, pretrained=tmp_path / "none.pth")
    with pytest.raises(
        ValueError, match=r"with 3136 numbers in 'features\.conv0\.weight'; got 0 there, and names such as 'conv1'"
    ):
        A3DBackbone(3, pretrained={"conv1": torch.zeros(2)})
    name = "features.denseblock1.denselayer1.conv2.weight"
    with pytest.raises(ValueError, match=r"36864 numbers in '.*denselayer1\.conv2\.weight'; got 102400"):
        A3DBackbone(3, pretrained={**flat.state_dict(), name: torch.zeros(32, 128, 5, 5)})


def test_detector_of_the_published_setting():
    with torch.device("meta"):
        model = a3d_detector(pretrained=False)
    assert ANCHOR_SIZES[0] == 16
    assert ANCHOR_SIZES[-1] == 192
    assert model.rpn.anchor_generator.num_anchors_per_location() == [3 * len(ANCHOR_SIZES)]
    heads = model.roi_heads
    assert tuple(heads.box_head.fc6.weight.shape) == (2048, 512 * 7 * 7)
    assert tuple(heads.box_head.fc7.weight.shape) == (2048, 2048)
    assert tuple(heads.box_predictor.cls_score.weight.shape) == (2, 2048)
    assert heads.box_roi_pool.output_size == (7, 7)
    assert isinstance(model.backbone, A3DBackbone)


def test_detector_trains_and_predicts():
    model = detector()
    sizes = (64, 64), (61, 53)

    losses = model(draw_images(*sizes), draw_targets(2))
    sum(losses.values()).backward()

    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(loss.isfinite() for loss in losses.values())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert gradients["backbone.features.conv0.weight"].abs().max() > 0

    with torch.no_grad():
        found = model.eval()(draw_images(*sizes))
    for one, (height, width) in zip(found, sizes, strict=True):
        assert set(one) == {"boxes", "labels", "scores"}
        assert len(one["boxes"]) == len(one["scores"]) > 0
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height] * 2)).all()


def test_a_stacked_batch_is_a_list():
    model = detector().eval()
    images = draw_images((48, 64), (48, 64))
    with torch.no_grad():
        first, second = model(images), model(torch.stack(images))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_images_are_scaled_and_filled_up_but_not_resized():
    transform = detector().transform
    images = draw_images((50, 64), (33, 47))
    targets = draw_targets(2)

    for mode in (True, False):
        batch, same = transform.train(mode)(images, targets)

        assert batch.tensors.shape == (2, 1, 3, 64, 64)
        assert batch.image_sizes == [(50, 64), (33, 47)]
        torch.testing.assert_close(batch.tensors[1, 0, :, :33, :47], (images[1] - 114.5) / 57.6)
        assert (batch.tensors[1, 0, :, 33:] == 0).all()
        assert torch.equal(same[0]["boxes"], targets[0]["boxes"])


@pytest.mark.parametrize("num_slices", [1, 5])
def test_detector_refuses_other_numbers_of_slices(num_slices):
    images = draw_images((48, 64)) + draw_images((48, 64), num_slices=num_slices)
    with pytest.raises(ValueError, match=rf"images \(3, H, W\).*got \({num_slices}, 48, 64\)"):
        detector().eval()(images)


def test_copies_answer_alike():
    model = detector().eval()
    images = draw_images((48, 64))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = detector(seed=5).eval()
    assert not torch.equal(loaded.backbone.laterals[0].weight, model.backbone.laterals[0].weight)
    loaded.load_state_dict(torch.load(file, weights_only=True))

    with torch.no_grad():
        expected = model(images)[0]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
            answer = other(images)[0]
            assert all(torch.equal(answer[key], expected[key]) for key in expected)


def test_attributes_plug_in(schema):
    model = detector().eval()
    images = draw_images((48, 64), (48, 64))
    codes = torch.tensor([[0, -1, 2], [1, 1, -1]])
    fusion = FeatureMapFusion.for_model(model, AttributeTokenizer(schema, 38), at="backbone", example=images[:1])
    fused = FusedDetector(model, fusion, at="backbone").eval()
    with torch.no_grad():
        alone, together = model(images), fused(images, codes=codes)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(alone, together, strict=True) for key in a)
