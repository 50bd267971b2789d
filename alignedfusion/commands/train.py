"""`alignedfusion train`: train a model on your own cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignedfusion.commands.column_options import add_column_options, read_column_changes
from alignedfusion.commands.table_options import (
    add_backbone,
    add_case_pages,
    add_fitting,
    add_manifest,
    add_max_unreadable,
    add_splits,
    add_subgroups,
    add_table_options,
    print_results,
    read_cases,
)
from alignedfusion.datasets.tasks import TASKS
from alignedfusion.evaluation.conformal import KINDS
from alignedfusion.training.settings import BALANCES

_TRAIN = """\
Train a classifier on your own images and a table that may have empty cells, and test it.

The table has one row per case: one or more columns with image files (PNG, JPEG, TIFF or DICOM, or .npy files with precomputed
tokens (N, F)), a column with the label, and attribute columns. Several label columns hold yes and no (1/0, yes/no, true/false,
positive/negative, present/absent), or numbers with --task regression; an empty label cell is unknown.

An empty image cell means that the case lacks this image. An empty attribute cell means that the report does not mention the
attribute. If the report denies it, write a value such as "absent". Cells that cannot be read, such as a word among numbers,
are reported and count as unmentioned. Exclude columns that follow from the label (--exclude): they leak it to the model. A
column that alone nearly gives the label away is named before training. Identifiers, such as record numbers, are left out
unless --attributes names them.

A file TABLE.columns.yaml beside TABLE.csv can state the kind, units, edges, values, decimal sign and missing codes of columns,
one line per column, such as `age: {units: years, missing: [999]}`. Options of the command override those of the file.

The folder OUT gets the model and its card (README.md), settings.json, metrics.json, predictions.csv, report.html (a page with
all results and figures) and missing.png (accuracy against the share of missing attributes). If training is interrupted, the
same command continues from the last epoch.

