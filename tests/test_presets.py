import functools

import pytest
import torch

from alignedfusion import AlignedFusionClassifier, VisualTokenizer, presets
from alignedfusion.modules.fusions.intermediate import IntermediateTokenFusion
from alignedfusion.presets import Backbone

CLASSES = ("nevus", "melanoma", "basal cell carcinoma", "keratosis", "miscellaneous")


def test_standard_on_precomputed_tokens(schema):
    model = presets.standard(schema, CLASSES, backbone=None, num_features=13)
    out = model(torch.randn(2, 11, 13), torch.tensor([[0, 1, 4], [-1, -1, -1]]), torch.tensor([0, 4]))
    assert out.logits.shape == (2, 5)
    assert out.loss.isfinite()
    assert model.class_names == CLASSES
    assert model.branches == ("image", "report", "fused")
    assert model.fusion.to_dict() == {
        "dim": 128,
        "modalities": ["image", "report"],
        "depth": 1,
        "num_heads": 2,
        "topology": "pairwise",
        "num_tokens": 1,
        "share_weights": False,
        "dropout": 0.1,
    }


def test_standard_serves_several_images_with_one_frozen_backbone(schema, tmp_path):
    images = ("clinical", "dermoscopy")
    model = presets.standard(
        schema, CLASSES, backbone=Backbone("test_vit", pretrained=False, image_size=96), images=images, dim=64
    ).eval()
    image = {m: torch.randn(2, 3, 96, 96) for m in images}
    out = model(image, torch.tensor([[0, 1, 4], [-1, -1, -1]]))
    assert out.logits.shape == (2, 5)
    assert out.intermediate.shape == (2, 3, 64)
    assert not any(p.requires_grad for p in model.visual.backbone.parameters())
    model.save_pretrained(tmp_path)
    again = AlignedFusionClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(image, torch.tensor([[0, 1, 4], [-1, -1, -1]])).logits, out.logits)


def test_standard_takes_text_vectors(schema):
    model = presets.standard(schema, CLASSES, backbone=None, num_features=13, text_encoder=torch.randn(10, 23))
    assert model.tokenizer.project.in_features == 23


@pytest.mark.parametrize("given", [True, False])
def test_the_paper_s_model(given, schema, monkeypatch):
    asked = []

    class Encoder:
        def encode(self, prompts):
            asked.extend(prompts)
            return torch.randn(len(prompts), 23)

    # Without a network: random weights, and an encoder that replaces ClinicalBERT.
    monkeypatch.setattr(presets, "VisualTokenizer", functools.partial(untrained, asked))
    monkeypatch.setattr(presets, "TextEncoder", Encoder)
    model = presets.paper(schema, CLASSES, text_encoder=torch.randn(10, 23) if given else None).eval()
    assert asked[0] == ("swin_tiny_patch4_window7_224", True)
    assert asked[1:2] == ([] if given else ["The elevation is flat."])
    assert isinstance(model.fusion, IntermediateTokenFusion)
    assert (model.fusion.dim, len(model.fusion.rounds), model.fusion.share_weights) == (768, 1, False)
    assert (model.hiding.p, model.reconstructor.fill) == (0.3, "once")
    assert (model.unimodal_heads, model.branches) == (None, ("fused",))
    with torch.no_grad():
        out = model(torch.randn(1, 3, 224, 224), torch.tensor([[0, -1, 4]]))
    assert out.logits.shape == (1, 5)


def untrained(asked, backbone, dim, *, pretrained):
    asked.append((backbone, pretrained))
    return VisualTokenizer(backbone, dim, pretrained=False)


@pytest.mark.parametrize(("dim", "heads"), [(64, 1), (384, 6), (200, 2), (37, 1)])
def test_the_number_of_heads_follows_from_the_width(dim, heads, schema):
    model = presets.standard(schema, CLASSES, backbone=None, num_features=13, dim=dim)
    assert model.fusion.to_dict()["num_heads"] == heads
    alone = presets.standard(schema, CLASSES, images=(), dim=dim)
    assert alone.fusion.to_dict()["num_heads"] == heads


def test_a_module_as_backbone_is_refused(schema):
    with pytest.raises(ValueError, match=r"timm model is given by its name, got Identity: a module of your own"):
        presets.standard(schema, ["nevus", "melanoma"], backbone=torch.nn.Identity())
