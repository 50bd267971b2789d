"""Setup of the pages of docs/ (files and names that they use without defining them), and checks after their code ran."""

import gc
import re
import shutil
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import datasets
import nibabel
import pandas as pd
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from alignedfusion import VisualTokenizer
from alignedfusion.datasets import phantom
from alignedfusion.modules import tokenizers
from alignedfusion.modules.backbones import create_backbone
from alignedfusion.modules.timm_source import TimmSource
from alignedfusion.presets import Backbone, standard
from alignedfusion.reports.showing import mark
from alignedfusion.reports.workers import read_all
from alignedfusion.sklearn import AlignedFusionEstimator
from alignedfusion.training import TrainingSettings, fit


def some_cases(names, monkeypatch):
    """cases.csv with images, the same cases as a data set, trainings of one epoch, and a tiny backbone without a download."""
    warnings.filterwarnings("ignore", "pretrained=False")  # until the test ends
    drawn = phantom.make(40, image_size=32, missing=0.2)
    table = pd.DataFrame(phantom.SCHEMA.decode(drawn.codes))[["border", "growth"]]
    table = table.assign(file=[f"{i}.png" for i in range(40)], patient=[i // 2 for i in range(40)])
    table.assign(diagnosis=["nevus", "melanoma"] * 20).to_csv("cases.csv", index=False)
    for name, pixels in zip(table["file"], drawn.images, strict=True):
        Image.fromarray(pixels).save(name)
    quick = {"epochs": 1, "pretrained": False, "image_size": 32, "verbose": False}
    for name, value in quick.items():
        monkeypatch.setitem(AlignedFusionEstimator.__init__.__kwdefaults__, name, value)
    monkeypatch.setattr(
        gc, "collect", lambda *_: 0
    )  # a collection at the end of each training would take longer than the training
    monkeypatch.setattr(tokenizers, "create_backbone", lambda _, *rest: create_backbone(TimmSource("test_vit"), *rest))

    frame = pd.DataFrame({"age": [20, 30], "sex": ["f", None], "file": ["0.png", "1.png"], "label": ["x", "y"]})
    features = datasets.Features(
        {
            "age": datasets.Value("int64"),
            "sex": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["x", "y"]),
        }
    )
    rows = frame.rename(columns={"file": "image"}).to_dict("list")
    names.update(frame=frame, names=["x", "y"], train=datasets.Dataset.from_dict(rows, features=features))
    names["model"] = SimpleNamespace(visual=VisualTokenizer("test_vit", 38, pretrained=False, image_size=224))
    names.update(mean=[0.5] * 3, std=[0.5] * 3)


def a_loop(names, monkeypatch):
    """A model, its cases, `fit`, an optimizer and a loader."""
    names["model"] = standard(
        phantom.SCHEMA, phantom.CLASS_NAMES, backbone=Backbone("test_vit", pretrained=False, image_size=32), dim=64
    )
    names["train"], names["valid"] = (
        phantom.make(n, image_size=32).cases(mean=[0.5] * 3, std=[0.5] * 3) for n in (16, 8)
    )
    names["fit"] = partial(fit, settings=TrainingSettings(epochs=1), progress=False)
    names["optimizer"] = torch.optim.AdamW(names["model"].parameters())
    names["loader"] = torch.utils.data.DataLoader(names["train"], batch_size=8)


def a_model_and_its_cases(names, monkeypatch):
    """A model, training, validation and test cases, and the table of the test cases."""
    a_loop(names, monkeypatch)
    made = phantom.make(30, seed=3, image_size=32, missing=0.2)
    names["test"] = made.cases(mean=[0.5] * 3, std=[0.5] * 3)
    names["table"] = pd.DataFrame(phantom.SCHEMA.decode(made.codes)).assign(patient=[i // 2 for i in range(30)])
    names["fit"] = partial(fit, progress=False)


def nothing_has_changed(names):
    """Right after wrapping, a detector returns the same boxes."""
    alone = names["fusion"].eval() and names["detector"].eval()(names["images"])
    for boxes, expected in zip(names["boxes"], alone, strict=True):
        assert all(torch.equal(boxes[key], expected[key]) for key in expected)


def one_word_is_read(names):
    """The extractor that the page defines works."""
    rows = read_all(["An effusion.", "Nothing."], names["OneWord"](), progress=False)
    assert [row["effusion"].value for row in rows] == ["positive", None]
    assert mark("An effusion.", rows[0]) == "An [effusion]{effusion: positive}."


def medical_files(names, monkeypatch):
    """Files that pydicom and nibabel ship for their tests, and a table that names one of them."""
    shutil.copy(get_testdata_file("CT_small.dcm", download=False), "ct.dcm")
    shutil.copy(get_testdata_file("SC_rgb_rle_2frame.dcm", download=False), "cine.dcm")
    nibabel.save(nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"), "brain.nii.gz")
    names["table"] = pd.DataFrame(
        {"scan": ["brain.nii.gz"] * 2, "seizures": ["yes", None], "age": [54, 61], "label": ["glioma", "healthy"]}
    )


def every_file_and_key_of_a_run_is_in_a_table(names):
    """The tables of the page name the files of the run folder that it made, and the keys of its metrics, and no others."""
    text = (Path(__file__).parents[2] / "docs" / "file-formats.md").read_text("utf-8")
    listed, keys = (
        set(re.findall(r"`([\w.]+)`", " ".join(re.findall(r"^\|([^|]*)\|", part, re.MULTILINE))))
        for part in text.split("## Run folder")[1].split("## Checkpoint")[0].split("`metrics.json` has these keys")
    )
    assert {path.name for path in Path("run").iterdir() if path.name[0] != "."} == listed
    assert {*names["report"], "subgroups"} == keys


BEFORE = {
    "metrics.md": a_model_and_its_cases,
    "scikit-learn.md": some_cases,
    "several-machines.md": a_loop,
    "tutorials/medical-images.md": medical_files,
}
AFTER = {
    "detection.md": nothing_has_changed,
    "file-formats.md": every_file_and_key_of_a_run_is_in_a_table,
    "reports.md": one_word_is_read,
}