With --tokens, the backbone does not run: the tokens that `alignedfusion tokens` computed are read instead of the images, so
that epochs are fast. Images are not augmented then. The trained model includes the backbone and predicts from images.
"""


def add_train(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("train", _train, "train and test a model on your own cases", _TRAIN)
    add_manifest(parser)
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of this run")

    data = parser.add_argument_group("columns of the table")
    images = "image columns (without any: AlignedFusionEstimator in Python)"
    data.add_argument("--image", nargs="+", required=True, metavar="COL", help=images)
    add_table_options(data)
    data.add_argument(
        "--label",
        nargs="+",
        required=True,
        metavar="COL",
        help="column with the class, or columns of yes and no or of numbers",
    )
    data.add_argument(
        "--task",
        choices=TASKS,
        help="what the labels are: classes, several labels of yes and no, or numbers (default: multiclass for one column, "
        "multilabel for several)",
    )
    data.add_argument(
        "--attributes", nargs="+", metavar="COL", help="attribute columns (default: all suitable columns)"
    )
    data.add_argument("--exclude", nargs="+", default=[], metavar="COL", help="columns not to use as attributes")
    add_splits(data)
    data.add_argument(
        "--key",
        metavar="COL",
        help="column that identifies a case, for `evaluate` (default: the content of its images)",
    )
    add_column_options(data)
    add_max_unreadable(data)
    add_subgroups(data)
    add_case_pages(parser)

    model = parser.add_argument_group("model")
    model.add_argument(
        "--tokens",
        metavar="FOLDER",
        help="read tokens that `alignedfusion tokens` computed instead of images (no augmentation)",
    )
    add_backbone(model, None)
    model.add_argument("--no-pretrained", action="store_true", help="train the backbone from random weights")
    model.add_argument(
        "--tune",
        metavar="T",
        help="weights of the backbone to train: none, last:K, lora or whole (default: none; whole with --no-pretrained)",
    )
    model.add_argument(
        "--text-encoder", metavar="NAME", help="Hugging Face encoder of the values' prompts (default: learned vectors)"
    )
    model.add_argument("--dim", type=int, default=128, help="width of the tokens (default: 128)")

    training = parser.add_argument_group("training")
    add_fitting(training, epochs=30)
    training.add_argument(
        "--balance",
        choices=BALANCES,
        default="none",
        help="help for rare classes in the predicted class; probabilities stay calibrated (default: none)",
    )
    training.add_argument(
        "--sets",
        choices=("none", *KINDS),
        default="none",
        help="conformal prediction sets, calibrated on the validation cases (default: none)",
    )
    training.add_argument(
        "--coverage", type=float, default=0.9, metavar="S", help="share of sets with the true class (default: 0.9)"
    )
    training.add_argument(
        "--workers",
        type=int,
        help="processes that read images (default: one per CPU, 8 at most; 0 without a GPU or with --tokens)",
    )
    training.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order, hiding and random splits (default: 0)"
    )


def _train(options: argparse.Namespace) -> None:
    from alignedfusion.datasets.columns import CaseColumns
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.datasets.token_cache import TokenCache
    from alignedfusion.modules.backbones import Backbone
    from alignedfusion.training import TrainingSettings, runs
    from alignedfusion.training.distributed import default_workers, is_main_process

    if options.weights and options.no_pretrained:
        raise ValueError("--weights and --no-pretrained exclude each other: give one of them")
    workers = options.workers
    if workers is None:
        workers = 0 if options.tokens else default_workers()
    manifest = Manifest.read(
        options.manifest,
        CaseColumns(
            images=options.image,
            label=options.label,
            attributes=options.attributes,
            exclude=options.exclude,
            group=options.group,
            split=options.split,
            key=options.key,
            subgroups=options.subgroup,
            task=options.task or "",
        ),
        missing_values=options.missing_values,
        root=options.image_root,
        changes=read_column_changes(options),
        max_unread=options.max_unreadable,
        seed=options.seed,
        tokens=TokenCache(options.tokens) if options.tokens else None,
    )
    _check_weights(options)
    if is_main_process():
        _describe(manifest)
        _advise_tokens(options, manifest)
    report = runs.train(
        manifest,
        options.output,
        backbone=Backbone(
            options.backbone,
            pretrained=options.weights or not options.no_pretrained,
            tune=options.tune or ("whole" if options.no_pretrained else "none"),
            image_size=options.image_size,
            timm_args=options.timm_args,
        ),
        text_encoder=options.text_encoder,
        dim=options.dim,
        settings=TrainingSettings(
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
            balance=options.balance,
            sets=options.sets,
            coverage=options.coverage,
        ),
        workers=workers,
        case_pages=options.case_pages,
    )
    if not is_main_process():
        return
    chance = f"; most frequent class {report['most_frequent_class']:.1%}" if "most_frequent_class" in report else ""
    print(f"\n{report['cases']['test']} test cases{chance}")
    print_results(report)
    page = "report.html, " if (Path(options.output) / "report.html").is_file() else ""
    print(f"\nThe model, {page}metrics.json, predictions.csv and missing.png are in {options.output}")


def _check_weights(options: argparse.Namespace) -> None:
    """Refuse weights that cannot be downloaded before all images are checked, which takes minutes for a large table."""
    from alignedfusion.modules.backbones import DEFAULT_BACKBONE, locate_weights
    from alignedfusion.tables.files import check_columns

    if options.tokens or options.weights or options.no_pretrained:
        return
    frame, _ = read_cases(options.manifest, options)
    check_columns(frame, options.image)
    if not frame[options.image[0]].astype(str).str.endswith(".npy").any():  # tokens need no backbone
        locate_weights(options.backbone or DEFAULT_BACKBONE)


def _describe(manifest: Any) -> None:
    counts = ", ".join(f"{len(manifest.rows(split))} {split}" for split in ("train", "valid", "test"))
    print(f"cases: {counts}; {_describe_labels(manifest)}")
    schema = manifest.schema()
    shares = (schema.encode(manifest.rows("train"), unseen="unknown") >= 0).double().mean(0).tolist()
    named = ", ".join(f"{a.name} ({a.kind}) {share:.0%}" for a, share in zip(schema, shares, strict=True))
    print(f"attributes (share of training cases that mention it): {named}")
    left_out = manifest.left_out or {}
    if empty := [name for name, reason in left_out.items() if "has no value in any" in reason]:
        print(f"left out: columns without a value in the training rows: {', '.join(empty)}")
    for name, reason in left_out.items():
        if name not in empty:
            print(f"left out: column {name!r}: {reason}")
    print("No attribute may follow from the label; use --exclude to leave columns out.")


def _describe_labels(manifest: Any) -> str:
    labels, counts = manifest.labels, manifest.labels.count(manifest.rows("train"))
    if labels.task == "multiclass":
        return f"classes: {', '.join(labels.names)}"
    kind, names = ("labels", ("positive", "negative")) if labels.task == "multilabel" else ("numbers", ("known",))
    described = (
        f"{name} ({', '.join(f'{count[n]} {n}' for n in (*names, 'unknown'))})" for name, count in counts.items()
    )
    return f"{kind} of the training cases: {', '.join(described)}"


def _advise_tokens(options: argparse.Namespace, manifest: Any) -> None:
    import torch

    is_trained = options.tune not in (None, "none") or options.no_pretrained
    is_token_file = manifest.frame[manifest.images[0]].astype(str).str.endswith(".npy").any()
    if not (options.tokens or is_trained or is_token_file or torch.cuda.is_available()):
        print(
            "There is no GPU, and the backbone runs on each image in each epoch: `alignedfusion tokens` runs it only once."
        )
