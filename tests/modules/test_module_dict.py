import pytest
import torch
from torch import nn

from alignedfusion import AlignedFusionClassifier, AttributeTokenizer, IntermediateTokenFusion, VisualTokenizer
from alignedfusion.attributes import REPORT
from alignedfusion.modules.module_dict import ModuleDict

ODD = (
    "img.front",
    "type",
    "keys",
    "values",
    "train",
    "training",
    "",
    ".",
    "%2E",
    "_modules",
    "forward",
    "T_destination",
)


@pytest.mark.parametrize("key", ODD)
def test_any_key_is_given_back(key):
    modules = ModuleDict({key: nn.Linear(2, 3), "plain name/ü": nn.Identity()})
    assert key in modules
    assert list(modules) == list(modules.keys()) == [key, "plain name/ü"]
    assert modules[key] is dict(modules.items())[key]
    assert len(dict(modules.named_parameters())) == 2
    again = ModuleDict({key: nn.Linear(2, 3)})
    again.load_state_dict(modules.state_dict(), strict=True)
    assert torch.equal(again[key].weight, modules[key].weight)
    del modules[key]
    assert key not in modules


def test_keys_that_differ_stay_apart():
    keys = (*ODD, "%", "%%", "type.", "%type")
    assert list(ModuleDict({key: nn.Identity() for key in keys})) == list(keys)


def test_harmless_keys_are_stored_as_they_are():
    modules = ModuleDict({"derm": nn.Linear(2, 3)})
    assert set(modules.state_dict()) == {"derm.weight", "derm.bias"}


@pytest.mark.parametrize("key", ODD)
def test_a_classifier_takes_any_name_of_an_image(key, schema, batch, tmp_path):
    image, codes, labels = batch(schema)
    visual = {m: VisualTokenizer(None, 38, num_features=13) for m in (key, "items")}
    fusion = IntermediateTokenFusion(38, modalities=(key, "items", REPORT), num_heads=2)
    model = AlignedFusionClassifier(visual, AttributeTokenizer(schema, 38), fusion, None, 17, dropout=0.0)
    model({key: image, "items": image}, codes, labels=labels).loss.backward()
    model.eval().save_pretrained(tmp_path / "model")
    again = AlignedFusionClassifier.from_pretrained(tmp_path / "model")
    images = {key: image, "items": -image}
    assert torch.equal(again(images, codes).logits, model(images, codes).logits)
