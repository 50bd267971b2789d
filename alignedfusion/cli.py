"""The `alignedfusion` command."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignedfusion import __version__, example_files
from alignedfusion.reports.cells import ServerError
from alignedfusion.reports.command import add_commands

_EXAMPLES = """\
examples:
  alignedfusion demo
  alignedfusion train cases.csv --image file --label diagnosis --group patient -o runs/first
  alignedfusion tokens cases.csv --image file -o tokens && alignedfusion train cases.csv --tokens tokens ...
  alignedfusion evaluate runs/first newer_cases.csv
  alignedfusion extract reports.csv --text findings impression --lexicon chest_xray -o table.csv
  alignedfusion predict runs/first --image x.png --attributes '{"age": 54, "fever": "present"}'

`alignedfusion COMMAND --help` explains each.
"""

_TRAIN = """\
Train a classifier on your own images and a table that may have gaps, and test it.

The table has one row per case: one or more columns with image files (PNG, JPEG, TIFF; or .npy files with tokens (N, F)
computed before), a column with the label, and attribute columns. An empty attribute cell means "the report does not say";
write an answer such as "absent" where it says so. Leave out columns that follow from the label (--exclude): a model that is
told the answer learns nothing.

OUT will hold the model, settings.json, metrics.json, predictions.csv and missing.png (accuracy against the share of missing
attributes). Interrupted? The same command goes on from the last epoch.

With --tokens, the backbone does not run: tokens that `alignedfusion tokens` computed are read in place of the images, which
makes many epochs cheap. There is no augmentation then. The model has its backbone all the same, and answers on images.
"""

_TOKENS = """\
Run a frozen backbone once over all images of a table, and keep its tokens for `train --tokens`. An image needs
tokens x features x 2 bytes: 150 KB for vit_small_patch16_224, 37 KB for vit_small_patch32_224.

TOKENS is for one backbone, one file of weights, one size and one dtype; another is refused. Interrupted? The same command
goes on, and after the table has grown it adds what is new. Images changed since (size or time) are computed again.
"""


_EXTRAS = {
    **dict.fromkeys(("accelerate", "matplotlib", "pandas", "pyarrow", "sklearn"), "train"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    "openai": "chat",
}
"""What to install where a module is not there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted; what was begun goes on with the same command", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, ServerError) as error:
        print(f"alignedfusion {options.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(
            f"alignedfusion {options.command} needs {error.name}: pip install 'alignedfusion[{_EXTRAS[error.name]}]'",
            file=sys.stderr,
        )
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alignedfusion",
        description="Classify medical images together with what their reports say, when reports leave things out.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_tokens(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_export(commands)
    add_commands(functools.partial(_add, commands))
    example_files.add_commands(functools.partial(_add, commands))
    return parser


def _add(commands: Any, name: str, run: Any, summary: str, description: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_demo(commands: Any) -> None:
    parser = _add(
        commands, "demo", _demo, "compare four models on drawn lesions; nothing to download, under three minutes"
    )
    parser.add_argument("-o", "--output", default="demo", metavar="FOLDER", help="where to write (default: demo)")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (default: 3)")


def _add_train(commands: Any) -> None:
    parser = _add(commands, "train", _train, "train and test a model on your own cases", _TRAIN)
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV or parquet file, one row per case")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of this run")

    data = parser.add_argument_group("what the columns are")
    data.add_argument("--image", nargs="+", required=True, metavar="COL", help="image columns")
    data.add_argument("--image-root", metavar="FOLDER", help="where image paths start (default: the table's folder)")
    data.add_argument("--label", required=True, metavar="COL", help="what to predict")
    data.add_argument("--attributes", nargs="+", metavar="COL", help="attribute columns (default: all that can be)")
    data.add_argument("--exclude", nargs="+", default=[], metavar="COL", help="columns that are no attributes")
    data.add_argument("--group", metavar="COL", help="patient column: no patient is in two parts")
    data.add_argument(
        "--split", metavar="COL", help="column of train, valid and test (default: 64, 16 and 20 %% are drawn)"
    )
    data.add_argument(
        "--missing-values", nargs="+", default=[], metavar="TEXT", help="more cells that mean 'not recorded'"
    )
    data.add_argument("--units", nargs="+", default=[], metavar="COL=UNIT", help="units of numbers, such as age=years")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--tokens",
        metavar="FOLDER",
        help="read tokens that `alignedfusion tokens` computed, not images (no augmentation)",
    )
    model.add_argument(
        "--backbone", metavar="NAME", help="any timm model (default: that of --tokens, or vit_small_patch16_224)"
    )
    model.add_argument(
        "--weights", metavar="FILE", help="local weights of the backbone (default: timm's, from its hub)"
    )
    model.add_argument("--no-pretrained", action="store_true", help="start the backbone at random, and train it")
    model.add_argument("--train-backbone", action="store_true", help="train the backbone too (for thousands of cases)")
    model.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side of the input (default: the backbone's own)"
    )
    model.add_argument(
        "--text-encoder", metavar="NAME", help="Hugging Face encoder of the values (default: learned vectors)"
    )
    model.add_argument("--dim", type=int, default=128, help="width of the tokens (default: 128)")

    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=30, help="default: 30")
    training.add_argument("--batch-size", type=int, default=32, help="default: 32")
    training.add_argument("--learning-rate", type=float, default=1e-3, help="default: 1e-3")
    training.add_argument("--workers", type=int, default=0, help="processes that read images (default: 0)")
    training.add_argument("--seed", type=int, default=0, help="of weights, order, hiding and drawn parts (default: 0)")


