"""The paper's tables on your data: the published results, all baselines, and ours, with a paired test of each row.

python benchmarks/paper_tables.py --table 1b --source derm7pt_tokens --data FOLDER -o runs/tables
python benchmarks/paper_tables.py --table 1a --source manifest --data cases.csv --images image --label diagnosis -o OUT

Tables: 1a M-Tr+C-Te, 1b C-Tr+M-Te, 1c and 1d M-Tr+M-Te (half of the training cells missing), 2 M-Tr+C-Te with reports as one
text, 4a the intermediate token, 4b the hiding probability; beyond the paper: ablations.
Each trained model is tested at every rate, and its predictions are stored in OUT/runs. Tables share them, and the same command
continues after an interruption. The script writes a table as Markdown and CSV, and a plot, to OUT.
"""

from __future__ import annotations

import argparse
import json
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import METHODS, OURS, Fold, WithoutImage, models_at
from results import OMISSIONS, write_table
from sources import FOLDS, Source, open_source, store
from torch import nn
from tqdm.auto import tqdm

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets import derm7pt, milk10k
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.missingness import DENIALS, Scenario, drop_attributes, mar, mcar, mnar
from alignedfusion.evaluation import predict
from alignedfusion.evaluation.metrics import RATES
from alignedfusion.modules.text_encoder import TextEncoder

TEST_RATES = (*RATES, 0.75, 0.9, 1.0)
MAIN = (*tuple(list(METHODS)[: list(METHODS).index("whole report as one text")]), "the paper's model", OURS)
OF_THE_PAPER = (
    "image only",
    "attributes only",
    "boosted trees on image and attributes",
    "two experts",
    "two experts, prior counted once",
    "element-wise sum",
    "joint self-attention",
    "FusionM4Net, 2nd stage",
    "FusionM4Net, Miss Val.",
    "the paper's model",
    OURS,
)
ROWS = {
    "1a": OF_THE_PAPER,
    "1b": MAIN,
    "1c": OF_THE_PAPER,
    "1d": OF_THE_PAPER,
    "2": (*OF_THE_PAPER[:-1], "whole report as one text", "values as text", OURS),
    "4a": ("ours, no intermediate token", "joint self-attention", OURS),
    "4b": (*(name for name in METHODS if name.startswith("ours, p =")), OURS),
    "ablations": (*(name for name in METHODS if name.startswith("ours, ") and "p =" not in name), OURS),
    "reconstruction": (
        "ours, no reconstruction",
        "ours, reconstructed tokens used",
        "used, their loss trains the reconstructor alone",
        "used, reconstruction loss times 0.3",
        "used, reconstruction loss times 3",
        "ours, two passes",
        "most probable values filled in",
        "mean over drawn values",
        "mean over values drawn by another model",
        OURS,
    ),
}
SLOW_ROWS = ("mean over drawn values", "mean over values drawn by another model")
"""Rows that are tested with cells missing at random alone."""
TRAINING_RATES = {"1a": RATES, "1c": (0.5,), "1d": (0.5,), "2": RATES, "4a": RATES, "4b": (0.0,)}


@dataclass(frozen=True)
class Unit:
    """One split of the cases with one missing rate in training, on which the methods of a table are trained."""

    protocol: str
    fold: int
    seed: int
    training_rate: float

    def folder(self, runs: Path) -> Path:
        """Folder of its predictions."""
        return runs / f"{self.protocol}{self.fold}-seed{self.seed}-train{self.training_rate:g}"


