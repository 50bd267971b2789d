import re

import pytest
import torch

from alignedfusion.datasets.cases import TensorCases
from alignedfusion.training import TrainingSettings, fit
from alignedfusion.training.progress import epoch_line


@pytest.fixture
def cases(schema, batch):
    return TensorCases(*batch(schema, rows=20))


def test_a_line_names_losses_accuracy_and_the_time_left():
    metrics = {"eval_loss": 1.25, "eval_accuracy": 0.672}
    line = epoch_line(3, 30, 1.2345, metrics, 75.4)
    assert line == "epoch  3/30  loss 1.234  validation loss 1.250  accuracy 67.2%  1:15 left"
    assert epoch_line(4, 4, 0.5, {}, 0.0) == "epoch 4/4  loss 0.500  0:00 left"


@pytest.mark.parametrize("has_valid", [True, False])
def test_training_writes_one_line_per_epoch_and_nothing_else(has_valid, schema, build, cases, tmp_path, capsys):
    settings = TrainingSettings(epochs=2, batch_size=8)
    log = fit(build(schema, depth=1), cases, cases if has_valid else None, tmp_path, settings)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert [float(re.search(r"loss (\S+)", line)[1]) for line in lines] == pytest.approx(losses, abs=1e-3)
    assert all(("validation loss" in line and "accuracy" in line) == has_valid for line in lines)
    assert lines[-1].endswith("0:00 left")


def test_without_progress_nothing_is_written(schema, build, cases, tmp_path, capsys):
    fit(build(schema, depth=1), cases, cases, tmp_path, TrainingSettings(epochs=1), progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_continued_training_starts_its_bar_at_the_first_new_step(schema, build, cases, tmp_path, monkeypatch, capsys):
    settings = TrainingSettings(epochs=3, batch_size=8)
    model = build(schema, depth=1)

    class StopError(Exception):
        pass

    class Broken(TensorCases):
        reads = 0

        def __getitem__(self, index):
            Broken.reads += 1
            if Broken.reads > 30:  # in the second epoch
                raise StopError
            return super().__getitem__(index)

    with pytest.raises(StopError):
        fit(model, Broken(cases.image, cases.codes, cases.labels), cases, tmp_path, settings)
    capsys.readouterr()
    torch.manual_seed(0)
    fit(build(schema, depth=1), cases, cases, tmp_path, settings)
    captured = capsys.readouterr()
    assert [line[:9] for line in captured.out.splitlines()] == ["epoch 2/3", "epoch 3/3"]
    assert "3/9" in captured.err
