"""Names of timm models beyond timm's own: repositories and folders, arguments, and what a saved model may ask for."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.base import clone

from alignedfusion import VisualTokenizer
from alignedfusion.commands import main as cli
from alignedfusion.modules import timm_source
from alignedfusion.modules.backbones import Backbone, locate_weights
from alignedfusion.modules.timm_source import find_timm_model
from alignedfusion.presets import build_visual
from alignedfusion.sklearn import AlignedFusionEstimator

SMALL = {"embed_dim": 46, "depth": 2, "num_heads": 2}


@pytest.fixture
def repository(tmp_path):
    """A folder with a small ViT of 32 pixels, its `config.json`, and both kinds of weights."""
    folder = tmp_path / "repository"
    folder.mkdir()
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **SMALL)
    save_file(model.state_dict(), folder / "model.safetensors")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {"input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": 0}
    args = {**SMALL, "img_size": 32, "num_classes": 0, "in_chans": 3}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": args, "pretrained_cfg": config})
    )
    return folder


@pytest.fixture
def hub(repository, tmp_path, monkeypatch):
    """A hub with that repository as owner/model; returns the files that were downloaded."""
    commit = tmp_path / "cache" / "c0ffee"
    downloaded = []

    def download(name, *, files, revision=None):
        assert (name, revision) in {("owner/model", None), ("owner/model", "v2"), ("owner/model", "c0ffee")}
        commit.mkdir(parents=True, exist_ok=True)
        for file in files:
            if (repository / file).is_file():
                shutil.copy(repository / file, commit)
                downloaded.append(file)
        return commit

    monkeypatch.setattr(timm_source, "download", download)
    return downloaded


def test_a_folder_gives_architecture_weights_and_preprocessing(repository):
    visual = VisualTokenizer(f"local-dir:{repository}", 38, tune="none")
    assert visual.architecture == "vit_tiny_patch16_224"
    assert visual.timm_args == SMALL
    assert visual.preprocessing["input_size"] == [3, 32, 32]
    assert visual.preprocessing["mean"] == [0.1, 0.2, 0.3]
    saved = torch.load(repository / "pytorch_model.bin", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in visual.backbone.state_dict().items())
    assert visual.features(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 46)
    larger = VisualTokenizer(f"local-dir:{repository}", 38, image_size=64)
    assert larger.features(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 46)


@pytest.mark.parametrize("name", ["hf-hub:owner/model", "hf_hub:owner/model", "hf-hub:owner/model@v2"])
def test_a_repository_is_downloaded_file_by_file(name, hub, repository):
    visual = build_visual(Backbone(name), 38)
    assert hub == ["config.json", "model.safetensors"]  # not the same weights again as a pickle
    local = VisualTokenizer(f"local-dir:{repository}", 38)
    assert all(
        torch.equal(a, b)
        for a, b in zip(visual.backbone.state_dict().values(), local.backbone.state_dict().values(), strict=True)
    )
    assert visual.backbone_name == name
    assert visual.to_dict()["backbone"] == "vit_tiny_patch16_224"


def test_a_pickle_is_downloaded_where_there_is_nothing_else(hub, repository):
    (repository / "model.safetensors").unlink()
    assert find_timm_model("hf-hub:owner/model").weights.name == "pytorch_model.bin"
    assert hub == ["config.json", "pytorch_model.bin"]


def test_random_weights_need_only_the_configuration(hub):
    VisualTokenizer("hf-hub:owner/model", 38, pretrained=False)
    assert hub == ["config.json"]
    assert locate_weights("hf-hub:owner/model") == {}  # what `train` calls first
    assert hub[1:] == ["config.json", "model.safetensors"]


def test_a_local_file_replaces_the_weights_of_a_repository(hub, repository):
    other = {name: value + 1 for name, value in torch.load(repository / "pytorch_model.bin").items()}
    torch.save(other, repository / "other.pth")
    visual = VisualTokenizer("hf-hub:owner/model", 38, pretrained=repository / "other.pth")
    assert all(torch.equal(value, other[name]) for name, value in visual.backbone.state_dict().items())
    assert hub == ["config.json"]


def test_weights_of_the_size_that_is_asked_for_are_loaded_and_those_of_the_native_size_resized(tmp_path):
    file = tmp_path / "weights.safetensors"
    native, tuned = (VisualTokenizer("test_vit", 38, pretrained=False, image_size=size) for size in (None, 48))
    save_file(tuned.backbone.state_dict(), file)  # as `alignedfusion tune` writes it
    again = VisualTokenizer("test_vit", 38, pretrained=file, image_size=48)
    assert all(
        torch.equal(value, again.backbone.state_dict()[name]) for name, value in tuned.backbone.state_dict().items()
    )
    with pytest.raises(ValueError, match=r"such as 'pos_embed'.*the image_size that it was saved for"):
        VisualTokenizer("test_vit", 38, pretrained=file)
    save_file(native.backbone.state_dict(), file)
    resized = VisualTokenizer("test_vit", 38, pretrained=file, image_size=48)
    native.backbone.set_input_size(img_size=48)
    assert torch.equal(resized.backbone.pos_embed, native.backbone.pos_embed)


@pytest.mark.parametrize(("more", "name"), [({"depth": 3}, "blocks.2."), ({"init_values": 1e-5}, "blocks.0.ls1.gamma")])
def test_weights_of_a_larger_model_are_refused_and_those_of_a_head_are_not(more, name, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", img_size=32, **SMALL).state_dict(), file)
    settings = {"image_size": 32, "timm_args": SMALL}
    VisualTokenizer("vit_tiny_patch16_224", 38, pretrained=file, **settings)
    save_file(timm.create_model("vit_tiny_patch16_224", img_size=32, **{**SMALL, **more}).state_dict(), file)
    with pytest.raises(ValueError, match=rf"would leave out \d+ of its tensors, such as '{name}"):
        VisualTokenizer("vit_tiny_patch16_224", 38, pretrained=file, **settings)


def test_arguments_replace_those_of_the_repository(repository):
    with pytest.raises(ValueError, match=r"does not fit timm's 'vit_tiny_patch16_224'.*as timm_args"):
        VisualTokenizer(f"local-dir:{repository}", 38, timm_args={"embed_dim": 48})
    visual = VisualTokenizer(f"local-dir:{repository}", 38, pretrained=False, timm_args={"embed_dim": 48})
    assert visual.timm_args == {**SMALL, "embed_dim": 48}


def test_a_model_is_saved_and_rebuilt_without_its_repository(repository, schema, build, tmp_path):
    visual = VisualTokenizer(f"local-dir:{repository}", 38, timm_args={"act_layer": "silu"})
    model = build(schema, visual=visual).eval()
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(repository)
    again = type(model).from_pretrained(tmp_path / "saved").eval()
    image, codes = torch.randn(2, 3, 32, 32), torch.tensor([[0, -1, 2], [-1, 1, -1]])
    assert torch.equal(again(image, codes).logits, model(image, codes).logits)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert f"encoded by `local-dir:{repository}`" in card


def test_a_folder_without_a_timm_model_is_refused(repository):
    for file in ("model.safetensors", "pytorch_model.bin"):
        (repository / file).unlink()
    with pytest.raises(ValueError, match=r"has no weights: .* has none of model.safetensors, pytorch_model.bin"):
        VisualTokenizer(f"local-dir:{repository}", 38)
    (repository / "config.json").write_text('{"architectures": ["Dinov2Model"], "model_type": "dinov2"}')
    with pytest.raises(ValueError, match=r"is not a timm model: .*wrap models of transformers or open_clip"):
        VisualTokenizer(f"local-dir:{repository}", 38)
    with pytest.raises(ValueError, match="is not a timm model"):
        VisualTokenizer("local-dir:nowhere", 38)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"checkpoint_path": "/etc/passwd"}, "timm_args cannot have 'checkpoint_path'"),
        ({"pretrained": True}, "timm_args cannot have 'pretrained'"),
        ({"cache_dir": "/tmp"}, "timm_args cannot have 'cache_dir'"),
        ({"img_size": 64}, "timm_args cannot have 'img_size': .* image_size, in_chans and pretrained are arguments"),
        ({"act_layer": torch.nn.SiLU}, r"timm_args has act_layer=<class .*name layers, such as .*act_layer='silu'"),
        (
            {"mlp_layer": "exec"},
            "timm_args has mlp_layer='exec'; known are Mlp, GluMlp, SwiGLU, SwiGLUPacked, GatedMlp",
        ),
        ({"heads": 3}, "timm cannot build 'test_vit' with timm_args={'heads': 3}: .*heads"),
    ],
)
def test_arguments_that_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        VisualTokenizer("test_vit", 38, pretrained=False, timm_args=args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"checkpoint_path": "/etc/passwd"}, "timm_args cannot have 'checkpoint_path'"),
        ({"depth": 10**6}, "asks for timm_args with depth=1000000, the weights have far fewer"),
        ({"window": [7, 10**6]}, r"asks for timm_args with window=\[7, 1000000\], the weights have far fewer"),
    ],
)
def test_a_saved_model_cannot_name_files_or_huge_sizes(args, message, schema, build, tmp_path):
    model = build(schema, visual=VisualTokenizer("test_vit", 38, pretrained=False))
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["visual"]["timm_args"] = args
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        type(model).from_pretrained(tmp_path)


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """`cases.csv` with 30 pictures, in the current folder."""
    monkeypatch.chdir(tmp_path)
    table = "file,kind,sign\n" + "".join(f"{i}.png,{'ab'[i % 2]},{'+-'[i % 4 // 2]}\n" for i in range(30))
    Path("cases.csv").write_text(table)
    for i in range(30):
        Image.new("RGB", (32, 32), (80 * (i % 2) + i, 9 * (i % 7), 5)).save(f"{i}.png")
    return pd.read_csv("cases.csv")


def test_tokens_of_a_repository_need_its_name_again(repository, cases):
    options = ["--backbone", f"local-dir:{repository}", "--timm-args", '{"act_layer": "silu"}']
    assert cli.main(["tokens", "cases.csv", "--image", "file", "-o", "tokens", *options]) == 0
    train = ["train", "cases.csv", "--tokens", "tokens", "--image", "file", "--label", "kind", "--epochs", "1"]
    train += ["-o", "run"]
    assert cli.main(train) != 0  # the folder of tokens may come from someone else
    assert cli.main([*train, *options]) == 0
    assert cli.main(["predict", "run", "--image", "0.png"]) == 0
    with pytest.raises(SystemExit):
        cli.main([*train, "--timm-args", "depth=2"])


def test_the_estimator_takes_a_repository(repository, cases):
    settings = {"backbone": f"local-dir:{repository}", "timm_args": {"act_layer": "silu"}, "epochs": 1}
    estimator = clone(AlignedFusionEstimator(images="file", **settings))
    estimator.fit(cases.drop(columns="kind"), cases["kind"])
    assert estimator.model_.visual.timm_args == {**SMALL, "act_layer": "silu"}
    assert estimator.predict(cases.drop(columns="kind")).shape == (30,)
