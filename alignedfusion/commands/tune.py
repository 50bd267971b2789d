"""`alignedfusion tune`: train a backbone on your own images, before its tokens are stored."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path

from alignedfusion.commands.table_options import add_backbone, add_fitting, add_manifest, add_splits, add_table_options

_TUNE = """\
Train a pretrained backbone to classify the images of a table, and write its weights. Then store its tokens once, and train the
fusion on them:

  alignedfusion tune   cases.csv --image file --label diagnosis --group patient --tune last:1 -o TUNED
  alignedfusion tokens cases.csv --image file --weights TUNED/backbone.safetensors -o TOKENS
  alignedfusion train  cases.csv --image file --label diagnosis --group patient --tokens TOKENS -o RUN

The table is that of `train`. With the same --label, --group, --split and --seed the splits are the same: validation cases are
only measured, and test cases are not read. `train` refuses weights that were tuned on images of its validation or test cases;
it finds these images in TUNED/trained_images.json, which must stay beside backbone.safetensors.

If tuning is interrupted, the same command continues from the last epoch.
"""


def add_tune(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("tune", _tune, "train a backbone on your own images", _TUNE)
    add_manifest(parser)
    parser.add_argument("-o", "--output", required=True, metavar="TUNED", help="folder of the tuned backbone")
    parser.add_argument("--image", nargs="+", required=True, metavar="COL", help="image columns")
    add_table_options(parser)
    parser.add_argument("--label", required=True, metavar="COL", help="column with the label to predict")
    add_splits(parser)
    add_backbone(parser)
    parser.add_argument(
        "--tune",
        default="last:1",
        metavar="T",
        help="weights to train: whole, last:K (stages of a conv net, blocks of a transformer) or lora (default: last:1)",
    )
    add_fitting(parser, epochs=5)
    parser.add_argument(
        "--workers", type=int, help="processes that read images (default: one per CPU, 8 at most; 0 without a GPU)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the head, order and random splits (default: 0)")


def _tune(options: argparse.Namespace) -> None:
    from alignedfusion.datasets.columns import CaseColumns
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.modules.backbones import Backbone, locate_weights
    from alignedfusion.training import TrainingSettings, tuning
    from alignedfusion.training.distributed import default_workers, is_main_process

    backbone = Backbone(options.backbone, options.weights or True, options.tune, options.image_size, options.timm_args)
    if not options.weights:
        locate_weights(
            options.backbone
        )  # an error before all images are checked, which takes minutes for a large table
    manifest = Manifest.read(
        options.manifest,
        CaseColumns(images=options.image, label=options.label, attributes=(), group=options.group, split=options.split),
        missing_values=options.missing_values,
        root=options.image_root,
        seed=options.seed,
    )
    if is_main_process():
        print(f"cases: {len(manifest.rows('train'))} train, {len(manifest.rows('valid'))} valid")
    report = tuning.tune(
        manifest,
        options.output,
        backbone,
        TrainingSettings(
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
        ),
        workers=default_workers() if options.workers is None else options.workers,
    )
    if is_main_process():
        _print(report, options)


def _print(report: dict[str, object], options: argparse.Namespace) -> None:
    from alignedfusion.training.tuned_weights import WEIGHTS

    valid = report["valid"]
    assert isinstance(valid, dict)
    if report["left_out"]:
        print(f"left out: {report['left_out']} training cases that share an image with a validation or test case")
    print(
        f"images alone, validation cases: accuracy {valid['accuracy']:.1%}, cross-entropy {valid['cross_entropy']:.3f}"
    )
    words = ["alignedfusion", "tokens", options.manifest, "--image", *options.image, "--backbone", options.backbone]
    words += ["--weights", str(Path(options.output) / WEIGHTS)]
    for name in ("image_root", "image_size"):
        if (value := getattr(options, name)) is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    if options.timm_args:
        words += ["--timm-args", json.dumps(options.timm_args)]
    print(f"To store its tokens: {shlex.join(words)} -o TOKENS")
