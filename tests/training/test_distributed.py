"""Two processes train like one with batches of twice the size. `train_in_processes.py` has the training jobs."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import train_in_processes as trainings
import transformers
from torch.utils.data import default_collate

from alignedfusion import AlignedFusionClassifier, VisualTokenizer
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.training import TrainingSettings
from alignedfusion.training.distributed import default_workers, loss_over_processes
from alignedfusion.training.fitting import _may_skip_weights, find_checkpoints, fit

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).parent / "train_in_processes.py")
TORCHRUN = [
    "torch.distributed.run",
    "--nproc_per_node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]
DDP, FSDP = (
    ["accelerate.commands.launch", "--config_file", str(ROOT / "examples" / "accelerate" / f"{name}.yaml")]
    for name in ("ddp", "fsdp")
)
LOOPS = ["step_by_step", "nothing_hidden", "absent_images_and_reports", "fewer_cases_than_processes"]


def goes_on_on_cpus():
    """Whether torch restores tensors to "cpu:0", as accelerate calls the device of a process: 2.8 does not."""
    file = io.BytesIO()
    torch.save(torch.ones(1), file)
    file.seek(0)
    try:
        torch.load(file, map_location=torch.device("cpu", 0))
    except RuntimeError:
        return False
    return True


GOES_ON = goes_on_on_cpus()


def launch(*arguments, timeout=300):
    """The output of a launcher and its processes, with one thread each."""
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def results(folder, job):
    """The results of both processes for a job, the main process first."""
    return [json.loads((folder / f"{job}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder with the results of all jobs in two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [*LOOPS, "trainer", "drawn", "command", *(["interrupted"] if GOES_ON else [])]
    write_table(folder)
    (folder / "printed.txt").write_text(launch(*DDP, SCRIPT, str(folder), *jobs))
    return folder


def write_table(folder):
    """Tokens of 61 cases of two kinds, and a table with attributes."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(61):
        tokens = rng.normal(0, 0.1, (5, 7))
        tokens[:, i % 2] += 1
        np.save(folder / f"{i}.npy", tokens.astype(np.float16))
        rows.append({"file": f"{i}.npy", "kind": "ab"[i % 2], "sign": ["+", "-", ""][i % 3]})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """`fit` in this process."""
    return trainings.trainer(tmp_path_factory.mktemp("alone"))


def close(found, expected, *, rtol=1e-5, atol=0.0):
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=rtol, atol=atol)


def assert_trained_alike(found, expected):
    for name in ("loss", "rate", "norm", "accuracy", "cross_entropy"):
        assert len(expected[name]) == 3
        close(found[name], expected[name])
    # Rounding errors move weights that do not affect the output, so outputs are compared, not weights.
    close(found["logits"], expected["logits"], rtol=0.0, atol=2e-3)
    close(found["weights"], expected["weights"], rtol=1e-3)
    assert found["left"] == expected["left"] == []


@pytest.mark.parametrize("job", LOOPS)
def test_each_step_of_a_loop_has_the_loss_and_gradient_of_the_double_batch(job, two):
    expected = getattr(trainings, job)(None)["steps"]
    main, other = results(two, job)
    assert main == other
    close(main["steps"], expected)


def test_the_mean_of_the_processes_means_differs():
    cases = trainings.Cases(53)
    model = trainings.build().train()

    def loss(rows):
        return model(**default_collate([cases[i] for i in rows])).loss.item()

    # The second batch hides cells only in its second half; the last batch has five rows and three repeated ones.
    for first, second in ((range(16, 24), range(24, 32)), (range(48, 53), range(48, 50))):
        whole = loss(sorted({*first, *second}))
        assert abs((loss(first) + loss(second)) / 2 - whole) > 0.01 * whole


def test_fit_in_two_processes_equals_one(two, alone):
    main, other = results(two, "trainer")
    assert main == other
    assert_trained_alike(main, alone)
    assert main["held"] == 1.0


@pytest.mark.skipif(not GOES_ON, reason="this torch restores nothing to the device 'cpu:0'")
def test_an_interrupted_fit_continues_in_both_processes(two, alone):
    for result in results(two, "interrupted"):
        assert result["checkpoints"] == 1
        close(result["loss"], alone["loss"])


def test_processes_share_the_cases_and_hide_different_cells(two, tmp_path):
    main, other = results(two, "drawn")
    assert main["labels"] + other["labels"] == trainings.drawn(tmp_path)["labels"]
    hidden = torch.tensor([main["hidden"], other["hidden"]])
    assert hidden.any(dim=(1, 2)).all()
    assert not torch.equal(hidden[0], hidden[1])


