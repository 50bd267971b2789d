import sys

import pytest
import timm
import torch
from safetensors import safe_open
from timm.layers import StdConv2d
from timm.models.beit import Beit

from alignedfusion import AlignedFusionClassifier, VisualTokenizer
from alignedfusion.modules.backbones import Backbone
from alignedfusion.modules.tuning import RANK, add_adapters, has_adapters, merge_adapters, parse_tune, set_trained
from alignedfusion.training import TrainingSettings, parameter_groups

SIDES = {"test_vit": 32, "test_resnet": 64, "test_efficientnet": 64, "test_convnext": 64}


def visual(name, tune, **settings):
    return VisualTokenizer(name, 38, pretrained=False, tune=tune, image_size=SIDES.get(name), **settings)


def images(name):
    return torch.randn(3, 3, SIDES[name], SIDES[name])


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def step(module, image):
    """One optimizer step on a loss of the tokens. Returns the names of what it changed."""
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module.train()(image).square().mean().backward()
    optimizer.step()
    return {name for name, value in module.backbone.state_dict().items() if not torch.equal(value, before[name])}


def fill_adapters(module):
    """New adapters add zero; these add something."""
    for name, parameter in module.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize(
    ("tune", "parsed"),
    [
        ("none", ("none", 0)),
        ("whole", ("whole", 0)),
        ("last:1", ("last", 1)),
        ("last:12", ("last", 12)),
        ("lora", ("lora", RANK)),
        ("lora:4", ("lora", 4)),
    ],
)
def test_kinds_of_tuning(tune, parsed):
    assert parse_tune(tune) == parsed


@pytest.mark.parametrize("tune", ["", "last", "last:0", "last:-1", "lora:", "whole:2", "Whole", "last:1 ", True, None])
def test_other_kinds_are_refused_with_those_there_are(tune):
    with pytest.raises(ValueError, match=r'tune must be "none", "whole", "last:K" or "lora", .* got'):
        Backbone("test_vit", tune=tune)
    with pytest.raises(ValueError, match="tune must be"):
        VisualTokenizer("test_vit", 38, pretrained=False, tune=tune)


@pytest.mark.parametrize(
    ("name", "count", "prefixes"),
    [
        ("test_vit", 2, ("blocks.4.", "blocks.5.", "norm.")),
        ("test_resnet", 1, ("layer4.",)),
        ("test_efficientnet", 1, ("blocks.4.", "conv_head.", "bn2.")),
        ("test_efficientnet", 5, ("blocks.", "conv_head.", "bn2.")),
        ("test_convnext", 2, ("stages.2.", "stages.3.", "head.norm.")),
        ("swin_tiny_patch4_window7_224", 1, ("layers.3.", "norm.")),  # timm has no pattern for its last norm
    ],
)
def test_the_last_stages_by_hand(name, count, prefixes):
    backbone = visual(name, f"last:{count}").backbone
    assert trained(backbone) == {name for name, _ in backbone.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("name", "stage"), [("test_resnet", "layer4."), ("test_efficientnet", ("blocks.4.", "conv_h", "bn2."))]
)
def test_a_step_leaves_the_other_stages_and_their_statistics_unchanged(name, stage):
    module = visual(name, "last:1")
    changed = step(module, images(name))
    assert {name for name in changed if not name.startswith(stage)} == set()
    assert any(name.endswith("running_mean") for name in changed)
    assert any(name.endswith("weight") for name in changed)
    assert all(not part.training for part in module.eval().modules())


def test_a_step_of_whole_training_changes_the_first_stage_too():
    assert {"conv1.0.weight", "bn1.running_mean", "layer1.0.bn2.weight"} <= step(
        visual("test_resnet", "whole"), images("test_resnet")
    )


@pytest.mark.parametrize(
    ("name", "count", "stages"), [("test_vit", 7, 6), ("test_resnet", 5, 4), ("test_convnext", 9, 4)]
)
def test_more_stages_than_there_are_is_an_error(name, count, stages):
    with pytest.raises(
        ValueError, match=rf"'last:{count}' asks for {count} stages, timm's \w+ has {stages}; use tune='whole'"
    ):
        visual(name, f"last:{count}")


@pytest.mark.parametrize("name", ["pit_xs_224", "rdnet_tiny"])
def test_a_model_without_stages_is_an_error(name):
    model = timm.create_model(name, num_classes=0)
    with pytest.raises(ValueError, match=r"timm's \w+ is not divided into stages; use tune='whole' or 'lora'"):
        set_trained(model, "last:1", (3, 224, 224))


@pytest.mark.parametrize("name", SIDES)
def test_new_adapters_change_nothing_and_alone_are_trained(name):
    torch.manual_seed(1)
    plain = visual(name, "none")
    torch.manual_seed(1)
    adapted = visual(name, "lora")
    adapted.norm, adapted.project = plain.norm, plain.project
    image = images(name)
    assert torch.allclose(adapted(image), plain(image), atol=1e-6)
    assert all(".lora_" in name for name in trained(adapted.backbone))
    changed = step(adapted, image)
    assert changed
    assert all(".lora_B." in name for name in changed)  # A has no gradient as long as B is zero