def run_unit(unit: Unit, methods: list[str], source: Source, runs: Path, options: argparse.Namespace) -> None:
    """Train each method that has no predictions yet, and predict the test cases at every rate."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = source.split(unit.protocol, unit.fold, unit.seed)
    schema = source.schema(rows["train"])
    codes = schema.encode(source.frame, unseen="unknown")
    source = source.reduced(rows["train"])
    scenario = Scenario(train=unit.training_rate, valid=unit.training_rate, seed=unit.seed)
    visible = {
        split: scenario.apply(split, codes[numbers], schema, numbers.tolist()) for split, numbers in rows.items()
    }
    fold = Fold(
        train=source.cases(rows["train"], visible["train"], training=True),
        valid=source.cases(rows["valid"], visible["valid"]),
        valid_rows=rows["valid"].tolist(),
        schema=schema,
        class_names=tuple(source.class_names),
        dim=options.dim,
        epochs=options.epochs,
        seed=unit.seed,
        text_encoder=TextEncoder(options.text_encoder) if options.text_encoder else None,
    )
    test = source.cases(rows["test"], codes[rows["test"]])
    counts = torch.bincount(fold.train.labels, minlength=len(source.class_names)) + 1.0
    prior = (counts / counts.sum()).numpy()
    variants = test_variants(test.codes, schema, rows["test"], unit.seed)
    for method in methods:
        file = result_file(unit, method, runs)
        if file.is_file():
            continue
        tested = {key: codes for key, codes in variants.items() if method not in SLOW_ROWS or key[0] == "cell"}
        found = predict_all(method, fold, test, tested)
        predictions = {"rows": rows["test"], "labels": test.labels.numpy(), "prior": prior, **found}
        store(file, predictions)


def test_variants(
    codes: torch.Tensor, schema: AttributeSchema, rows: np.ndarray, seed: int
) -> dict[tuple[str, float], torch.Tensor]:
    """The codes of the test cases by kind of omission and rate. All kinds are equal at the rate 0."""
    kinds = {"cell": mcar, "other attribute": mar(schema.names[0]), "own value": by_own_value}
    if DENIALS.intersection(value.lower() for attribute in schema for value in attribute.values):
        kinds |= {"denials kept": mnar(denials=0.0, others=1.0), "denials omitted": mnar(denials=1.0, others=0.0)}
    return {
        (kind, rate): drop_attributes(codes, rate, schema, mechanism=mechanism, cases=rows.tolist(), seed=seed)
        for kind, mechanism in kinds.items()
        for rate in (TEST_RATES if kind == "cell" else TEST_RATES[1:])
    }


def by_own_value(codes: torch.Tensor, rate: float, schema: AttributeSchema) -> torch.Tensor:
    """Missing not at random: the probability grows from zero at an attribute's first value to twice the rate at its last."""
    last = torch.tensor([max(number - 1, 1) for number in schema.num_values])
    return (2.0 * rate * codes.clamp(min=0).double() / last).clamp(max=1.0)


def predict_all(
    method: str, fold: Fold, test: TensorCases, variants: dict[tuple[str, float], torch.Tensor]
) -> dict[str, np.ndarray]:
    """Probabilities (n, C) of a method for every variant of the reports, and without each of several images."""
    models = {rate: models_at(method, fold, rate) for rate in TEST_RATES}
    by_model: dict[nn.Module, list[tuple[str, float]]] = {}
    for kind, rate in variants:
        by_model.setdefault(models[rate], []).append((kind, rate))
    found = {}
    for model, keys in by_model.items():
        probabilities = predict(model, test, [variants[key] for key in keys], batch_size=256, progress=False)
        found |= {f"{kind} {rate:g}": array for (kind, rate), array in zip(keys, probabilities, strict=True)}
    for absent in fold.images if len(fold.images) > 1 and method not in SLOW_ROWS else ():
        for rate in (0.0, 0.5, 1.0):
            model = WithoutImage(models[rate], absent)
            codes = [variants["cell", rate]]
            found[f"without {absent} {rate:g}"] = predict(model, test, codes, batch_size=256, progress=False)[0]
    return found


def result_file(unit: Unit, method: str, runs: Path) -> Path:
    """File of the predictions of a method."""
    return unit.folder(runs) / f"{method.replace(',', '').replace(' ', '_')}.npz"