def _add_tokens(commands: Any) -> None:
    parser = _add(commands, "tokens", _tokens, "compute the image tokens of a frozen backbone once", _TOKENS)
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV or parquet file, one row per case")
    parser.add_argument("-o", "--output", required=True, metavar="TOKENS", help="folder of the tokens")
    parser.add_argument("--image", nargs="+", required=True, metavar="COL", help="image columns")
    parser.add_argument("--image-root", metavar="FOLDER", help="where image paths start (default: the table's folder)")
    parser.add_argument(
        "--backbone", default="vit_small_patch16_224", metavar="NAME", help="any timm model (vit_small_patch16_224)"
    )
    parser.add_argument("--weights", metavar="FILE", help="its local weights (default: timm's, from its hub)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the input (default: its own)")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"], help="default: bfloat16")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images (default: 0)")


def _add_evaluate(commands: Any) -> None:
    parser = _add(
        commands,
        "evaluate",
        _evaluate,
        "test a run on a table at 0 to 50 %% missing attributes",
        "Test a run on a table with the same columns. Cases that the run was trained on are left out, and counted.",
    )
    parser.add_argument("run_folder", metavar="OUT", help="folder of a finished run")
    parser.add_argument("manifest", metavar="MANIFEST", help="CSV or parquet file, one row per case")
    parser.add_argument("--image-root", metavar="FOLDER", help="where image paths start (default: the table's folder)")
    parser.add_argument(
        "--missing-values", nargs="+", default=[], metavar="TEXT", help="more cells that mean 'not recorded'"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")


def _add_predict(commands: Any) -> None:
    parser = _add(
        commands,
        "predict",
        _predict,
        "predict one case",
        "Print class probabilities, and for each attribute that is not mentioned what it probably is, as JSON.",
    )
    parser.add_argument("run_folder", metavar="OUT", help="folder of a run, or any saved model")
    parser.add_argument(
        "--image", nargs="+", default=[], metavar="F", help="the image files, in the order of the run's columns"
    )
    parser.add_argument("--attributes", default="{}", metavar="JSON", help="what the report mentions: '{\"age\": 54}'")


def _add_export(commands: Any) -> None:
    parser = _add(
        commands,
        "export",
        _export,
        "write a model as an ONNX file",
        "Write a model as one ONNX file for any number of cases at a time. Its metadata hold, as JSON, what the codes and\n"
        "classes mean and how an image is prepared.",
    )
    parser.add_argument("run_folder", metavar="OUT", help="folder of a run, or any saved model")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write, such as model.onnx")
    parser.add_argument(
        "--int8", action="store_true", help="8-bit integers: a vision transformer is twice as fast on a CPU"
    )


def _demo(options: argparse.Namespace) -> None:
    from alignedfusion import demo

    results = demo.run(options.output, seeds=options.seeds)
    folder = Path(options.output)
    print(
        f"\naccuracy in %, mean ± deviation of {results['seeds']} seeds, by the share of attributes missing in the test reports"
    )
    print(f"{'':22}" + "".join(f"{f'{rate:.0%} missing':>16}" for rate in results["missing"]))
    for method, result in results["methods"].items():
        cells = (f"{100 * m:.1f} ± {100 * d:.1f}" for m, d in zip(result["mean"], result["deviation"], strict=True))
        print(f"{method:22}" + "".join(f"{cell:>16}" for cell in cells))
    print(
        f"\n{results['seconds']:.0f} seconds; {folder / 'results.json'} has every figure, {folder / 'accuracy.png'} shows them."
    )
    print("Ask the saved model about a case whose report says one thing only:")
    print(
        f'  alignedfusion predict {folder / "model"} --image {folder / "case.png"} --attributes \'{{"growth": "growing"}}\''
    )


def _train(options: argparse.Namespace) -> None:
    from alignedfusion import runs
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.evaluation import table
    from alignedfusion.processes import is_main_process
    from alignedfusion.token_cache import TokenCache

    manifest = Manifest.read(
        options.manifest,
        missing_values=options.missing_values,
        images=options.image,
        label=options.label,
        attributes=options.attributes,
        exclude=options.exclude,
        group=options.group,
        split=options.split,
        root=options.image_root,
        units=_units(options.units),
        seed=options.seed,
        tokens=TokenCache(options.tokens) if options.tokens else None,
    )
    if is_main_process():
        _describe(manifest)
    report = runs.train(
        manifest,
        options.output,
        backbone=options.backbone,
        pretrained=options.weights or not options.no_pretrained,
        frozen=not (options.train_backbone or options.no_pretrained),
        image_size=options.image_size,
        text_encoder=options.text_encoder,
        dim=options.dim,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        workers=options.workers,
        seed=options.seed,
    )
    if not is_main_process():
        return
    print(f"\n{report['cases']['test']} test cases; most frequent class {report['most_frequent_class']:.1%}")
    print(table(report["missing"]))
    print(f"\n{options.output} holds the model, metrics.json, predictions.csv and missing.png")


def _tokens(options: argparse.Namespace) -> None:
    from alignedfusion import token_writer
    from alignedfusion.datasets.manifest import paths_of, read_table

    frame = read_table(options.manifest)
    if absent := [column for column in options.image if column not in frame.columns]:
        raise ValueError(f"the table has no column {absent}; it has {list(frame.columns)}")
    root = Path(options.image_root or Path(options.manifest).parent)
    cache = token_writer.write(
        (path for column in options.image for path in paths_of(frame[column], root) if path is not None),
        options.output,
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        dtype=options.dtype,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    size, (tokens, features) = cache.file.path.stat().st_size / 1e6, cache.file.shape
    print(f"{options.output}: {len(cache)} images, {tokens} x {features} tokens each in {options.dtype}, {size:.0f} MB")
    print(f"alignedfusion train {options.manifest} --tokens {options.output} ... reads them")


def _describe(manifest: Any) -> None:
    counts = ", ".join(f"{len(manifest.rows(part))} {part}" for part in ("train", "valid", "test"))
    print(f"cases: {counts}; classes: {', '.join(manifest.class_names)}")
    training = manifest.rows("train")
    shares = {name: float(training[name].notna().mean()) for name in manifest.attributes}
    print(
        "attributes (share of training cases that mention it): " + ", ".join(f"{n} {s:.0%}" for n, s in shares.items())
    )
    print("None of them may follow from the label; --exclude leaves columns out.")


def _evaluate(options: argparse.Namespace) -> None:
    from alignedfusion import runs
    from alignedfusion.datasets.manifest import read_table
    from alignedfusion.evaluation import table

    frame = read_table(options.manifest, missing_values=options.missing_values)
    root = options.image_root or Path(options.manifest).parent
    rows, counts = runs.evaluate(options.run_folder, frame, root=root)
    if counts["left_out"]:
        print(f"{counts['left_out']} cases were used in training and are left out")
    print(f"{counts['tested']} test cases")
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps({**counts, "missing": rows}, indent=2) + "\n")


def _predict(options: argparse.Namespace) -> None:
    from alignedfusion import runs

    try:
        attributes = json.loads(options.attributes)
    except json.JSONDecodeError as error:
        raise ValueError(f"--attributes is not JSON ({error}): write it like '{{\"age\": 54}}'") from error
    if not isinstance(attributes, dict):
        raise ValueError(f"--attributes must be a JSON object of names and values, got {options.attributes}")
    print(json.dumps(runs.predict_case(options.run_folder, options.image, attributes), indent=2))


def _export(options: argparse.Namespace) -> None:
    from alignedfusion.classifier import AlignedFusionClassifier
    from alignedfusion.export import to_onnx

    to_onnx(AlignedFusionClassifier.from_pretrained(options.run_folder), options.output, quantize=options.int8)
    print(f"{options.output}: {Path(options.output).stat().st_size / 1e6:.0f} MB")


def _units(pairs: Sequence[str]) -> dict[str, str]:
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"--units takes COL=UNIT, got {wrong[0]!r}")
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    sys.exit(main())
