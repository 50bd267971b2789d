"""Every encoder of docs/encoders.md, by shape: random weights, on the meta device, where no number is stored or computed.

Encoders have two layers here and all of them under `slow`; text encoders one, and a small vocabulary. Names and licences cannot
be tested.
"""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from monai.networks.nets.segresnet_ds import SegResEncoder
from safetensors.torch import save_file

from alignedfusion import TextEncoder, VisualTokenizer

timm = pytest.importorskip(
    "timm", minversion="1.0.21", reason="older releases build no vision transformer on the meta device"
)

DOCS = Path(__file__).parents[2] / "docs"


def load_tables():
    spec = importlib.util.spec_from_file_location("encoders", DOCS / "encoders.py")
    encoders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(encoders)
    return encoders


TABLES = load_tables()
ROWS = TABLES.read()
PAGE = TABLES.PAGE.read_text("utf-8")


def rows(kind):
    return pytest.mark.parametrize("row", ROWS[kind], ids=lambda row: row["name"])


layers = pytest.mark.parametrize("layers", [2, pytest.param(None, marks=pytest.mark.slow, id="all")])


def shape(row):
    tokens, width = row["tokens"].split(" x ")
    return 1, int(tokens), int(width)


@pytest.fixture(scope="module")
def page():
    """The names that the page's first Python block defines."""
    names = {}
    exec(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0], names)  # the page is ours
    return names


def write_repository(folder, row, weights=None):
    """A folder like the repository of a row."""
    args = dict(row["config"])
    architecture = args.pop("architecture")
    size = [3, row["input"], row["input"]]
    config = {"input_size": size, "fixed_input_size": True, "num_classes": 0, "mean": [0.5] * 3, "std": [0.5] * 3}
    config.update(interpolation="bicubic", crop_pct=1.0, first_conv="patch_embed.proj", classifier="head")
    (folder / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": args, "pretrained_cfg": config})
    )
    if weights is not None:
        save_file(weights, folder / "model.safetensors")
    return f"local-dir:{folder}"


def test_the_page_has_the_tables_of_the_file():
    assert TABLES.fill(PAGE) == PAGE
    assert sum(map(len, ROWS.values())) > 20
    for row in ROWS["own"]:
        assert f"def {row['tokens_of']}(" in PAGE


@layers
@rows("timm")
def test_a_timm_model_of_a_repository(row, layers, tmp_path):
    name = write_repository(tmp_path, row)
    args = row.get("args", {}) | ({"depth": layers} if layers else {})
    with torch.device("meta"):
        visual = VisualTokenizer(name, 16, pretrained=False, tune="none", timm_args=args)
        image = torch.empty(1, *visual.preprocessing["input_size"])
        assert image.shape[-1] == row["input"]
        assert visual.features(image).shape == shape(row)
        assert visual(image).shape == (*shape(row)[:2], 16)

        # A trained model is rebuilt without the repository.
        again = VisualTokenizer.from_dict(json.loads(json.dumps(visual.to_dict())))
    assert {n: p.shape for n, p in again.state_dict().items()} == {n: p.shape for n, p in visual.state_dict().items()}
    assert again.preprocessing == visual.preprocessing


@pytest.mark.parametrize("name", ["RadioDino", "Virchow2"])
def test_the_weights_of_a_repository_are_loaded(name, tmp_path):
    (row,) = (row for row in ROWS["timm"] if row["name"] == name)
    small = {"depth": 1, "embed_dim": 48, "num_heads": 2}  # of the same kind, so that the test is quick
    row = {**row, "config": row["config"] | small}
    args = {**row["config"], **row.get("args", {})}
    if "mlp_layer" in args:
        args["mlp_layer"] = timm.layers.SwiGLUPacked
    saved = timm.create_model(args.pop("architecture"), num_classes=0, **args).eval()
    place = write_repository(tmp_path, row, saved.state_dict())
    visual = VisualTokenizer(place, 16, tune="none", timm_args=row.get("args"))
    image = torch.randn(2, 3, 224, 224)
    tokens = saved.forward_features(image)[:, saved.num_prefix_tokens :]
    assert torch.equal(visual.features(image), tokens)
    if "args" in row:
        with pytest.raises(ValueError, match=r"does not fit timm's .*arguments of timm.create_model .* as timm_args"):
            VisualTokenizer(place, 16)


