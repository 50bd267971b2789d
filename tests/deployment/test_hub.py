import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, hub_server
from huggingface_hub import constants, file_download
from huggingface_hub.utils import HfHubHTTPError
from torch import nn

from alignedfusion import AlignedFusionClassifier
from alignedfusion.deployment import model_card, push_to_hub
from alignedfusion.modules import checkpoint

read = AlignedFusionClassifier.from_pretrained


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A local model hub instead of the real one, and an empty cache."""
    with hub_server() as served:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        for module in (constants, file_download):  # older releases read it once, in file_download
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # A protocol that this server and older releases do not support.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.chdir(tmp_path)
        yield served


@pytest.fixture
def logits(schema, batch):
    image, codes, _ = batch(schema)
    return lambda model: model.eval()(image, codes).logits


def push(model, name="clinic/skin", **options):
    return push_to_hub(model, name, token=TOKEN, **options)


def card_there(served, name="clinic/skin"):
    return served.repositories[name].commits[-1][1]["README.md"].decode()


# The hub's library warns about itself when it uploads large files with the older protocol.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
@pytest.mark.parametrize("large", [{"model.safetensors"}, set()])
def test_a_pushed_model_predicts_bit_for_bit(large, served, schema, build, logits):
    served.large = large
    model = build(schema)
    address = push(model)
    repository = served.repositories["clinic/skin"]
    assert address == f"{served.address}/clinic/skin/commit/{repository.commits[-1][0]}"
    assert set(repository.commits[-1][1]) == {"config.json", "model.safetensors", "README.md"}
    assert torch.equal(logits(read("clinic/skin", token=TOKEN, schema=schema)), logits(model))
    assert (len(served.blobs) == 1) is bool(large)


def test_a_new_repository_is_private_by_default(served, schema, build):
    push(build(schema))
    push(build(schema), "clinic/open", private=False)
    assert [repository.private for repository in served.repositories.values()] == [True, False]


def test_the_commit_has_the_given_title(served, schema, build):
    push(build(schema))
    push(build(schema, depth=1), commit_message="one round")
    assert served.repositories["clinic/skin"].titles == ["Model saved by alignedfusion 0.1.0", "one round"]


def test_a_revision_is_the_model_of_that_commit(served, schema, build, logits):
    old, new = build(schema, depth=1), build(schema, depth=3)
    first = push(old).rsplit("/", 1)[1]
    push(new)
    assert torch.equal(logits(read("clinic/skin", token=TOKEN, revision=first)), logits(old))
    assert torch.equal(logits(read("clinic/skin", token=TOKEN)), logits(new))


def test_weights_and_settings_are_those_of_one_commit(served, schema, build, logits, monkeypatch):
    old = build(schema)
    push(old, private=False)
    download = checkpoint.download

    def download_and_push(name, files, **options):
        found = download(name, files=files, **options)
        if files == ("config.json",):
            push(build(schema, depth=1))
        return found

    monkeypatch.setattr(checkpoint, "download", download_and_push)
    assert torch.equal(logits(read("clinic/skin")), logits(old))


def test_a_second_download_reads_the_cache(served, schema, build, logits, tmp_path, monkeypatch):
    model = build(schema)
    push(model, private=False)
    read("clinic/skin", cache_dir=tmp_path / "mine")
    served.log.clear()
    read("clinic/skin", cache_dir=tmp_path / "mine")
    assert not [path for _, path in served.log if "resolve" in path]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # an unreachable address
    assert torch.equal(logits(read("clinic/skin", cache_dir=tmp_path / "mine")), logits(model))
    with pytest.raises(FileNotFoundError, match=r"'clinic/skin' is not a local folder, and http.* cannot be reached"):
        read("clinic/skin", cache_dir=tmp_path / "another")


def test_only_a_model_and_its_card_are_fetched(served, schema, build, tmp_path):
    build(schema).save_pretrained(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    served.make(
        "clinic/skin",
        {**files, "README.md": b"# Skin", "pytorch_model.bin": b"never unpickled", "cases.csv": b"patient,age\n"},
    )
    read("clinic/skin")
    fetched = {path.rsplit("/", 1)[1] for method, path in served.log if "resolve" in path}
    assert fetched == {"config.json", "model.safetensors", "README.md"}


def test_a_folder_precedes_a_repository_of_the_same_name(served, schema, build, logits, tmp_path):
    here, there = build(schema, depth=1), build(schema, depth=3)
    push(there)
    here.save_pretrained("clinic/skin")
    served.log.clear()
    assert torch.equal(logits(read("clinic/skin")), logits(here))
    assert served.log == []
    with pytest.raises(ValueError, match="revision='main' belongs to a repository, but 'clinic/skin' is not one"):
        read("clinic/skin", revision="main")


@pytest.mark.parametrize(
    "name", ["runs", "/runs/first", "./runs", "../runs", "a/b/c", "~/runs", "runs/", Path("runs/first")]
)
def test_names_of_folders_need_no_hub(name, served):
    with pytest.raises(FileNotFoundError, match="no saved model in"):
        read(name)
    assert served.log == []


def test_an_unknown_name_is_neither_a_folder_nor_a_repository(served):
    message = r"'clinic/skni' is not a local folder, and http://127\.\S+ has no repository of that name .*token="
    with pytest.raises(FileNotFoundError, match=message):
        read("clinic/skni")


def test_an_unreachable_hub_is_named_quickly(served, schema, build, tmp_path, monkeypatch):
    with hub_server() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.address)
    start = time.perf_counter()
    with pytest.raises(
        FileNotFoundError, match=f"'runs/frist' is not a local folder, and {gone.address} cannot be reached"
    ):
        read("runs/frist")
    with pytest.raises(ConnectionError, match=f"{gone.address} cannot be reached; nothing was uploaded"):
        push(build(schema))
    assert time.perf_counter() - start < 10


def test_a_private_repository_needs_the_token(served, schema, build):
    push(build(schema))
    with pytest.raises(FileNotFoundError, match=r"no repository of that name that you may read: .*`hf auth login`"):
        read("clinic/skin")


def test_an_unknown_revision_is_named(served, schema, build):
    push(build(schema), private=False)
    with pytest.raises(FileNotFoundError, match="the repository of that name has no revision 'v2'"):
        read("clinic/skin", revision="v2")


def test_repositories_with_other_files_are_refused_before_their_weights_are_downloaded(served, schema, build, tmp_path):
    served.make("other/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"..."})
    served.make("other/list", {"config.json": b"[]", "model.safetensors": b"..."})
    served.make("other/data", {"cases.csv": b"a,b\n"})
    for name in ("other/bert", "other/list"):
        with pytest.raises(
            ValueError, match=f"config.json of the repository '{name}' was not written by alignedfusion"
        ):
            read(name)
    with pytest.raises(FileNotFoundError, match=r"has no alignedfusion model: config\.json is missing"):
        read("other/data")
    assert not [path for _, path in served.log if "safetensors" in path]
    build(schema).save_pretrained(tmp_path / "model")
    settings = (tmp_path / "model" / "config.json").read_bytes()
    served.make("other/half", {"config.json": settings})
    with pytest.raises(FileNotFoundError, match=r"has no alignedfusion model: model\.safetensors is missing"):
        read("other/half")
    served.make("other/new", {"config.json": json.dumps({**json.loads(settings), "format": 4}).encode()})
    with pytest.raises(
        ValueError, match="repository 'other/new' has format 4, this release reads 2 and 3: update alignedfusion"
    ):
        read("other/new")


def test_a_model_that_cannot_be_saved_creates_no_repository(served, schema, build):
    class OwnTokenizer(nn.Module):
        pass

    model = build(schema)
    model.tokenizer = OwnTokenizer()
    with pytest.raises(ValueError, match="only models with an AttributeTokenizer can be saved"):
        push(model)
    assert served.repositories == {}


def test_a_wrong_token_raises_the_hub_s_error(served, schema, build):
    with pytest.raises(HfHubHTTPError, match="401"):
        push_to_hub(build(schema), "clinic/skin", token="hf_wrong")
    assert served.repositories == {}


def test_a_card_is_pushed_with_its_own_weights(served, schema, build, tmp_path):
    build(schema).save_pretrained(tmp_path / "run")
    report = {
        "missing": [
            {"missing": 0.0, "accuracy": 0.75, "balanced_accuracy": 0.5, "macro_auc": 0.6, "calibration_error": 0.1}
        ]
    }
    model_card.write(build(schema), tmp_path / "run", report=report)
    (tmp_path / "run" / "predictions.csv").write_text("patient,predicted\n")

    push(read(tmp_path / "run"))
    assert "75.0 %" in card_there(served)
    assert set(served.repositories["clinic/skin"].commits[-1][1]) == {"config.json", "model.safetensors", "README.md"}
    assert 'from_pretrained("clinic/skin")' in card_there(served)
    assert model_card.is_generated(card_there(served))

    push(read("clinic/skin", token=TOKEN), "clinic/copy")
    assert card_there(served, "clinic/copy") == model_card.with_name(card_there(served), "clinic/copy")

    changed = read(tmp_path / "run")
    changed.branch_weights.mul_(2.0)  # other predictions, so the metrics are no longer valid
    push(changed)
    assert "75.0 %" not in card_there(served)


def test_a_card_that_somebody_edited_is_never_overwritten(served, schema, build, tmp_path):
    model = build(schema)
    push(model)
    edited = card_there(served).replace("Research on", "Teaching on")
    served.repositories["clinic/skin"].commit("by hand", {"README.md": edited.encode()})
    push(build(schema, depth=1))
    assert card_there(served) == edited
    assert len(served.repositories["clinic/skin"].commits) == 3

    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    with pytest.warns(
        UserWarning, match=r"README.md in 'clinic/skin' was edited there and is kept, so yours was not uploaded"
    ):
        push(model)
    assert card_there(served) == edited
    push(model, "clinic/another")
    assert card_there(served, "clinic/another") == "---\nlicense: mit\n---\nMine.\n"


def test_a_folder_takes_the_place_of_a_repository(served, schema, build, logits, tmp_path):
    row = {"missing": 0.0, "accuracy": 0.75, "balanced_accuracy": 0.5, "macro_auc": 0.6, "calibration_error": 0.1}
    model, report = build(schema), {"missing": [row]}
    model.save_pretrained(tmp_path / "run")
    model_card.write(model, tmp_path / "run", report=report)
    with_metrics = (tmp_path / "run" / "README.md").read_text()

    for name in (tmp_path / "copy", str(tmp_path / "other"), "./here"):
        address = push_to_hub(read(tmp_path / "run"), name)
        assert address == str(Path(name).resolve())
        assert {path.name for path in Path(name).iterdir()} == {"config.json", "model.safetensors", "README.md"}
        assert torch.equal(logits(read(address)), logits(model))
        assert (Path(name) / "README.md").read_text() == with_metrics  # the metrics of the same weights go along

    (tmp_path / "copy" / "README.md").write_text("Mine.\n")
    push_to_hub(read(tmp_path / "run"), tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "Mine.\n"
    push_to_hub(build(schema, depth=1), tmp_path / "other")
    assert (tmp_path / "other" / "README.md").read_text() != with_metrics
    assert served.log == []  # nothing left this machine


def test_a_remote_card_that_cannot_be_read_is_not_overwritten(served, schema, build):
    push(build(schema))
    served.repositories["clinic/skin"].commit("by hand", {"README.md": b"Edited.\n"})
    served.refused = {"README.md"}
    with pytest.raises(HfHubHTTPError, match="403"):
        push(build(schema, depth=1))
    assert card_there(served) == "Edited.\n"
    assert len(served.repositories["clinic/skin"].commits) == 2


def test_loading_a_folder_imports_no_hub(schema, build, tmp_path):
    build(schema).save_pretrained(tmp_path)
    script = f"""
import sys
from alignedfusion import AlignedFusionClassifier
AlignedFusionClassifier.from_pretrained({str(tmp_path)!r})
print("huggingface_hub" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert out == "False\n"


def test_the_lines_of_the_readme_share_a_model(served, schema, build, logits, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"## Share it.*?```py\n(.*?)```", readme, flags=re.DOTALL)
    model = build(schema)
    model.save_pretrained(tmp_path / "runs" / "first")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    names = {"AlignedFusionClassifier": AlignedFusionClassifier}
    exec(compile(code, "README.md", "exec"), names)  # the README of this project
    assert torch.equal(logits(names["model"]), logits(model))
    (repository,) = served.repositories.values()
    assert repository.private
