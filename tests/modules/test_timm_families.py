"""One small model of every timm family, with random weights: correct patch tokens, or a helpful error."""

import math
import warnings

import pytest
import timm
import torch
from timm.models import list_modules

from alignedfusion import VisualTokenizer

SMALL = ("test_", "atto", "femto", "pico", "nano", "tiny", "_xs", "xxs", "mini", "s0", "_t_", "small", "18", "_s_")
CLEAR = "returns list, not one map of tokens|returns only its class token|does not take images of"


def smallest(family):
    """The name and input side of the family's smallest model among some with small names."""
    names = timm.list_models(module=family)
    names = [name for name in names if any(word in name for word in SMALL)] or names
    found = []
    for name in names[:12]:
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except (RuntimeError, NotImplementedError):  # some compute with their weights during construction
            model = timm.create_model(name)
        found.append((sum(p.numel() for p in model.parameters()), name, model.default_cfg["input_size"][-1]))
    return min(found)[1:]


@pytest.mark.slow
@pytest.mark.parametrize("family", list_modules())
def test_a_family_gives_patch_tokens_or_a_clear_error(family):
    if not timm.list_models(module=family):
        pytest.skip("no model of its own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name, side = smallest(family)
        if side > 400:
            pytest.skip(f"{name} takes {side} pixels: too large for this test")
        for image_size in (None, 160 if side >= 192 else 128):
            try:
                visual = VisualTokenizer(name, 16, pretrained=False, image_size=image_size).eval()
                height = visual.preprocessing["input_size"][-1]
                with torch.no_grad():
                    tokens = visual.features(torch.randn(2, *visual.preprocessing["input_size"]))
            except ValueError as error:
                assert any(words in str(error) for words in CLEAR.split("|")), error  # noqa: PT017
                continue
            grid = math.isqrt(tokens.shape[1])
            assert grid * grid == tokens.shape[1]
            assert height % grid < grid  # patches of one size, up to padding at the edge
            assert tokens.shape[2] == visual.num_features
            assert tokens.isfinite().all()


@pytest.mark.parametrize("name", ["volo_d1_224", "coat_lite_tiny"])
def test_a_class_token_that_timm_does_not_declare_is_no_patch(name):
    visual = VisualTokenizer(name, 16, pretrained=False).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens, own = visual.features(image), visual.backbone.forward_features(image)
    assert torch.equal(tokens, own[:, 1:])
    assert math.isqrt(tokens.shape[1]) ** 2 == tokens.shape[1]


def test_a_backbone_without_patch_tokens_is_refused():
    visual = VisualTokenizer("pit_xs_224", 16, pretrained=False).eval()
    with pytest.raises(ValueError, match="'pit_xs_224' returns only its class token, no patch tokens"):
        visual.features(torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize("name", ["cait_xxs24_224", "levit_128s", "gmlp_ti16_224"])
def test_a_size_that_a_backbone_cannot_take_is_refused_when_it_is_built(name):
    message = f"'{name}' does not take images of 160 pixels; leave image_size out for its own 224"
    with pytest.raises(ValueError, match=message):
        VisualTokenizer(name, 16, pretrained=False, image_size=160)
