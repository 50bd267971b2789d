import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from alignedfusion import AlignedFusionClassifier, Attribute, AttributeSchema, IntermediateTokenFusion, VisualTokenizer
from alignedfusion.baselines import CrossAttention, JointSelfAttention, MSMAFusion, RemixFormerFusion
from alignedfusion.modules.masking import HideAttributes

read = AlignedFusionClassifier.from_pretrained


class OwnVisual(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(13, 38)

    def forward(self, image):
        return self.project(image)


class OwnFusion(IntermediateTokenFusion):
    pass


class DoublingVisual(VisualTokenizer):
    def forward(self, image):
        return 2 * super().forward(image)


@pytest.mark.parametrize("reconstruct", ["once", "two_pass", "none"])
@pytest.mark.parametrize("unimodal_heads", [True, False])
def test_a_reloaded_model_predicts_bit_for_bit(unimodal_heads, reconstruct, schema, build, batch, tmp_path):
    names = [f"class {c}" for c in range(17)]
    model = build(
        schema,
        fill=reconstruct,
        hiding=HideAttributes(0.5, whole=0.1),
        class_names=names,
        unimodal_heads=unimodal_heads,
    )
    model.set_class_counts(range(17))
    model.branch_weights.copy_(torch.rand(len(model.branches)))
    model.save_pretrained(tmp_path / "new" / "folder")
    again = read(tmp_path / "new" / "folder", schema=schema)
    image, codes, labels = batch(schema)
    expected, out = model.eval()(image, codes, labels), again(image, codes, labels)
    assert not again.training
    assert all(torch.equal(out[field], expected[field]) for field in expected)
    assert list(expected) == ["loss", "logits", "reconstruction", "intermediate", "contributions"]
    assert torch.equal(again.log_prior, model.log_prior)
    assert torch.equal(again.branch_weights, model.branch_weights)
    assert again.branches == (("image", "report", "fused") if unimodal_heads else ("fused",))
    assert (again.class_names, again.hiding.p, again.reconstructor.fill) == (model.class_names, 0.5, reconstruct)
    assert again.schema == schema


@pytest.mark.parametrize(
    "fusion",
    [
        JointSelfAttention(38, num_heads=2, dropout=0.25),
        JointSelfAttention(38, modalities=("report",), num_heads=2),
        IntermediateTokenFusion(38, depth=3, num_heads=19, topology="shared", num_tokens=5, share_weights=True),
    ],
)
def test_every_fusion_of_the_library_is_rebuilt(fusion, schema, build, batch, tmp_path):
    model = build(schema, fusion=fusion).eval()
    model.save_pretrained(tmp_path)
    image, codes, _ = batch(schema)
    assert torch.equal(read(tmp_path)(image, codes).logits, model(image, codes).logits)


def test_backbones_are_rebuilt_one_for_all_or_one_for_each(schema, build, tmp_path):
    one = VisualTokenizer("test_vit", 38, pretrained=False, image_size=96, tune="none")
    each = {"clinical": VisualTokenizer("test_convnext", 38, pretrained=False), "dermoscopy": one}
    image = {m: torch.randn(2, 3, 96, 96) for m in each}
    codes = torch.tensor([[0, 1, -1], [2, -1, 4]])
    for visual in (one, each):
        model = build(schema, visual=visual, modalities=(*each, "report")).eval()
        model.save_pretrained(tmp_path)
        assert torch.equal(read(tmp_path)(image, codes).logits, model(image, codes).logits)


def test_settings_are_plain_json_and_nothing_is_pickled(schema, build, tmp_path):
    build(schema, visual=VisualTokenizer("test_convnext", 38, pretrained=False)).save_pretrained(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["tokenizer"]["schema"] == schema.to_dict()
    assert settings["visual"]["backbone"] == "test_convnext"
    assert settings["visual"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert settings["class_names"] == [str(c) for c in range(17)]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as weights:
        assert "tokenizer.identity" in weights.keys()  # noqa: SIM118


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_their_dtype(dtype, schema, build, batch, tmp_path):
    model = build(schema).to(dtype).eval()
    model.save_pretrained(tmp_path)
    image, codes, _ = batch(schema)
    expected, logits = model(image, codes).logits, read(tmp_path)(image, codes).logits
    assert logits.dtype == dtype
    assert torch.equal(logits, expected)


def test_modules_of_your_own_must_be_passed_again(schema, build, batch, tmp_path):
    model = build(schema, visual=OwnVisual(), fusion=OwnFusion(38, num_heads=2)).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a visual module of your own \(OwnVisual\): pass one like it as visual="):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"a fusion of your own \(OwnFusion\): pass one like it as fusion="):
        read(tmp_path, visual=OwnVisual())
    image, codes, _ = batch(schema)
    again = read(tmp_path, visual=OwnVisual(), fusion=OwnFusion(38, num_heads=2))
    assert torch.equal(again(image, codes).logits, model(image, codes).logits)


def test_a_subclass_of_the_visual_tokenizer_is_a_module_of_your_own(schema, build, batch, tmp_path):
    model = build(schema, visual=DoublingVisual(None, 38, num_features=13)).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a visual module of your own \(DoublingVisual\)"):
        read(tmp_path)
    image, codes, _ = batch(schema)
    again = read(tmp_path, visual=DoublingVisual(None, 38, num_features=13))
    assert torch.equal(again(image, codes).logits, model(image, codes).logits)


def test_another_schema_of_the_same_shape_is_refused(schema, build, tmp_path):
    swapped = AttributeSchema(
        [schema.attributes[0], Attribute("ulceration", values=("present", "absent")), schema.attributes[2]]
    )
    model = build(schema)
    model.save_pretrained(tmp_path)
    message = (
        r"has another schema: attribute 'ulceration' has values \['absent', 'present'\] against \['present', 'absent'\]"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, schema=swapped)
    with pytest.raises(ValueError, match="trained with another schema: attribute 'ulceration'"):
        build(swapped).load_state_dict(model.state_dict())
    build(schema).load_state_dict(model.state_dict())


def test_a_failing_write_leaves_the_previous_checkpoint(schema, build, tmp_path, monkeypatch):
    build(schema, hiding=HideAttributes(0.2, whole=0.1, sparse=0.2)).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(model, path):
        with open(path, "wb") as file:
            file.write(b"half of the weights")
        raise OSError("no space left on device")

    monkeypatch.setattr("alignedfusion.modules.checkpoint.save_model", fail)
    with pytest.raises(OSError, match="no space left on device"):
        build(schema).save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert read(tmp_path).hiding.p == 0.2


def test_settings_that_cannot_be_written_leave_the_previous_checkpoint(schema, build, tmp_path):
    build(schema).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = build(schema, depth=1)
    other.hiding.p = object()  # not a JSON type
    with pytest.raises(TypeError, match="not JSON serializable"):
        other.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_class_names_of_numpy_can_be_saved(schema, build, tmp_path):
    build(schema, class_names=np.arange(17)).save_pretrained(tmp_path)
    assert read(tmp_path).class_names == tuple(str(c) for c in range(17))


def test_a_folder_without_a_model_is_named(schema, build, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no saved model in '.*none': config.json and model.safetensors are missing"
    ):
        read(tmp_path / "none")
    build(schema).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for number, cure in ((1, "train the model again"), (4, "update alignedfusion")):
        (tmp_path / "config.json").write_text(json.dumps({**settings, "format": number}))
        with pytest.raises(ValueError, match=f"has format {number}, this release reads 2 and 3: {cure}"):
            read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json' was not written by alignedfusion"):
        read(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no saved model in '.*': model.safetensors is missing"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["intermediate", "joint"])
def test_a_folder_of_format_2_gives_the_same_predictions(name):
    folder = Path(__file__).parents[1] / "fixtures" / f"saved_by_0_1_0_{name}"
    case = load_file(folder / "case.safetensors")
    image = {m: case[m] for m in ("clinic", "derm")}
    model = read(folder)
    out = model(image, case["codes"])
    # Bit-equal on the machine that wrote them; another processor may sum in another order.
    torch.testing.assert_close(out.logits, case["logits"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.reconstruction, case["reconstruction"], rtol=1e-6, atol=1e-6)
    assert model.class_names == ("nevus", "melanoma", "other")
    assert (model.hiding.p, model.hiding.whole, model.reconstructor.fill) == (0.3, 0.1, "once")
    if name == "intermediate":
        torch.testing.assert_close(model.branch_weights, torch.tensor([0.5, 0.9, 0.3]))


def edited(folder, change):
    """Change the settings of a saved model."""
    settings = json.loads((folder / "config.json").read_text())
    change(settings)
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["tokenizer"].update(dim=10**6), "tokenizer.dim asks for 1000000, the weights have 38"),
        (lambda s: s["fusion"].update(dim=10**6), "fusion.dim asks for 1000000, the weights have 38"),
        (lambda s: s["fusion"].update(depth=10**6), "fusion.depth=1000000, the weights have far fewer"),
        (lambda s: s["fusion"].update(num_tokens=10**6), "fusion.num_tokens=1000000, the weights have far fewer"),
        (lambda s: s["visual"].update(num_features=10**6), "num_features=1000000, no weight is as wide"),
        (lambda s: s["visual"].update(image_size=10**6), "images of 1000000 pixels; 8192 is the maximum"),
        (lambda s: s.update(class_names=["a", "b"]), "class_names asks for 2, the weights have 17"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_built(
    change, message, schema, build, tmp_path, monkeypatch
):
    build(schema).save_pretrained(tmp_path)
    edited(tmp_path, change)
    monkeypatch.setattr(AlignedFusionClassifier, "from_dict", None)  # must not be reached
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "local-dir:/etc", "https://example.org/x", "../x"])
def test_a_saved_backbone_with_a_url_or_path_is_refused(name, schema, build, tmp_path, monkeypatch):
    own = VisualTokenizer("test_vit", 38, pretrained=False)
    build(schema, visual=own).save_pretrained(tmp_path)
    edited(tmp_path, lambda settings: settings["visual"].update(backbone=name))
    monkeypatch.setattr("timm.create_model", None)  # must not be reached
    with pytest.raises(ValueError, match=r"not the plain name of a timm model.*pass it as visual="):
        read(tmp_path)
    assert read(tmp_path, visual=own).visual is own


def test_damaged_and_unusable_files_are_named(schema, build, tmp_path):
    model = build(schema)
    model.save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:5000])
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged .*copy the model again"):
        read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text('{"library": "alig')
    with pytest.raises(ValueError, match=r"config.json' is not JSON .*copy the model again"):
        read(tmp_path)
    with torch.no_grad():
        model.head[2].bias[3] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"1 weights in .* are nan or infinite, such as 'head.2.bias'"):
        read(tmp_path)


