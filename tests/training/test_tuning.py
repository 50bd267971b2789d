"""Tuning a backbone, and that a later run cannot be tested on what it was tuned on."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import TrainerCallback

from alignedfusion import VisualTokenizer
from alignedfusion.commands import main as cli
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.modules.backbones import Backbone
from alignedfusion.training import TrainingSettings, progress, tuning
from alignedfusion.training.tuned_weights import RECORD, WEIGHTS, check_unseen, read_tuning, training_rows
from alignedfusion.training.tuning import ImageClassifier

COLUMNS = ["--image", "first", "second", "--label", "kind", "--group", "patient"]
SMALL = ["--backbone", "test_efficientnet", "--image-size", "32", "--epochs", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 cases of 30 patients with two small pictures each, an attribute, and `start.pth`, weights to start from."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        for name in "ab":
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., 2 * (i % 2)] += 130
            Image.fromarray(pixels).save(folder / f"{i}{name}.png")
        rows.append({"first": f"{i}a.png", "second": f"{i}b.png", "kind": "xy"[i % 2], "patient": f"P{i // 2}"})
        rows[-1]["sign"] = "+-"[i % 3 // 2]
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    torch.manual_seed(3)
    torch.save(timm.create_model("test_efficientnet", num_classes=0).state_dict(), folder / "start.pth")
    return folder


def tune_command(folder, out, *words):
    weights = ["--weights", str(folder / "start.pth")]
    return cli.main(["tune", str(folder / "cases.csv"), *COLUMNS, *SMALL, *weights, "-o", str(out), *words])


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    """What the command wrote."""
    out = tmp_path_factory.mktemp("tuned") / "first"
    assert tune_command(folder, out) == 0
    return out


def manifest(folder, seed=0, **columns):
    settings = {"images": ("first", "second"), "label": "kind", "group": "patient"}
    return Manifest.read(folder / "cases.csv", CaseColumns(**{**settings, **columns}), seed=seed)


def test_the_command_writes_weights_of_the_timm_model_that_differ_in_the_last_stage(tuned, folder):
    assert {path.name for path in tuned.iterdir()} == {WEIGHTS, RECORD, "settings.json", "metrics.json"}
    before, after = torch.load(folder / "start.pth", weights_only=True), load_file(tuned / WEIGHTS)
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("blocks.4.", "conv_head.", "bn2.")) for name in changed)
    report = json.loads((tuned / "metrics.json").read_text())
    assert report["cases"] == {"train": 38, "valid": 10}
    assert 0 <= report["valid"]["accuracy"] <= 1


def test_the_same_command_returns_what_is_finished_and_other_settings_are_refused(tuned, folder, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "fit", lambda *a, **k: pytest.fail("it was trained already"))
    assert tune_command(folder, tuned) == 0
    assert (
        f"--backbone test_efficientnet --weights {tuned / WEIGHTS} --image-size 32 -o TOKENS" in capsys.readouterr().out
    )
    assert tune_command(folder, tuned, "--tune", "whole") == 2
    assert "model.backbone.tune last:1 before, whole now" in capsys.readouterr().err


class Stop(TrainerCallback):
    """An interruption after the first epoch, whose checkpoint is complete by then."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch and round(state.epoch) == 1:
            raise KeyboardInterrupt


