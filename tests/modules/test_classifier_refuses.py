import re

import pytest
import torch
from torch import nn

from alignedfusion import (
    AlignedFusionClassifier,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
)
from alignedfusion.baselines import ElementwiseSum
from alignedfusion.modules.fusions import Fusion

IMAGES = ("clinical", "dermoscopy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fill": "twice"}, "fill must be 'once', 'two_pass' or 'none', got 'twice'"),
        ({"class_names": ["nevus"]}, "class_names must name 17 classes, got 1: ['nevus']"),
        ({"modalities": ("a", "b"), "visual": {"a": nn.Identity()}}, "visual must have the keys ['a', 'b'], got ['a']"),
        ({"modalities": ("a", "b"), "visual": dict.fromkeys("ab", nn.Identity())}, "one module for several modalities"),
        ({"fusion": IntermediateTokenFusion(34, num_heads=2)}, "must have the same width, got dim=38 and dim=34"),
    ],
)
def test_a_classifier_refuses(settings, message, schema, build):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(schema, **settings)


def test_parts_must_fit_each_other(schema):
    tokenizer, fusion = AttributeTokenizer(schema, 38), IntermediateTokenFusion(38, num_heads=2)
    with pytest.raises(ValueError, match=r"has the image modalities \['image'\]; visual must not be None"):
        AlignedFusionClassifier(None, tokenizer, fusion, None, 17)
    with pytest.raises(ValueError, match="reconstructor and fusion must have the same width, got dim=34 and dim=38"):
        AlignedFusionClassifier(nn.Identity(), tokenizer, fusion, MaskedTokenReconstructor(34), 17)


def test_a_call_refuses_images_and_codes_that_do_not_fit(schema, build, batch):
    image, codes, _ = batch(schema)
    model, two = build(schema), build(schema, modalities=(*IMAGES, "report"))
    with pytest.raises(ValueError, match=r"this model needs images of \['image'\]; got None"):
        model(None, codes)
    with pytest.raises(ValueError, match="got 5 images of 'image' for 7 rows of codes"):
        model(image[:5], codes)
    with pytest.raises(ValueError, match=r"takes a mapping of images with the keys \['clinical', 'dermoscopy'\]"):
        two(image, codes)
    message = r"images must have the keys \['clinical', 'dermoscopy'\], got \['clinical'\]; pass zeros for an image"
    with pytest.raises(ValueError, match=message):
        two({"clinical": image}, codes)
    with pytest.raises(ValueError, match="code 5 in row 0 is out of range for attribute 'age'"):
        model(image, codes.index_fill(1, torch.tensor([2]), 5))
    with pytest.raises(ValueError, match=r"codes must be int64 of shape \(B, 3\)"):
        model(image, codes.int())


BAD_MASKS = [
    ({"is_present": {"img": torch.ones(7, dtype=torch.bool)}}, "is_present names the modality 'img'"),
    ({"is_present": {"image": torch.ones(5, dtype=torch.bool)}}, "is_present['image'] must be bool of shape (7,)"),
    ({"is_present": {"image": torch.ones(7)}}, "is_present['image'] must be bool of shape (7,)"),
    ({"is_present": {"report": torch.ones(5, dtype=torch.bool)}}, "is_present['report'] must be bool of shape (7,)"),
    ({"is_valid": {"image": torch.ones(7, 13, dtype=torch.bool)}}, "is_valid['image'] must be bool of shape (7, 11)"),
    ({"is_valid": {"image": torch.ones(7, 11)}}, "is_valid['image'] must be bool of shape (7, 11)"),
    ({"is_hidden": torch.ones(3, dtype=torch.bool)}, "is_hidden must be bool of shape (7, 3)"),
    ({"is_hidden": torch.ones(5, 3, dtype=torch.bool)}, "is_hidden must be bool of shape (7, 3)"),
    ({"is_hidden": torch.ones(7, 3)}, "is_hidden must be bool of shape (7, 3)"),
]


@pytest.mark.parametrize(("masks", "message"), BAD_MASKS)
def test_a_call_refuses_masks_that_do_not_fit(masks, message, schema, build, batch):
    image, codes, _ = batch(schema)
    with pytest.raises(ValueError, match=re.escape(message)):
        build(schema)(image, codes, **masks)


class Handmade(nn.Module):
    """A fusion that is not derived from `Fusion` and lacks the attributes in `lacks`."""

    def __init__(self, lacks):
        super().__init__()
        given = {
            "dim": 38,
            "modalities": ("image", "report"),
            "pooled_dim": 76,
            "pool": lambda fused, is_valid, is_present: torch.zeros(7, 76),
            "report_parameters": lambda: iter(()),
            "to_dict": dict,
        }
        for name in given.keys() - {lacks}:
            setattr(self, name, given[name])


@pytest.mark.parametrize("lacks", ["dim", "modalities", "pooled_dim", "pool", "report_parameters", "to_dict"])
def test_a_fusion_that_lacks_something_is_refused_by_its_name(lacks, schema, build):
    with pytest.raises(TypeError, match=f"the fusion Handmade lacks {lacks}, forward: derive it from"):
        build(schema, fusion=Handmade(lacks))
    with pytest.raises(TypeError, match="the fusion Fusion lacks fuse"):
        build(schema, fusion=Fusion(38))


def test_a_fusion_with_its_own_pooling_works_with_a_reconstructor(schema, build, batch):
    image, codes, labels = batch(schema)
    output = build(schema, fusion=ElementwiseSum(38, num_heads=2))(image, codes, labels)
    assert output.reconstruction.shape == (7, 3, 5)
    assert output.loss.isfinite()