def test_sharded_weights_train_equally_and_are_saved_complete(alone, tmp_path):
    launch(*FSDP, SCRIPT, str(tmp_path), "sharded")
    main, other = results(tmp_path, "sharded")
    if int(transformers.__version__.split(".")[0]) < 5:  # each process logs the norm of its own part of the gradient
        main["norm"] = other["norm"] = alone["norm"]
    assert main == other
    assert 0.5 < main["held"] < 0.6  # matrices with an odd number of rows are not halved evenly
    assert_trained_alike(main, alone)
    model = AlignedFusionClassifier.from_pretrained(tmp_path / "model-0")
    close(trainings.logits(model), main["logits"])


def test_sharding_of_the_first_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for version in ("1", None):
        monkeypatch.setenv("FSDP_VERSION", version) if version else monkeypatch.delenv("FSDP_VERSION")
        with pytest.raises(ValueError, match=r"asks for FSDP version 1; write `fsdp_version: 2`"):
            fit(trainings.build(), trainings.Cases(16), None, tmp_path, TrainingSettings(epochs=1))


def test_an_incomplete_checkpoint_is_skipped(tmp_path):
    for step in (8, 12, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step != 100:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-12"]


def test_only_models_with_possibly_unused_weights_search_for_them(schema, build):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.unused = torch.nn.Linear(13, 38), torch.nn.Linear(2, 3)

    def backbone(tune):
        return VisualTokenizer("test_vit", 38, pretrained=False, tune=tune, image_size=32)

    image_only = JointSelfAttention(38, modalities=("image",), num_heads=2)
    found = [
        _may_skip_weights(model)
        for model in (
            build(schema),
            build(schema, visual=backbone("none")),
            build(schema, visual=backbone("whole")),
            build(schema, visual=Own()),
            build(schema, fusion=image_only),
            Own(),
        )
    ]
    assert found == [False, False, True, True, True, True]


def test_the_command_writes_and_prints_once(two):
    run, printed = two / "run", (two / "printed.txt").read_text()
    assert printed.count("cases: 39 train, 10 valid, 12 test") == 1
    assert printed.count("12 test cases; most frequent class") == 1
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.json",
        "metrics.json",
        "missing.png",
        "model.safetensors",
        "predictions.csv",
        "report.html",
        "trained_on.json",
    }
    assert not [name for name in names if name.endswith(".part") or name == "checkpoints"]
    assert json.loads((run / "metrics.json").read_text())["missing"][0]["accuracy"] == 1.0
    assert json.loads((run / "settings.json").read_text())["training"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["plain", "trainer"])
def test_the_example_trains_in_two_processes(loop, tmp_path):
    example = str(ROOT / "examples" / "train_classifier.py")
    options = ["--loop", loop, "--cases", "600", "--epochs", "6", "-o", str(tmp_path)]
    printed = launch(*TORCHRUN, example, *options, timeout=600)
    assert printed.count("balanced accuracy") == 1
    complete = next(line for line in printed.splitlines() if line.startswith("  0.0 %")).split()
    assert float(complete[4]) > 50  # accuracy, of four classes
    assert AlignedFusionClassifier.from_pretrained(tmp_path).num_classes == 4


@pytest.mark.parametrize(("cpus", "processes", "workers"), [(2, 1, 2), (64, 1, 8), (16, 4, 4), (1, 2, 0)])
def test_images_are_read_by_as_many_processes_as_there_are_cpus(cpus, processes, workers, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cpus), raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert default_workers() == workers
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert default_workers() == 0


class TwoProcesses:
    """One of two processes: `reduce` returns the sum of the counts of both, which were collected before."""

    num_processes = 2
    gradient_state = SimpleNamespace(end_of_dataloader=False, remainder=-1)

    def __init__(self, total=None):
        self.total = total

    def unwrap_model(self, model):
        return model

    def reduce(self, counts, reduction):
        self.own = counts
        return counts if self.total is None else self.total


@pytest.mark.parametrize("task", ["multilabel", "regression", "multiclass"])
def test_processes_with_different_numbers_of_known_labels_have_the_loss_of_all(task, schema, build, batch):
    image, codes, labels = batch(schema, rows=8)
    unknown = {"multilabel": -1, "regression": torch.nan, "multiclass": -100}[task]
    if task != "multiclass":
        labels = torch.nn.functional.one_hot(labels, 17).to(torch.int64 if task == "multilabel" else torch.float32)
    labels[:3] = unknown  # the first process knows the labels of one case, the second those of four
    model = build(schema, task=task).eval()
    is_hidden = (torch.arange(24).reshape(8, 3) % 4 == 0) & (codes >= 0)
    whole = {"image": image, "codes": codes, "labels": labels, "is_hidden": is_hidden}
    halves = [{name: value[rows] for name, value in whole.items()} for rows in (slice(0, 4), slice(4, 8))]
    counts = []
    for half in halves:
        process = TwoProcesses()
        loss_over_processes(process, model, half)
        counts.append(process.own)
    losses = [loss_over_processes(TwoProcesses(sum(counts)), model, half)[0] for half in halves]
    torch.testing.assert_close(sum(losses) / 2, model(**whole).loss)
