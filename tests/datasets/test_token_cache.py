import json
import os
import pickle
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alignedfusion import AlignedFusionClassifier, VisualTokenizer, presets
from alignedfusion.commands import main as cli
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import CachedCases, collate
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.images import read_image
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.token_cache import TokenCache, TokenFile
from alignedfusion.deployment.prediction import predict_case
from alignedfusion.evaluation import missing_sweep
from alignedfusion.modules.backbones import Backbone
from alignedfusion.tables.files import lock_output
from alignedfusion.training import TrainingSettings, fit, token_writer

README = Path(__file__).parents[2] / "README.md"
COUNT = 61
SMALL = {"batch_size": 7, "progress": False}


def small(weights, name="test_vit", image_size=48):
    return Backbone(name, pretrained=weights, image_size=image_size)


def save_weights(path, seed):
    torch.manual_seed(seed)
    torch.save(timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """61 pictures, red for one kind and blue for the other, `cases.csv` and `weights.pth`."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        pixels = rng.integers(0, 120, (29, 31, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 130
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"file": f"{i}.png", "kind": "ab"[i % 2], "sign": "+-"[i % 4 // 2], "size": "sml"[i % 3]})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    save_weights(folder / "weights.pth", 3)
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return [folder / f"{i}.png" for i in range(COUNT)]


@pytest.fixture(scope="module")
def cache(folder, paths, tmp_path_factory):
    return token_writer.write(
        paths,
        tmp_path_factory.mktemp("t") / "tokens",
        backbone=small(folder / "weights.pth"),
        **SMALL,
    )


def features(folder, paths, dtype=torch.bfloat16):
    """What the tokens must be, computed without the cache and one image at a time."""
    visual = VisualTokenizer("test_vit", 5, pretrained=folder / "weights.pth", image_size=48).eval()
    with torch.no_grad():
        images = [visual.transform()(read_image(path)) for path in paths]
        return torch.stack([visual.features(image[None])[0] for image in images]).to(dtype)


def contents(cache):
    return (cache.folder / "tokens.bin").read_bytes(), (cache.folder / "index.jsonl").read_bytes()


def copy(cache, folder):
    folder.mkdir()
    for name in ("tokens.bin", "index.jsonl", "settings.json"):
        (folder / name).write_bytes((cache.folder / name).read_bytes())
    return folder


# What is in it.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tokens_are_the_features_of_the_backbone(dtype, folder, paths, tmp_path):
    some = [paths[i] for i in (5, 3, 8, 3)]
    cache = token_writer.write(
        some,
        tmp_path / "t",
        backbone=small(folder / "weights.pth"),
        dtype=dtype,
        **SMALL,
    )
    assert len(cache) == 3  # an image is computed once, however often it stands in the table
    read = cache.file.read(cache.rows(some).tolist())
    assert read.shape == (4, 9, 64)
    assert read.dtype == getattr(torch, dtype)
    expected = features(folder, some)
    # Batches of other sizes round otherwise: one unit in the last place of bfloat16.
    torch.testing.assert_close(read.float(), expected.float(), rtol=2**-7, atol=2**-9)
    assert torch.equal(read[1], read[3])


def test_a_row_of_minus_one_is_zeros_and_every_other_its_bytes(tmp_path):
    stored = torch.randn(5, 3, 7).to(torch.float16)
    (tmp_path / "rows").write_bytes(stored.numpy().tobytes())
    read = TokenFile(tmp_path / "rows", (3, 7), torch.float16).read([4, -1, 0, 4])
    assert torch.equal(read[[0, 2, 3]], stored[[4, 0, 4]])
    assert not read[1].any()


def test_a_data_file_that_is_too_short_is_refused(cache, tmp_path):
    short = copy(cache, tmp_path / "short")
    with open(short / "tokens.bin", "ab") as file:
        file.truncate(cache.file.row_bytes * COUNT - 1)
    with pytest.raises(ValueError, match=r"tokens.bin' has 70271 bytes, and its index needs 70272"):
        TokenCache(short)
    with pytest.raises(ValueError, match=r"tokens.bin' ends within row 60"):
        TokenFile(short / "tokens.bin", (9, 64), torch.bfloat16).read([2, 60])


def test_other_folders_and_formats_are_refused(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokens in '.*': `alignedfusion tokens` computes them"):
        TokenCache(tmp_path)
    newer = copy(cache, tmp_path / "newer")
    (newer / "settings.json").write_text(json.dumps({**cache.settings, "format": 2}))
    with pytest.raises(ValueError, match="has format 2, this release reads 1"):
        TokenCache(newer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [0, 64]}, r"have the shape \[0, 64\], not two positive numbers"),
        ({"shape": "9x64"}, "have the shape 9x64"),
        ({"dtype": "int8"}, "have the dtype 'int8'"),
        (None, "has no .'backbone'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change, message, cache, tmp_path):
    folder = copy(cache, tmp_path / "other")
    settings = {"format": 1} if change is None else {**cache.settings, **change}
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"{message}.*compute the tokens again"):
        TokenCache(folder)


def test_a_damaged_index_and_rows_that_are_not_finite_are_refused(cache, tmp_path):
    folder = copy(cache, tmp_path / "damaged")
    with open(folder / "tokens.bin", "r+b") as file:
        file.seek(3 * cache.file.row_bytes)
        file.write(torch.tensor([float("nan")], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes())
    assert TokenCache(folder).file.read([2, 4]).isfinite().all()
    with pytest.raises(ValueError, match=r"row 3 of '.*tokens.bin' is not finite; copy it again"):
        TokenCache(folder).file.read([2, 3])
    with open(folder / "index.jsonl", "ab") as index:
        index.write(b"{\n")
    with open(folder / "tokens.bin", "ab") as file:
        file.write(bytes(cache.file.row_bytes))
    with pytest.raises(ValueError, match=r"index.jsonl' is damaged .*: copy the folder again"):
        TokenCache(folder)


# Writing: interrupted, again, with more.

KILLED = """
import os, signal, sys
from alignedfusion.modules.backbones import Backbone
from alignedfusion.tables.files import lock_output
from alignedfusion.training import token_writer

def write_and_be_killed(moment, folder, weights, *paths):
    calls, whole = 0, os.fsync

    def fsync(number):
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(number)

    os.fsync, token_writer.COMMIT_SECONDS = fsync, -1.0
    backbone = Backbone("test_vit", pretrained=weights, image_size=48)
    token_writer.write(paths, folder, backbone=backbone, batch_size=7, progress=False)

folder, *arguments = sys.argv[1:]
for moment in MOMENTS:
    pid = os.fork()
    if not pid:
        write_and_be_killed(moment, f"{folder}/{moment}", *arguments)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
"""
MOMENTS = (1, 4, 7)  # before the first row counts; a line written but not flushed; rows only


@pytest.fixture(scope="module")
def killed(folder, paths, tmp_path_factory):
    """A folder with one unfinished cache per moment, written by processes that were killed then."""
    parent = tmp_path_factory.mktemp("killed")
    code = KILLED.replace("MOMENTS", str(MOMENTS))
    command = [sys.executable, "-c", code, str(parent), str(folder / "weights.pth"), *map(str, paths)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    return parent


@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_the_same_call_makes_the_same_bytes(moment, cache, folder, paths, killed):
    assert len(TokenCache(killed / str(moment))) < COUNT
    again = token_writer.write(paths, killed / str(moment), backbone=small(folder / "weights.pth"), **SMALL)
    assert contents(again) == contents(cache)


@pytest.mark.parametrize("counted", [0, 7, 14, COUNT])
def test_what_is_not_counted_is_written_anew(counted, cache, folder, paths, tmp_path):
    data, index = contents(cache)
    broken = copy(cache, tmp_path / "broken")
    lines = index.splitlines(keepends=True)
    (broken / "index.jsonl").write_bytes(b"".join(lines[:counted]) + b'["/half/a li')
    (broken / "tokens.bin").write_bytes(data[: counted * cache.file.row_bytes] + b"half a row")
    assert len(TokenCache(broken)) == counted
    again = token_writer.write(paths, broken, backbone=small(folder / "weights.pth"), **SMALL)
    assert contents(again) == (data, index)


def test_an_interruption_keeps_what_was_done(folder, paths, tmp_path, monkeypatch):
    compute, calls = VisualTokenizer.features, []

    def interrupted(self, image):
        calls.append(image)
        if len(calls) == 4:  # the first call asks for the shape
            raise KeyboardInterrupt
        return compute(self, image)

    monkeypatch.setattr(VisualTokenizer, "features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        token_writer.write(
            paths,
            tmp_path / "t",
            backbone=small(folder / "weights.pth"),
            **SMALL,
        )
    assert len(TokenCache(tmp_path / "t")) == 14


def test_new_images_are_added_and_old_ones_not_touched(cache, folder, paths, tmp_path):
    few = token_writer.write(
        paths[:14],
        tmp_path / "t",
        backbone=small(folder / "weights.pth"),
        **SMALL,
    )
    data, index = contents(few)
    more = token_writer.write(paths, tmp_path / "t", backbone=small(folder / "weights.pth"), **SMALL)
    assert contents(more) == contents(cache)
    assert contents(more)[0].startswith(data)
    assert contents(more)[1].startswith(index)
    token_writer.write(
        paths[:3],
        tmp_path / "t",
        backbone=small(folder / "weights.pth"),
        **SMALL,
    )
    assert contents(TokenCache(tmp_path / "t")) == contents(cache)


def test_a_changed_image_is_computed_again(folder, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes((folder / "0.png").read_bytes())
    first = token_writer.write([path], tmp_path / "t", backbone=small(folder / "weights.pth"), **SMALL)
    path.write_bytes((folder / "1.png").read_bytes())
    os.utime(path, ns=(1, 1))  # even where the clock of the file system is coarse
    assert first.faults([path]) == [f"{path} has changed since its tokens were computed"]
    second = token_writer.write([path], tmp_path / "t", backbone=small(folder / "weights.pth"), **SMALL)
    assert second.faults([path]) == []
    assert second.rows([path, None]).tolist() == [1, -1]
    torch.testing.assert_close(second.file.read([1]), features(folder, [path]), rtol=2**-7, atol=2**-9)


def test_an_image_that_is_gone_still_has_its_tokens(folder, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes((folder / "0.png").read_bytes())
    cache = token_writer.write([path], tmp_path / "t", backbone=small(folder / "weights.pth"), **SMALL)
    path.unlink()
    assert cache.faults([path]) == []
    token_writer.write([path], tmp_path / "t", backbone=small(folder / "weights.pth"), **SMALL)


def test_several_loader_processes_write_the_same(cache, folder, paths, tmp_path):
    again = token_writer.write(
        paths,
        tmp_path / "t",
        backbone=small(folder / "weights.pth"),
        workers=2,
        **SMALL,
    )
    assert contents(again) == contents(cache)


CHANGES = [
    ({"image_size": 32}, r"image_size 48 before, 32 now; preprocessing .*; shape \[9, 64\] before, \[4, 64\] now"),
    ({"dtype": "float16"}, r"\(dtype bfloat16 before, float16 now\); choose another folder"),
    ({"name": "test_vit2"}, "backbone test_vit before, test_vit2 now; weights_sha256"),
    ({"weights": "other.pth"}, r"computed with other settings \(weights_sha256 \w{64} before, \w{64} now\)"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_other_settings_are_refused(change, message, cache, paths, folder, tmp_path):
    before = contents(cache)
    change = {"weights": folder / "weights.pth", "dtype": "bfloat16", **change}
    if change["weights"] == "other.pth":
        change["weights"] = save_weights(tmp_path / "other.pth", 4)
    if "name" in change:
        torch.save(timm.create_model("test_vit2", num_classes=0).state_dict(), tmp_path / "2.pth")
        change["weights"] = tmp_path / "2.pth"
    dtype = change.pop("dtype")
    with pytest.raises(ValueError, match=message):
        token_writer.write(paths, cache.folder, backbone=small(**change), dtype=dtype, **SMALL)
    assert contents(cache) == before


def test_an_architecture_of_the_same_weights_is_another_one(folder, paths, tmp_path):
    plain = small(folder / "weights.pth")
    relu = replace(plain, timm_args={"act_layer": "relu"})
    caches = {
        name: token_writer.write(paths[:3], tmp_path / name, backbone=backbone, **SMALL)
        for name, backbone in (("plain", plain), ("relu", relu))
    }
    assert caches["plain"].settings["weights_sha256"] == caches["relu"].settings["weights_sha256"]
    assert '--timm-args \'{"act_layer": "relu"}\'' in caches["relu"].command(["file"], folder)
    for name, backbone in (("plain", relu), ("relu", plain)):
        with pytest.raises(ValueError, match=r"computed with other settings \(timm_args "):
            token_writer.write(paths, tmp_path / name, backbone=backbone, **SMALL)
    model = presets.standard(phantom.SCHEMA, ["a", "b"], backbone=relu, dim=64)
    presets.check_tokens_of(model, caches["relu"])
    with pytest.raises(ValueError, match="another architecture, other weights"):
        presets.check_tokens_of(model, caches["plain"])


def test_weights_may_move(cache, folder, tmp_path):
    moved = copy(cache, tmp_path / "t")
    (tmp_path / "elsewhere.pth").write_bytes((folder / "weights.pth").read_bytes())
    again = token_writer.write([], moved, backbone=small(tmp_path / "elsewhere.pth"), **SMALL)
    assert again.settings["weights"] == str(tmp_path / "elsewhere.pth")
    assert contents(again) == contents(cache)


def test_unreadable_images_are_found_before_any_is_computed(folder, paths, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    wrong = [*paths, tmp_path / "text.png", tmp_path / "none.png"]
    with pytest.raises(ValueError, match=r"2 image files cannot be used: .*text.png cannot be read.*none.png does not"):
        token_writer.write(
            wrong,
            tmp_path / "t",
            backbone=small(folder / "weights.pth"),
            **SMALL,
        )
    assert len(TokenCache(tmp_path / "t")) == 0


def test_mistakes_are_named(folder, paths, tmp_path):
    with pytest.raises(ValueError, match=r"dtype must be one of \['bfloat16', 'float16'\], got 'float32'"):
        token_writer.write(paths, tmp_path / "t", **{**SMALL, "dtype": "float32"})
    with pytest.raises(ValueError, match=r"x.npy' already holds tokens"):
        token_writer.write([tmp_path / "x.npy"], tmp_path / "t", **SMALL)


def test_numbers_that_float16_cannot_hold_are_refused(folder, paths, tmp_path):
    state = torch.load(folder / "weights.pth", weights_only=True)
    state["norm.weight"] *= 1e6
    torch.save(state, tmp_path / "large.pth")
    arguments = {**SMALL, "backbone": small(tmp_path / "large.pth")}
    with pytest.raises(ValueError, match=r"0.png' are not finite in torch.float16; bfloat16 holds larger numbers"):
        token_writer.write(paths, tmp_path / "t", dtype="float16", **arguments)
    assert len(TokenCache(tmp_path / "t")) == 0
    assert len(token_writer.write(paths[:3], tmp_path / "b", dtype="bfloat16", **arguments)) == 3


def test_two_writers_at_once_are_refused(cache, folder, paths):
    writing = pytest.raises(ValueError, match=r"another process is writing '.*tokens\.bin'")
    with lock_output(cache.folder / "tokens.bin"), writing:
        token_writer.write(
            paths,
            cache.folder,
            backbone=small(folder / "weights.pth"),
            **SMALL,
        )
    token_writer.write(paths, cache.folder, backbone=small(folder / "weights.pth"), **SMALL)


# Reading in training.


def cases_of(cache, absent=()):
    rows = torch.arange(COUNT)
    rows[list(absent)] = -1
    codes = torch.stack([torch.arange(COUNT) % 2, -(torch.arange(COUNT) % 2)], dim=1)
    return CachedCases({"image": rows}, codes, torch.arange(COUNT) % 5, cache.file)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_batches_are_the_same_from_worker_processes(start, cache):
    cases = cases_of(cache, absent=[4])
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).tolist()
    here = list(DataLoader(cases, 8, sampler=order, collate_fn=collate))
    there = list(DataLoader(cases, 8, sampler=order, collate_fn=collate, num_workers=2, multiprocessing_context=start))
    assert len(here) == len(there) == 8
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["is_present"]["image"], b["is_present"]["image"])
        assert torch.equal(a["codes"], b["codes"])
    everything = torch.cat([batch["image"] for batch in here])
    stored = cache.file.read([row if row != 4 else -1 for row in order])
    assert torch.equal(everything, stored)


def test_a_case_is_a_row_of_its_batch(cache):
    cases = cases_of(cache)
    batch = cases.__getitems__([60, 2, 2])
    assert [case["labels"].item() for case in batch] == [0, 2, 2]
    assert set(batch[0]) == {"image", "codes", "labels"}
    assert torch.equal(batch[0]["image"], cases[60]["image"])
    assert torch.equal(batch[0]["image"], cache.file.read([60])[0])


def test_what_goes_to_a_worker_is_small(cache):
    assert len(pickle.dumps(cases_of(cache))) < 5000  # no index, no tokens


def test_two_images_per_case_with_gaps(cache, folder):
    table = pd.read_csv(folder / "cases.csv")
    table["second"] = table["file"].shift(-1).where(table.index % 3 > 0)
    manifest = Manifest.from_frame(
        table, CaseColumns(images=("file", "second"), label="kind"), root=folder, tokens=cache
    )
    cases = manifest.cases(manifest.frame, manifest.schema(), None)
    batch = collate(cases.__getitems__([3, 4]))
    assert {name: mask.tolist() for name, mask in batch["is_present"].items()} == {
        "file": [True, True],
        "second": [False, True],
    }
    assert torch.equal(batch["image"]["file"], cache.file.read([3, 4]))
    assert torch.equal(batch["image"]["second"], cache.file.read([-1, 5]))


def test_images_without_tokens_are_counted_and_the_command_named(cache, folder, tmp_path):
    few = copy(cache, tmp_path / "few")
    lines = (few / "index.jsonl").read_bytes().splitlines(keepends=True)
    (few / "index.jsonl").write_bytes(b"".join(lines[:58]))
    arguments = {"columns": CaseColumns(images="file", label="kind"), "tokens": TokenCache(few)}
    with pytest.raises(
        ValueError, match=r"^3 images have no tokens that can be used; `.*` computes them: .*58.png is not among"
    ) as error:
        Manifest.read(folder / "cases.csv", **arguments)
    command = str(error.value).split("`")[1].replace("TABLE", str(folder / "cases.csv"))
    assert cli.main(shlex.split(command)[1:]) == 0  # word for word
    Manifest.read(folder / "cases.csv", **{**arguments, "tokens": TokenCache(few)})


# The commands.

TRAIN = ["--image", "file", "--label", "kind", "--dim", "64", "--epochs", "2", "--learning-rate", "3e-3"]


@pytest.fixture(scope="module")
def run(folder, cache, tmp_path_factory):
    """A finished run on tokens."""
    out = tmp_path_factory.mktemp("runs") / "tokens"
    assert cli.main(["train", str(folder / "cases.csv"), "--tokens", str(cache.folder), *TRAIN, "-o", str(out)]) == 0
    return out


def test_the_command_writes_what_the_function_writes(cache, folder, tmp_path, capsys):
    settings = ["--backbone", "test_vit", "--image-size", "48", "--weights", str(folder / "weights.pth")]
    arguments = ["tokens", str(folder / "cases.csv"), "--image", "file", *settings, "--batch-size", "7"]
    assert cli.main([*arguments, "-o", str(tmp_path / "t")]) == 0
    assert "61 images, 9 x 64 tokens each in bfloat16, 0 MB" in capsys.readouterr().out
    assert contents(TokenCache(tmp_path / "t")) == contents(cache)
    assert TokenCache(tmp_path / "t").settings == cache.settings
    assert cli.main([*arguments, "--dtype", "float16", "-o", str(tmp_path / "t")]) == 2
    assert "dtype bfloat16 before, float16 now" in capsys.readouterr().err
    assert cli.main(["tokens", str(folder / "cases.csv"), "--image", "files", "-o", str(tmp_path / "t")]) == 2
    assert "the table has no column ['files']; it has ['file', 'kind', 'sign', 'size']" in capsys.readouterr().err


def test_a_cell_that_means_not_recorded_is_no_image(folder, tmp_path):
    table = pd.read_csv(folder / "cases.csv").head(3)
    table.loc[1, "file"] = "none"
    table.to_csv(tmp_path / "cases.csv", index=False)
    backbone = ["--backbone", "test_vit", "--image-size", "48", "--weights", str(folder / "weights.pth")]
    arguments = ["tokens", str(tmp_path / "cases.csv"), "--image", "file", "--image-root", str(folder), *backbone]
    assert cli.main([*arguments, "-o", str(tmp_path / "t")]) == 2  # no such file
    assert cli.main([*arguments, "--missing-values", "none", "-o", str(tmp_path / "t")]) == 0
    assert len(TokenCache(tmp_path / "t")) == 2


def test_training_on_the_cache_is_training_on_files_of_the_same_tokens(cache, folder, run, tmp_path):
    files = pd.read_csv(folder / "cases.csv")
    for row, name in enumerate(files["file"]):
        np.save(tmp_path / f"{name}.npy", cache.file.read([row])[0].float().numpy())
    files["file"] += ".npy"
    manifest = Manifest.from_frame(files, CaseColumns(images="file", label="kind"), root=tmp_path)
    schema = manifest.schema()
    torch.manual_seed(0)
    model = presets.standard(schema, ["a", "b"], backbone=small(folder / "weights.pth"), dim=64)
    train, valid, test = (manifest.cases(manifest.rows(split), schema, None) for split in ("train", "valid", "test"))
    fit(model, train, valid, tmp_path / "run", TrainingSettings(epochs=2, learning_rate=3e-3), progress=False)
    expected, found = model.state_dict(), AlignedFusionClassifier.from_pretrained(run).state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    sweep = missing_sweep(model, test, schema, progress=False)
    assert json.loads((run / "metrics.json").read_text())["missing"] == sweep


def test_the_model_answers_on_images(run, cache, folder, capsys):
    predictions = pd.read_csv(run / "predictions.csv").set_index("file")
    table = pd.read_csv(folder / "cases.csv").set_index("file")
    for name in predictions.index[:3]:
        attributes = {column: table[column][name] for column in ("sign", "size")}
        found = predict_case(run, [folder / name], attributes)["classes"]
        assert found["a"] == pytest.approx(predictions["p(a)"][name], abs=5e-3)  # tokens were rounded to bfloat16
    assert cli.main(["evaluate", str(run), str(folder / "cases.csv")]) == 0
    assert f"{len(predictions)} cases; low and high" in capsys.readouterr().out
    model = AlignedFusionClassifier.from_pretrained(run)
    weights = torch.load(folder / "weights.pth", weights_only=True)
    assert all(
        torch.equal(model.visual.backbone.state_dict()[name], weights[name]) for name in weights if "pos" not in name
    )
    assert model.visual.preprocessing == cache.settings["preprocessing"]


def test_a_run_is_evaluated_on_tokens_without_decoding_an_image(run, cache, folder, tmp_path, monkeypatch, capsys):
    command = ["evaluate", str(run), str(folder / "cases.csv"), "--json", str(tmp_path / "figures.json")]
    assert cli.main(command) == 0
    on_images = json.loads((tmp_path / "figures.json").read_text())
    monkeypatch.setattr("PIL.Image.open", None)
    assert cli.main([*command, "--tokens", str(cache.folder)]) == 0
    on_tokens = json.loads((tmp_path / "figures.json").read_text())
    # Tokens were rounded to bfloat16.
    assert on_tokens["missing"][0]["accuracy"] == pytest.approx(on_images["missing"][0]["accuracy"], abs=0.1)
    assert on_tokens.keys() == on_images.keys()
    assert (on_tokens["tested"], on_tokens["left_out"]) == (on_images["tested"], on_images["left_out"])
    assert on_tokens["test"]["support"] == on_images["test"]["support"]

    other = copy(cache, tmp_path / "other")
    settings = json.loads((other / "settings.json").read_text())
    (other / "settings.json").write_text(json.dumps({**settings, "weights_sha256": "0" * 64}))
    capsys.readouterr()
    assert cli.main([*command, "--tokens", str(other)]) == 2
    assert "computed with test_vit, with another architecture, other weights or a different" in capsys.readouterr().err


def test_no_image_is_read_in_training(run, cache, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(VisualTokenizer, "features", lambda *_: pytest.fail("the backbone ran"))
    monkeypatch.setattr(VisualTokenizer, "transform", lambda *_, **__: str)
    arguments = ["train", str(folder / "cases.csv"), "--tokens", str(cache.folder), *TRAIN]
    assert cli.main([*arguments, "--weights", str(folder / "weights.pth"), "-o", str(tmp_path / "run")]) == 0
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (run, tmp_path / "run"))
    assert first["missing"] == second["missing"]


MISTAKES = [
    (["--backbone", "test_vit2"], "were computed with backbone test_vit, not test_vit2"),
    (["--image-size", "32"], "were computed with image_size 48, not 32"),
    (["--tune", "whole"], "the backbone of stored tokens must be pretrained, with tune='none'"),
    (["--no-pretrained"], "the backbone of stored tokens must be pretrained, with tune='none'"),
    (["--weights", "OTHER"], "were computed with other weights of 'test_vit' than"),
    (["--weights", "none.pth"], "no weights file at 'none.pth'"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_a_backbone_that_does_not_agree_is_refused(mistake, message, cache, folder, tmp_path, capsys):
    other = save_weights(tmp_path / "other.pth", 4)
    arguments = ["train", str(folder / "cases.csv"), "--tokens", str(cache.folder), *TRAIN, "-o", str(tmp_path / "run")]
    assert cli.main([*arguments, *(str(other) if word == "OTHER" else word for word in mistake)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_on_images_does_not_go_on_with_tokens(run, cache, folder, capsys):
    settings = ["--backbone", "test_vit", "--image-size", "48", "--weights", cache.settings["weights"]]
    assert cli.main(["train", str(folder / "cases.csv"), *settings, *TRAIN, "-o", str(run)]) == 2
    assert "holds a run with other settings (tokens {'weights_sha256'" in capsys.readouterr().err


# What is said about it.


def test_every_option_that_the_readme_gives_the_command_is_one():
    lines = [line for line in README.read_text().splitlines() if line.startswith("alignedfusion tokens")]
    assert lines
    for line in lines:
        assert cli._parser().parse_args(shlex.split(line)[1:]).command == "tokens"


@pytest.mark.slow
def test_the_benchmark_gives_its_figures(tmp_path):
    sizes = ["--cases", "1000", "--share", "0.5", "--image-cases", "40", "--temp", str(tmp_path)]
    command = [sys.executable, str(README.parent / "benchmarks" / "token_cache.py"), *sizes]
    subprocess.run([*command, "-o", str(tmp_path / "figures.json")], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["file_mb"] == pytest.approx(1000 * 49 * 384 * 2 / 1e6)
    assert figures["tokens"]["training_cases"] == pytest.approx(400, rel=0.1)
    assert figures["tokens"]["peak_mb"] < 2000
    assert figures["ratio_of_processor_seconds"] > 3
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]  # gigabytes are not left behind