def test_any_name_of_a_column_can_be_a_modality(schema, build, batch, tmp_path):
    image, codes, labels = batch(schema)
    names = ("img.front", "type", "keys", "values", "train", "training", "", "modality_", "größe", "forward")
    for fusion in (IntermediateTokenFusion, JointSelfAttention, CrossAttention, RemixFormerFusion, MSMAFusion):
        fused = fusion(38, modalities=(*names, "report"), depth=1, num_heads=2)
        visual = {name: VisualTokenizer(None, 38, num_features=13) for name in names}
        model = build(schema, fusion=fused, visual=visual)
        images = {name: image + i for i, name in enumerate(names)}
        model(images, codes, labels).loss.backward()
        model.save_pretrained(tmp_path)
        assert torch.equal(read(tmp_path)(images, codes).logits, model.eval()(images, codes).logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("format"),
        lambda s: s.update(format="three"),
        lambda s: s.pop("tokenizer"),
        lambda s: s.update(tokenizer=[1]),
        lambda s: s["tokenizer"].pop("schema"),
        lambda s: s.update(fusion="joint"),
        lambda s: s.pop("hiding"),
        lambda s: s["fusion"].update(heads=2),
        lambda s: s["hiding"].update(p="often"),
    ],
)
def test_incomplete_or_edited_settings_are_an_error_that_names_the_folder(change, schema, build, tmp_path):
    build(schema).save_pretrained(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read(tmp_path)