def main(arguments: list[str] | None = None) -> None:
    """Train the models without predictions, then write the table."""
    options = _options(arguments)
    runs = options.output / "runs" / (options.source if options.source == "phantom" else _name(options))
    _check_settings(runs, options)
    columns = {**vars(options), "attributes": options.columns}
    source = open_source(options.source, options.data, options.attributes, options.output / "tokens", columns)
    methods = [name for name in ROWS[options.table] if not options.methods or name in options.methods]
    if not options.text_encoder:
        methods = [name for name in methods if "text" not in name]
    folds = range(1 if options.protocol == "split" else FOLDS)
    rates = TRAINING_RATES.get(options.table, (0.0,))
    units = [Unit(options.protocol, f, s, r) for s in range(options.seeds) for r in rates for f in folds]
    todo = [unit for unit in units if not all(result_file(unit, name, runs).is_file() for name in methods)]

    bar = tqdm(total=len(units), initial=len(units) - len(todo), unit="split", desc=f"table {options.table}")
    if options.jobs == 1:
        for unit in todo:
            run_unit(unit, methods, source, runs, options)
            bar.update()
    else:
        _run_many(todo, (methods, source, runs, options), options.jobs, bar)
    bar.close()
    predictions = {name: {unit: dict(np.load(result_file(unit, name, runs))) for unit in units} for name in methods}
    write_table(options, source, predictions)


def _check_settings(runs: Path, options: argparse.Namespace) -> None:
    """Refuse to mix predictions made with different settings in one table."""
    now = {"dim": options.dim, "epochs": options.epochs, "text-encoder": options.text_encoder, "task": options.task}
    file = runs / "settings.json"
    if not file.is_file():
        runs.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now), "utf-8")
    before = json.loads(file.read_text("utf-8"))
    for name, value in now.items():
        if before[name] != value and (name != "text-encoder" or None not in (before[name], value)):
            raise SystemExit(
                f"{runs} was made with --{name} {before[name]}, but this call has --{name} {value}: choose another -o"
            )


def _run_many(units: list[Unit], rest: tuple[Any, ...], jobs: int, bar: Any) -> None:
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(run_unit, unit, *rest) for unit in units]
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _name(options: argparse.Namespace) -> str:
    has_preset = options.source in ("milk10k", "derm7pt", "derm7pt_tokens")
    return f"{options.source}-{options.attributes}" if has_preset else options.source


def _options(arguments: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=ROWS, required=True)
    parser.add_argument(
        "--source",
        choices=("milk10k", "derm7pt_tokens", "derm7pt", "pad_ufes_20", "pad_ufes_20_table", "manifest", "phantom"),
        required=True,
    )
    parser.add_argument("--data", type=Path, help="folder of the data set, or CSV file of a manifest")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--protocol", choices=("split", "cv"), default="split", help="the official split, or 5 folds")
    parser.add_argument(
        "--omission",
        default="cell",
        metavar="KIND",
        help=f"what is missing in the test reports: {', '.join(OMISSIONS)}, or 'without IMAGE' (default: cell)",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="ROW", help="rows of the table (default: all)")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=1, help="number of splits trained in parallel, one core each")
    parser.add_argument("--text-encoder", metavar="NAME", help="Hugging Face encoder for the rows that encode text")
    presets = parser.add_argument_group("Derm7pt and MILK10k")
    presets.add_argument(
        "--preset",
        dest="attributes",
        choices=sorted({*derm7pt.ATTRIBUTES, *milk10k.ATTRIBUTES}),
        help="set of attributes (default: patient3, or patient4+derm7)",
    )
    presets.add_argument(
        "--tokens", type=Path, metavar="FOLDER", help="MILK10k's image tokens, written by `alignedfusion tokens`"
    )
    images = parser.add_argument_group("sources with images")
    images.add_argument("--backbone", default="vit_small_patch16_224", help="frozen timm model")
    images.add_argument("--weights", type=Path, help="file of its weights (default: from timm's hub)")
    images.add_argument(
        "--task", choices=("diagnosis", "malignancy"), default="malignancy", help="label of PAD-UFES-20"
    )
    images.add_argument("--images", nargs="+", metavar="COLUMN")
    images.add_argument("--label", metavar="COLUMN")
    images.add_argument("--group", metavar="COLUMN", help="column with the patient")
    images.add_argument("--split", metavar="COLUMN")
    images.add_argument(
        "--columns", nargs="+", metavar="COLUMN", help="attribute columns (default: all suitable columns)"
    )
    options = parser.parse_args(arguments)
    if options.table == "reconstruction" and options.omission != "cell":
        parser.error("--table reconstruction has cells missing at random alone: leave --omission out")
    options.attributes = options.attributes or ("patient4+derm7" if options.source == "milk10k" else "patient3")
    return options


if __name__ == "__main__":
    main()