def build_random(settings, layers):
    if "open_clip" in settings:
        import open_clip

        vision = {"image_size": 224, "layers": layers or 12, "width": 768, "patch_size": 16}
        return open_clip.create_model(settings["open_clip"], device="meta", vision_cfg=vision).visual
    with torch.device("meta"):
        if "timm" in settings:
            return timm.create_model(settings["timm"], depth=layers)
        if "monai" in settings:
            return SegResEncoder(spatial_dims=3, in_channels=1, init_filters=32, blocks_down=(1, 2, 2, 4, 4))
        settings = settings | ({"num_hidden_layers": layers} if layers else {})
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**settings))


@layers
@rows("own")
def test_an_encoder_of_another_library(row, layers, page):
    encoder = build_random(row["random"], layers)
    assert any(kind in row["load"] for kind in ("open_clip", "AutoModel", type(encoder).__name__))
    size = (1, row["input"], row["input"], row["input"]) if row["images"] == "CT volumes" else (3, *[row["input"]] * 2)
    read = page[row["tokens_of"]]
    with torch.device("meta"):
        image = torch.empty(1, *size)
        visual = page["FrozenEncoder"](encoder, read, shape(row)[2], 16)
        assert read(encoder, image).shape == shape(row)
        assert visual(image).shape == (*shape(row)[:2], 16)
    assert not visual.train().encoder.training
    assert {name.split(".")[0] for name, p in visual.named_parameters() if p.requires_grad} == {"project"}


def test_weights_of_eva_x_are_converted():
    patches = {"patch_size": 16, "ref_feat_shape": [14, 14]}
    assert f"patches = {json.dumps(patches)}" in PAGE
    visual = VisualTokenizer("eva02_tiny_patch14_224", 16, pretrained=False, image_size=224, timm_args=patches)
    wanted = {name: torch.randn_like(value) for name, value in visual.backbone.state_dict().items()}
    renamed = {"fc_norm": "norm", "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"}
    saved = {"mask_token": torch.zeros(1, 1, 192)}  # with the names of the pretraining on masked images
    for name, value in wanted.items():
        for here, there in renamed.items():
            name = name.replace(here, there)
        saved[name] = value
    visual.backbone.load_state_dict(timm.models.eva.checkpoint_filter_fn(saved, visual.backbone))
    assert all(torch.equal(value, wanted[name]) for name, value in visual.backbone.state_dict().items())


def write_text_encoder(folder, settings):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "age", "is", "old"]
    (folder / "vocab.txt").write_text("\n".join(words))
    width = settings.get("dim", settings.get("hidden_size"))
    small = {"n_layers": 1} if "dim" in settings else {"num_hidden_layers": 1, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(**settings, **small, vocab_size=len(words), pad_token_id=0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return width


@rows("text")
def test_a_text_encoder(row, tmp_path):
    width = write_text_encoder(tmp_path, row["random"])
    folder = tmp_path
    if "needs" in row:  # its code is not run; the weights are those of a BERT
        config = json.loads((folder / "config.json").read_text())
        config.update(model_type="cxr-bert", auto_map={"AutoModel": "modeling_cxrbert.CXRBertModel"})
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="no text encoder at"):
            TextEncoder(str(folder))
        for part in (transformers.BertModel, transformers.BertTokenizer):
            part.from_pretrained(folder).save_pretrained(tmp_path / "cxr-bert")
        folder = tmp_path / "cxr-bert"
    vectors = TextEncoder(str(folder)).encode(["age is old", "age"])
    assert vectors.shape == (2, width) == (2, 768)
    assert vectors.isfinite().all()