@pytest.mark.parametrize("name", SIDES)
def test_merged_adapters_give_the_same_tokens_under_timms_names(name):
    module = visual(name, "lora:3").eval()
    image = images(name)
    before = module.features(image)
    fill_adapters(module)
    adapted = module.features(image)
    merge_adapters(module.backbone)
    assert (module.features(image) - adapted).norm() < 1e-5 * adapted.norm()
    assert (before - adapted).norm() > 0.05 * adapted.norm()
    timm.create_model(name, num_classes=0, **({"img_size": 32} if name == "test_vit" else {})).load_state_dict(
        module.backbone.state_dict()
    )


def test_adapters_beside_all_layers_of_a_transformer_and_pointwise_convolutions_of_a_conv_net():
    def layers(name):
        return {
            name.removesuffix(".lora_A")
            for name, _ in visual(name, "lora").backbone.named_modules()
            if name.endswith(".lora_A")
        }

    of_block = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert layers("test_vit") == {"patch_embed.proj", *(f"blocks.{i}.{layer}" for i in range(6) for layer in of_block)}
    found = layers("test_efficientnet")
    assert {"blocks.3.0.conv_pw", "blocks.3.0.conv_pwl", "conv_head"} <= found
    assert not any("conv_dw" in name for name in found)


def test_layers_whose_adapter_would_have_no_effect_or_could_not_be_merged_have_none():
    beit = Beit(img_size=32, patch_size=16, embed_dim=24, depth=1, num_heads=2, num_classes=0)  # does not call its qkv
    add_adapters(beit, 2, (3, 32, 32))
    assert {name for name, module in beit.named_modules() if hasattr(module, "lora_A")} == {
        "patch_embed.proj",
        "blocks.0.attn.proj",
        "blocks.0.mlp.fc1",
        "blocks.0.mlp.fc2",
    }

    class Standardized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = StdConv2d(3, 5, 1)

        def forward_features(self, image):
            return self.conv(image)

    with pytest.raises(ValueError, match="timm's Standardized has no layers for adapters"):
        add_adapters(Standardized(), 2, (3, 8, 8))


def test_a_saved_model_with_adapters_is_plain_and_loads_without_peft(schema, build, tmp_path, monkeypatch):
    model = build(schema, visual=visual("test_vit", "lora")).eval()
    fill_adapters(model)
    image, codes = images("test_vit"), torch.tensor([[0, 1, -1], [2, -1, 4], [-1, -1, -1]])
    logits = model(image, codes).logits
    model.save_pretrained(tmp_path)
    assert has_adapters(model.visual.backbone)  # training can go on
    assert torch.equal(model(image, codes).logits, logits)
    assert "adapted by LoRA" in (tmp_path / "README.md").read_text()
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert "visual.backbone.blocks.0.attn.qkv.weight" in names
    assert not any("lora" in name or "base_layer" in name for name in names)

    monkeypatch.setitem(sys.modules, "peft", None)
    again = AlignedFusionClassifier.from_pretrained(tmp_path)
    assert torch.allclose(again(image, codes).logits, logits, atol=1e-4)
    assert again.visual.tune == "lora"
    with pytest.raises(ValueError, match=r"adapters of this backbone were merged .* set its tune to 'none'"):
        again.train()(image, codes)
    again.visual.tune = "none"
    again(image, codes)
    again.save_pretrained(tmp_path / "again")
    assert AlignedFusionClassifier.from_pretrained(tmp_path / "again").visual.tune == "none"


def test_without_peft_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"tune='lora' needs peft: pip install 'alignedfusion\[lora\]'"):
        visual("test_vit", "lora")


def test_adapters_are_new_weights_and_have_no_rate_of_a_backbone(schema, build):
    model = build(schema, visual=visual("test_vit", "lora"))
    adapters = {id(p) for name, p in model.named_parameters() if ".lora_" in name}
    groups = parameter_groups(model, TrainingSettings(learning_rate=1.0, image_rate=0.5, backbone_rate=0.25))
    rates = {group["lr"] for group in groups for p in group["params"] if id(p) in adapters}
    assert rates == {0.5}
    assert 0.125 not in {group["lr"] for group in groups}


@pytest.mark.parametrize(("frozen", "tune"), [(True, "none"), (False, "whole")])
def test_settings_of_a_development_version_load(frozen, tune):
    settings = visual("test_vit", "none").to_dict()
    del settings["tune"]
    again = VisualTokenizer.from_dict({**settings, "frozen": frozen})
    assert again.tune == tune
    assert bool(trained(again.backbone)) is not frozen
    assert again.to_dict() == {**settings, "tune": tune}
