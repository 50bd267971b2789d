"""Several labels of which many are unknown: one model for all of them, a model per label, and complete cases only.

python benchmarks/several_labels.py [--indiana reports.csv] -o runs/labels

The phantom has five labels (two classes, three attributes of the report that are taken out of the input), of which 0, 30, 60 or
90 % are removed in training and validation; the test labels are complete. With --indiana, the labels are findings in the
impression of a report, the attributes what its findings section mentions, in three folds (Demner-Fushman et al. 2016). A
finding that the impression does not mention is an unknown label, in the test cases too. Outputs are stored in OUT and not
computed again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignedfusion import AttributeSchema
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import predict
from alignedfusion.evaluation.columns import check_columns, resample_columns, weighted_columns
from alignedfusion.presets import standard
from alignedfusion.training import TrainingSettings, fit

TRAIN, VALID, TEST, SIZE, PATCH = 400, 150, 1000, 32, 8
SEEDS, RATES, FOLDS = (0, 1, 2), (0.0, 0.3, 0.6, 0.9), 3
HIDDEN = {"growth": "growing", "itching": "present", "family_history": "positive"}
PHANTOM_LABELS = ("carcinoma", "melanoma", *HIDDEN)
FINDINGS = (
    "cardiomegaly",
    "pleural_effusion",
    "consolidation",
    "opacity",
    "atelectasis",
    "interstitial_markings",
    "nodule",
    "pulmonary_edema",
)
MIN_MENTIONED = 20
METRICS = ("macro_auc", "average_precision", "cross_entropy")
SETTINGS = TrainingSettings(epochs=12)


class Split(NamedTuple):
    """One division of a data set."""

    schema: AttributeSchema
    names: tuple[str, ...]
    train: TensorCases
    valid: TensorCases
    test: TensorCases
    seed: int


Method = Callable[[Split], np.ndarray | None]


def fit_predict(split: Split) -> np.ndarray:
    """Probabilities (n, L) of the test cases by one model."""
    torch.manual_seed(split.seed)
    has_images = bool(split.train.image.shape[1])
    model = standard(
        split.schema,
        split.names,
        backbone=None,
        images=("image",) if has_images else (),
        num_features=split.train.image.shape[-1] or None,
        dim=64,
        task="multilabel",
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(model, split.train, split.valid if len(split.valid) else None, folder, SETTINGS, progress=False)
    return predict(model, split.test, [split.test.codes], progress=False)[0]


def one_model(split: Split) -> np.ndarray | None:
    """One model for all labels; unknown ones take no part."""
    return fit_predict(split)


def model_per_label(split: Split) -> np.ndarray | None:
    """A model for each label, trained on the cases in which it is known."""
    columns = []
    for label, name in enumerate(split.names):
        train, valid = (_keep(cases, cases.labels[:, label] >= 0, [label]) for cases in (split.train, split.valid))
        columns.append(fit_predict(split._replace(names=(name,), train=train, valid=valid)))
    return np.concatenate(columns, axis=1)


def complete_cases(split: Split) -> np.ndarray | None:
    """One model, trained on the cases whose labels are all known; None without any."""
    everything = list(range(len(split.names)))
    train, valid = (_keep(cases, (cases.labels >= 0).all(1), everything) for cases in (split.train, split.valid))
    return fit_predict(split._replace(train=train, valid=valid)) if len(train) else None


METHODS: dict[str, Method] = {
    "one model for all labels": one_model,
    "a model per label": model_per_label,
    "complete cases only": complete_cases,
}


def _keep(cases: TensorCases, rows: Tensor, labels: list[int]) -> TensorCases:
    return TensorCases(cases.image[rows], cases.codes[rows], cases.labels[rows][:, labels])


def phantom_split(rate: float, seed: int) -> Split:
    """Cases of the phantom, with raw pixels as tokens."""
    drawn = phantom.make(TRAIN + VALID + TEST, image_size=SIZE, seed=seed)
    names = [name for name in phantom.SCHEMA.names if name not in HIDDEN]
    schema = AttributeSchema([attribute for attribute in phantom.SCHEMA if attribute.name in names])
    codes = schema.encode([{name: row[name] for name in names} for row in drawn.rows])
    classes = [drawn.labels == phantom.CLASS_NAMES.index(name) for name in PHANTOM_LABELS[:2]]
    hidden = [torch.tensor([row[name] == value for row in drawn.rows]) for name, value in HIDDEN.items()]
    labels = torch.stack([*classes, *hidden], dim=1).long()
    random = np.random.default_rng(seed)
    is_removed = torch.from_numpy(random.random(labels.shape) < rate)
    is_removed[TRAIN + VALID :] = False
    labels = labels.masked_fill(is_removed, -1)
    pixels = torch.from_numpy(drawn.images).float() / 127.5 - 1
    tokens = pixels.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)  # (n, N, 3 PATCH^2)
    parts = (slice(0, TRAIN), slice(TRAIN, TRAIN + VALID), slice(TRAIN + VALID, None))
    return Split(schema, PHANTOM_LABELS, *(TensorCases(tokens[p], codes[p], labels[p]) for p in parts), seed)


def indiana_split(path: Path, fold: int) -> Split:
    """Findings in the impressions of the reports, from what the findings sections mention."""
    import pandas as pd

    from alignedfusion.reports import RuleExtractor

    frame = pd.read_csv(path).fillna("")
    extractor = RuleExtractor("chest_xray")
    impressions, findings = (
        pd.DataFrame([{name: cell.state for name, cell in extractor.extract(text).items()} for text in frame[column]])
        for column in ("impression", "findings")
    )
    mentioned = [name for name in findings if findings[name].notna().sum() >= MIN_MENTIONED]
    schema = AttributeSchema.from_table(findings, mentioned)
    codes = schema.encode(findings[mentioned])
    states = impressions[list(FINDINGS)].apply(lambda column: column.map({"negative": 0, "positive": 1}))
    labels = torch.tensor(states.fillna(-1).to_numpy(dtype=np.int64))  # "uncertain" is unknown too
    folds = np.random.default_rng(0).permutation(len(frame)) % (5 * FOLDS)
    is_test, is_valid = folds % FOLDS == fold, (folds // FOLDS == 0) & (folds % FOLDS != fold)
    cases = (
        TensorCases(torch.zeros(int(rows.sum()), 0), codes[rows], labels[rows])
        for rows in map(torch.from_numpy, (~is_test & ~is_valid, is_valid, is_test))
    )
    return Split(schema, FINDINGS, *cases, fold)


def stored(path: Path, make: Callable[[], Split], method: Method) -> tuple[np.ndarray | None, np.ndarray, float]:
    """Outputs and labels of the test cases, and seconds of processor time; computed unless they are stored."""
    if not path.is_file():
        split, start = make(), time.process_time()
        outputs = method(split)
        found = {"labels": split.test.labels.numpy(), "seconds": np.array(time.process_time() - start)}
        np.savez(path, **found, **({} if outputs is None else {"outputs": outputs}))
    with np.load(path) as file:
        return file.get("outputs"), file["labels"], float(file["seconds"])


def rows_of(title: str, splits: list[tuple[str, Callable[[], Split]]], folder: Path) -> list[str]:
    """Rows of the table: metrics of each method over all splits, and intervals of the difference from one model."""
    rows, reference = [], None
    for name, method in METHODS.items():
        parts = [stored(folder / f"{key}-{name.replace(' ', '-')}.npz", make, method) for key, make in splits]
        seconds = sum(part[2] for part in parts)
        if any(part[0] is None for part in parts):
            rows.append(f"| {title} | {name} | no such case | - | - | - |")
            continue
        outputs, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        # The seeds of the phantom have test cases of their own, and so have folds: no case counts twice.
        columns = check_columns(outputs, labels, "multilabel")
        overall, _ = weighted_columns(columns, np.ones((1, len(columns.labels))))
        draws, _ = resample_columns(columns, resamples=1000)
        reference = draws if reference is None else reference
        cells = [_cell(float(overall[metric][0]), draws[metric] - reference[metric]) for metric in METRICS]
        rows.append(f"| {title} | {name} | {' | '.join(cells)} | {seconds:.0f} s |")
    return rows


def _cell(value: float, difference: np.ndarray) -> str:
    low, high = np.quantile(difference, (0.025, 0.975))
    mark = "" if low <= 0 <= high else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:.3f}{mark}"


def main() -> None:
    """Print the table and write it to OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indiana", type=Path, metavar="CSV")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    lines = [
        "In brackets: 95 % interval of the difference from one model for all labels, where it leaves out 0.",
        "",
        "| labels | method | macro AUC | average precision | cross-entropy | training |",
        "|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        splits = [(f"phantom-{rate}-{seed}", lambda r=rate, s=seed: phantom_split(r, s)) for seed in SEEDS]
        lines += rows_of(f"phantom, {rate:.0%} unknown", splits, options.output)
        print("\n".join(lines[-len(METHODS) :]), flush=True)
    if options.indiana:
        splits = [(f"indiana-{fold}", lambda f=fold: indiana_split(options.indiana, f)) for fold in range(FOLDS)]
        lines += rows_of("impressions of reports", splits, options.output)
    text = "\n".join(lines) + "\n"
    (options.output / "several_labels.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