def test_an_interrupted_command_continues_to_the_same_weights(tuned, folder, tmp_path, monkeypatch, capsys):
    lines = progress.EpochLines
    monkeypatch.setattr(progress, "EpochLines", Stop)
    assert tune_command(folder, tmp_path / "again") == 130
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "again" / WEIGHTS).exists()
    monkeypatch.setattr(progress, "EpochLines", lines)
    assert tune_command(folder, tmp_path / "again") == 0
    assert "epoch 1/2" not in capsys.readouterr().err
    first, second = (load_file(path / WEIGHTS) for path in (tuned, tmp_path / "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_validation_and_test_images_have_no_influence(tuned, folder, tmp_path):
    copy = tmp_path / "cases"
    shutil.copytree(folder, copy)
    table = manifest(folder)
    for row in table.frame[table.splits != "train"].to_dict("records"):
        for name in ("first", "second"):
            Image.new("RGB", (32, 32)).save(copy / row[name])
    assert tune_command(copy, tmp_path / "tuned") == 0
    first, second = (load_file(path / WEIGHTS) for path in (tuned, tmp_path / "tuned"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_with_the_same_splits_takes_the_weights_and_one_with_others_is_refused(tuned, folder):
    weights = tuned / WEIGHTS
    assert check_unseen(manifest(folder), weights) == tuned / RECORD
    message = r"\d+ validation cases have images that the backbone in .* was trained on; draw the splits as it did"
    with pytest.raises(ValueError, match=message + r" \(label 'kind', group 'patient', split None, seed 0\)"):
        check_unseen(manifest(folder, seed=1), weights)
    with pytest.raises(ValueError, match=message):
        check_unseen(manifest(folder, group=None, exclude=("patient",)), weights)
    assert check_unseen(manifest(folder, seed=1), True) is None
    assert check_unseen(manifest(folder, seed=1), folder / "start.pth") is None


def test_one_trained_image_in_one_test_case_is_found_by_its_content_or_its_path(tuned, folder, tmp_path):
    table = manifest(folder)
    trained, tested = (table.frame.index[table.splits == split][0] for split in ("train", "test"))
    copy = tmp_path / "renamed"
    shutil.copytree(folder, copy)
    shutil.copy(folder / f"{trained}b.png", copy / "new.png")
    frame = table.frame.assign(split=table.splits)
    frame.loc[tested, "first"] = "new.png"
    columns = CaseColumns(images=("first",), label="kind", attributes=("sign",), split="split")
    with pytest.raises(ValueError, match=rf"^1 test cases have images .*: row {tested}$"):
        check_unseen(Manifest.from_frame(frame, columns, root=copy), tuned / WEIGHTS)

    frame.loc[tested, "first"] = str(folder / f"{trained}a.png")  # the same path, now with another content
    pixels = (folder / f"{trained}a.png").read_bytes()
    try:
        Image.new("RGB", (32, 32)).save(folder / f"{trained}a.png")
        with pytest.raises(ValueError, match=rf"^1 test cases have images .*: row {tested}$"):
            check_unseen(Manifest.from_frame(frame, columns, root=copy), tuned / WEIGHTS)
    finally:
        (folder / f"{trained}a.png").write_bytes(pixels)


def test_weights_without_their_record_are_refused(tuned, folder, tmp_path):
    shutil.copy(tuned / WEIGHTS, tmp_path / "renamed.safetensors")
    with pytest.raises(ValueError, match=r"trained_images\.json beside it is missing or another one; copy both files"):
        check_unseen(manifest(folder), tmp_path / "renamed.safetensors")
    (tmp_path / RECORD).write_text('{"images": []}')
    with pytest.raises(ValueError, match="missing or another one"):
        check_unseen(manifest(folder), tmp_path / "renamed.safetensors")
    shutil.copy(tuned / RECORD, tmp_path / RECORD)
    assert check_unseen(manifest(folder), tmp_path / "renamed.safetensors") == tmp_path / RECORD
    assert read_tuning(tuned / WEIGHTS)["tune"] == "last:1"


def test_the_recipe_of_three_commands_and_a_test_table_with_trained_images(tuned, folder, tmp_path, capsys):
    cases, weights = str(folder / "cases.csv"), str(tuned / WEIGHTS)
    backbone = ["--backbone", "test_efficientnet", "--weights", weights, "--image-size", "32"]
    assert cli.main(["tokens", cases, "--image", "first", "second", *backbone, "-o", str(tmp_path / "tokens")]) == 0
    train = ["train", cases, *COLUMNS, "--tokens", str(tmp_path / "tokens"), "--dim", "64", "--epochs", "1"]
    assert cli.main([*train, "-o", str(tmp_path / "other"), "--seed", "1"]) == 2
    assert "validation cases have images that the backbone in" in capsys.readouterr().err
    assert cli.main([*train, "-o", str(tmp_path / "run")]) == 0

    # The model has the tuned weights. A later table shares one image with the tuning, but no whole case with the run.
    table = manifest(folder)
    trained, tested = (table.frame[table.splits == split] for split in ("train", "test"))
    later = pd.concat([tested, trained.iloc[:1].assign(second=tested["second"].iloc[0])])
    later.to_csv(folder / "later.csv", index=False)
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), str(folder / "later.csv")]) == 0
    assert f"{len(tested)} cases" in capsys.readouterr().out


def test_training_cases_that_share_an_image_with_others_are_left_out(folder):
    table = manifest(folder)
    trained, tested = (table.frame.index[table.splits == split][0] for split in ("train", "test"))
    frame = table.frame.assign(split=table.splits)
    frame.loc[trained, "second"] = frame.loc[tested, "first"]
    columns = CaseColumns(images=("first", "second"), label="kind", split="split")
    rows = training_rows(Manifest.from_frame(frame, columns, root=folder))
    assert set(rows.index) == set(table.frame.index[table.splits == "train"]) - {trained}
    with pytest.raises(ValueError, match="every training case shares an image"):
        training_rows(Manifest.from_frame(frame.assign(second="0a.png"), columns, root=folder))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune", "none"], "tune='none' trains no weights of the backbone"),
        (["--tune", "last:9"], "asks for 9 stages, timm's EfficientNet has 5"),
        (["--tune", "some"], "tune must be"),
        (["--weights", "none.pth"], "no weights file at 'none.pth'"),
        (["--label", "kinds"], "the table has no column ['kinds']"),
    ],
)
def test_mistakes_at_the_command_are_named(words, message, folder, tmp_path, capsys):
    assert tune_command(folder, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_tokens_cannot_be_tuned(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((5, 7)))
    frame = pd.DataFrame({"file": ["t.npy"] * 20, "kind": ["a", "b"] * 10})
    table = Manifest.from_frame(frame, CaseColumns(images="file", label="kind", attributes=()), root=tmp_path)
    with pytest.raises(ValueError, match="a backbone is tuned on images, and these are tokens"):
        tuning.tune(table, tmp_path / "out", Backbone("test_vit", False, "whole"), TrainingSettings(epochs=1))


def test_other_tasks_than_classes_are_refused(folder, tmp_path):
    frame = manifest(folder).frame.assign(size=[float(i) for i in range(60)])
    columns = CaseColumns(images=("first", "second"), label="size", task="regression", attributes=())
    table = Manifest.from_frame(frame, columns, root=folder)
    with pytest.raises(ValueError, match=r"tune needs one column of classes; the task of \['size'\] is 'regression'"):
        tuning.tune(table, tmp_path / "out", Backbone("test_efficientnet", False, "whole"))


def test_each_image_has_its_own_term_and_an_absent_one_has_none():
    visual = VisualTokenizer("test_efficientnet", 7, pretrained=False, image_size=32)
    model = ImageClassifier(visual, ("first", "second"), 3).eval()
    image = {m: torch.randn(4, 3, 32, 32) for m in ("first", "second")}
    codes, labels = torch.zeros(4, 0, dtype=torch.int64), torch.tensor([0, 2, 1, 1])
    present = {"first": torch.tensor([True, True, False, False]), "second": torch.tensor([True, False, True, False])}
    logs = [model.heads[m](visual(image[m]).mean(1)).log_softmax(-1) for m in image]
    by_hand = torch.stack([(logs[0][0] + logs[1][0]) / 2, logs[0][1], logs[1][2], torch.zeros(3)])
    out = model(image, codes, labels, is_present=present)
    assert torch.allclose(out.logits, by_hand, atol=1e-6)
    own = [F.nll_loss(log, labels, reduction="none") for log in logs]
    assert torch.allclose(out.loss, ((own[0][0] + own[1][0]) / 2 + own[0][1] + own[1][2]) / 4, atol=1e-6)
    image["second"][1] = float("nan")
    assert torch.equal(model(image, codes, labels, is_present=present).logits, out.logits)
