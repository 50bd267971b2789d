"""Compare fusions on your table of cases: accuracy at several rates of missing attributes, all else equal.

Needs alignedfusion[train]; a minute and a half on two cores with the drawn lesions of the default.

python compare_fusions.py
python compare_fusions.py --data cases.csv --image file --label diagnosis --group patient_id

All methods have the same frozen image tokens, width, hiding of attributes, and number of steps. "50% missing" drops half of the
attributes that the test reports mention. Two seeds often differ more than two fusions do, so use several seeds.
"""

import argparse
import importlib.util
import sys
import tempfile

import torch
from torch.utils.data import DataLoader, Dataset

from alignedfusion import (
    AlignedFusionClassifier,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.baselines import Concatenation, CrossAttention, ElementwiseSum, JointSelfAttention
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases, collate
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.evaluation import missing_sweep
from alignedfusion.training import TrainingSettings, fit

RATES = (0.0, 0.25, 0.5)
DIM, NUM_HEADS, BATCH_SIZE, LEARNING_RATE = 96, 4, 64, 1e-3
BOTH, OURS = ("image", "report"), "alignedfusion"
METHODS = {  # name: fusion, modalities, rounds
    "image only": (JointSelfAttention, ("image",), 2),
    "attributes only": (JointSelfAttention, ("report",), 2),
    "sum": (ElementwiseSum, BOTH, 2),
    "concatenation": (Concatenation, BOTH, 2),
    "cross-attention": (CrossAttention, BOTH, 2),
    "joint self-attention": (JointSelfAttention, BOTH, 2),
    OURS: (IntermediateTokenFusion, BOTH, 1),
}


def encode(visual: VisualTokenizer, cases: Dataset) -> TensorCases:
    """The same cases with image tokens (n, N, F) instead of images: a frozen backbone returns the same tokens every time."""
    visual.eval()
    with torch.no_grad():
        batches = [(visual.features(batch["image"]), batch) for batch in DataLoader(cases, 100, collate_fn=collate)]
    tokens = torch.cat([tokens for tokens, _ in batches])
    codes, labels = (torch.cat([batch[name] for _, batch in batches]) for name in ("codes", "labels"))
    return TensorCases(tokens, codes, labels)


def train(model: AlignedFusionClassifier, cases: TensorCases, epochs: int, image_rate: float) -> None:
    """Train as `alignedfusion train` does, but without validation cases and progress bar."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingSettings(epochs, BATCH_SIZE, LEARNING_RATE, image_rate=image_rate, backbone_rate=1.0)
        fit(model, cases, None, scratch, settings, progress=False)


def drawn_cases(count: int, epochs: int) -> tuple[AttributeSchema, tuple[str, ...], TensorCases, TensorCases]:
    """Drawn lesions; a fifth of the training cells is missing. The backbone is trained on other drawn lesions."""
    visual = VisualTokenizer("test_vit", DIM, pretrained=False, image_size=64)
    scale = {name: visual.preprocessing[name] for name in ("mean", "std")}
    tokenizer, alone = AttributeTokenizer(phantom.SCHEMA, DIM), JointSelfAttention(DIM, modalities=("image",), depth=1)
    model = AlignedFusionClassifier(visual, tokenizer, alone, None, len(phantom.CLASS_NAMES), unimodal_heads=False)
    train(model, phantom.make(2 * count, seed=2).cases(**scale), epochs, image_rate=1.0)
    training, test = phantom.make(count, seed=0, missing=0.2), phantom.make(1000, seed=1)
    return phantom.SCHEMA, phantom.CLASS_NAMES, *(encode(visual, drawn.cases(**scale)) for drawn in (training, test))


def own_cases(options: argparse.Namespace) -> tuple[AttributeSchema, tuple[str, ...], TensorCases, TensorCases]:
    """The training and validation rows of a table together, and its test rows; rows without an image are left out."""
    manifest = Manifest.read(
        options.data,
        CaseColumns(
            images=options.image,
            label=options.label,
            attributes=options.attributes,
            exclude=options.exclude,
            group=options.group,
        ),
    )
    visual = VisualTokenizer(options.backbone, DIM, pretrained=options.weights or True, tune="none")
    schema = manifest.schema()
    has_image, is_test = manifest.frame[options.image].notna(), manifest.splits == "test"
    tables = (manifest.frame[has_image & ~is_test], manifest.frame[has_image & is_test])
    cases = (manifest.cases(rows, schema, visual.transform()) for rows in tables)
    return schema, manifest.class_names, *(encode(visual, some) for some in cases)


def build(
    method: str, schema: AttributeSchema, class_names: tuple[str, ...], num_features: int
) -> AlignedFusionClassifier:
    """A classifier with one of the fusions; only `alignedfusion` has a reconstructor and unimodal heads."""
    fusion, modalities, depth = METHODS[method]
    return AlignedFusionClassifier(
        VisualTokenizer(None, DIM, num_features=num_features),
        AttributeTokenizer(schema, DIM),
        fusion(DIM, modalities=modalities, depth=depth, num_heads=NUM_HEADS, dropout=0.1),
        MaskedTokenReconstructor(DIM) if method == OURS else None,
        num_classes=len(class_names),
        class_names=class_names,
        unimodal_heads=method == OURS,
    )


def main() -> None:
    """Train and test each method, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument(
        "--seeds", type=int, default=1, help="trainings per method, with different weights and order (default: 1)"
    )
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--cases", type=int, default=1000, help="drawn training cases (default: 1000)")
    own = parser.add_argument_group("your cases, as in alignedfusion train")
    own.add_argument("--data", metavar="TABLE", help="CSV or parquet file, one row per case (default: drawn lesions)")
    own.add_argument("--image", metavar="COL")
    own.add_argument("--label", metavar="COL")
    own.add_argument("--attributes", nargs="+", metavar="COL")
    own.add_argument("--exclude", nargs="+", default=[], metavar="COL")
    own.add_argument("--group", metavar="COL")
    own.add_argument("--backbone", default="vit_small_patch16_224", metavar="NAME", help="any timm model")
    own.add_argument("--weights", metavar="FILE", help="its weights (default: from the hub)")
    options = parser.parse_args()
    if options.data and not (options.image and options.label):
        parser.error("--data needs --image and --label: the columns with image files and classes")
    if absent := [name for name in ("accelerate", "pandas", "sklearn") if importlib.util.find_spec(name) is None]:
        sys.exit(f"this example needs {' and '.join(absent)}: pip install 'alignedfusion[train]'")

    torch.manual_seed(0)
    data = own_cases(options) if options.data else drawn_cases(options.cases, options.epochs)
    schema, class_names, training, test = data
    most_frequent = test.labels.bincount().max().item() / len(test)
    print(f"{len(training)} training cases, {len(test)} test cases, most frequent class {most_frequent:.1%}")
    print(f"{'accuracy, % (mean, deviation)':30}" + "".join(f"{f'{rate:.0%} missing':>16}" for rate in RATES))
    for method in options.methods:
        runs = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = build(method, schema, class_names, training.image.shape[-1])
            # Higher than the default of 0.2: in so few epochs the other fusions would not learn from the images.
            train(model, training, options.epochs, image_rate=0.5)
            rows = missing_sweep(model, test, schema, rates=RATES, progress=False)
            runs.append([100 * row["accuracy"] for row in rows])
        table = torch.tensor(runs)  # (seeds, rates)
        deviations = table.std(0) if options.seeds > 1 else torch.full((len(RATES),), torch.nan)
        cells = (f"{m:.1f} {d:.1f}" for m, d in zip(table.mean(0), deviations, strict=True))
        print(f"{method:30}" + "".join(f"{cell.replace(' nan', ''):>16}" for cell in cells))


if __name__ == "__main__":
    main()
