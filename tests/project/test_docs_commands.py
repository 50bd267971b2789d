"""The commands of the README and of docs/ run as printed: offline, each page in a folder of its own, on small made-up data.

`SUBSTITUTES` is all that is changed: weights and folders that only their reader has. `NOT_RUN` has the commands that are not
run, and why. A command that is in neither table and does not run fails here.
"""

import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from alignedfusion.commands import main as cli
from alignedfusion.datasets import phantom

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "results" not in page.parent.parts)]

# A pattern of a printed command, and what replaces it. The first two are the default backbone, whose weights are on a hub.
SUBSTITUTES = (
    (
        r"^(alignedfusion (?:train|tokens|tune) (?!.*(?:--tokens|--backbone|--weights)).*)$",
        r"\1 --backbone test_vit --weights weights.pth",
    ),
    (r"^(alignedfusion tokens (?!.*--backbone).*--weights.*)$", r"\1 --backbone test_vit"),
    (r"hf-hub:Snarcy/RadioDino-s16", "local-dir:repository"),
    (r"folder/of/the/encoder", "encoder"),
)
NOT_RUN = {
    r"pip install": "the package registry; .ci/run and .ci/release install the package",
    r"alignedfusion demo": "minutes; tests/commands/test_demo.py runs it with less data",
    r"alignedfusion examples": "tests/commands/test_examples.py runs every example",
    r"python benchmarks/": "hours, or data that the reader has; tests/project/test_paper_tables.py runs tables on small data",
    r"alignedfusion \w+ (?:OUT|MILK10K)/": "real data; tests/project/test_real_data.py reads it where it is present",
    r"(?:for|done)\b": "a loop over benchmarks",
    r"alignedfusion extract .* --base-url": "a chat server; tests/reports/test_chat.py starts one",
    r"(?:torchrun|accelerate) ": "several processes; tests/training/test_distributed.py starts them",
    r"export RAY_ADDRESS|alignedfusion \w+ .*--ray": "a cluster; tests/tables/test_cluster.py starts one",
    r"python -m venv|pre-commit|pytest|ruff|mypy|bash \.ci/run": "development; .ci/run is what checks it",
}


def commands(page):
    """The commands of a page's bash blocks, without comments and with continued lines joined."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(?:^|\s+)# .*$", "", line).strip():
                yield command


def is_run(command):
    return not any(re.match(pattern, command) for pattern in NOT_RUN)


def name_of(page):
    return page.relative_to(DOCS if DOCS in page.parents else ROOT).as_posix()


def write_cases(folder, name, seed, rows=60):
    """A table with every column that a page names, three images per case, and the words of a report."""
    drawn = phantom.make(rows, seed=seed, image_size=48, missing=0.3)
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(phantom.SCHEMA.decode(drawn.codes))[["border", "growth", "itching"]]
    for column in ("file", "photo", "ultrasound"):
        table[column] = [f"{name}-{column}-{i}.png" for i in range(rows)]
        for file, pixels in zip(table[column], drawn.images, strict=True):
            Image.fromarray(pixels ^ rng.integers(0, 8, pixels.shape, np.uint8)).save(folder / file)
    table["patient"] = table["patient_id"] = [f"P{i // 2}" for i in range(rows)]
    table["age"] = rng.integers(20, 90, rows)
    table["sex"] = rng.choice(["female", "male"], rows)
    table["skin_tone_class"] = rng.integers(1, 4, rows)
    for finding in ("edema", "effusion", "opacity"):
        table[finding] = rng.choice(["yes", "no", ""], rows, p=[0.4, 0.5, 0.1])
    table["diagnosis"] = [phantom.CLASS_NAMES[label] for label in drawn.labels]
    table.to_csv(folder / f"{name}.csv", index=False)
    has_effusion, is_large = rng.random((2, rows)) < 0.5
    findings = [f"{'Moderate' if e else 'No'} pleural effusion." for e in has_effusion]
    findings = [
        f"{a} The heart is {'enlarged' if b else 'normal in size'}." for a, b in zip(findings, is_large, strict=True)
    ]
    # A lexicon has these three.
    return table.drop(columns=["age", "sex", "opacity"]).assign(findings=findings, impression="No pneumothorax.")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with what a reader of the pages has: tables, images, weights, a repository and a text encoder."""
    folder = tmp_path_factory.mktemp("reader")
    reports = write_cases(folder, "cases", seed=0)
    for seed, name in enumerate(("newer_cases", "others", "new"), start=1):
        write_cases(folder, name, seed)
    for name in ("reports", "training_reports"):
        reports.to_csv(folder / f"{name}.csv", index=False)
    for name in ("case.png", "0.png"):
        shutil.copy(folder / "new-file-0.png", folder / name)

    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "weights.pth")
    (folder / "repository").mkdir()
    backbone = timm.create_model("test_vit", num_classes=0)
    save_file(backbone.state_dict(), folder / "repository" / "model.safetensors")
    timm.models.save_for_hf(backbone, folder / "repository", safe_serialization=True)

    (folder / "encoder").mkdir()
    (folder / "encoder" / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "the"])
    )
    config = transformers.BertConfig(vocab_size=7, hidden_size=46, num_hidden_layers=1, num_attention_heads=2)
    transformers.BertModel(config).save_pretrained(folder / "encoder")
    transformers.BertTokenizer.from_pretrained(folder / "encoder").save_pretrained(folder / "encoder")
    return folder


def run(command):
    for pattern, text in SUBSTITUTES:
        command = re.sub(pattern, text, command)
    if command.startswith("alignedfusion "):
        assert cli.main(shlex.split(command)[1:]) == 0, command
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)


def run_page(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for command in filter(is_run, commands(page)):
        run(command)


@pytest.fixture(scope="module")
def trained(reader, tmp_path_factory):
    """The folder after the README's commands: `runs/first` is there, which other pages use."""
    folder = tmp_path_factory.mktemp("readme") / "folder"
    shutil.copytree(reader, folder)
    with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_page(PAGES[0], folder, monkeypatch)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # 60 cases are few
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if any(map(is_run, commands(page)))], ids=name_of)
def test_the_commands_of_a_page_run(page, reader, trained, tmp_path, monkeypatch):
    shutil.copytree(reader, tmp_path, dirs_exist_ok=True)
    if not any(command.endswith("-o runs/first") for command in commands(page)):
        shutil.copytree(trained / "runs" / "first", tmp_path / "runs" / "first")
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(trained):
    made = ["runs/first/report.html", "predictions.parquet", "tokens", "runs/second", "case.html", "table.csv"]
    assert [name for name in made if not (trained / name).exists()] == []


def test_every_reason_applies_to_a_command():
    printed = [command for page in PAGES for command in commands(page)]
    assert len(printed) > 80
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for command in printed)] == []
    assert [pattern for pattern, _ in SUBSTITUTES if not any(re.search(pattern, command) for command in printed)] == []
    assert sum(map(is_run, printed)) > 30
