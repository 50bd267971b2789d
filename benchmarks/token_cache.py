"""Training on cached tokens: time and memory for 114,000 images of 49 x 384 tokens, compared with the backbone in the loop.

python benchmarks/token_cache.py                                  # one epoch on all images, 4.3 GB in a temporary folder
python benchmarks/token_cache.py --share 0.05                     # an epoch on a random twentieth of them
python benchmarks/token_cache.py --cases 5000 --images PHOTOS     # a small file; the backbone reads your images

The tokens and the backbone's weights are random; the results do not depend on them. Both methods train as `alignedfusion train`
does (`Manifest`, `presets.standard`, `training.fit`), each in a separate process whose peak resident memory is printed. The
parts of a step are measured separately: reading a batch, and forward, backward and update. Processor time is that of the main
process including setup; on a machine with other load it is more reliable than wall time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alignedfusion import presets
from alignedfusion.datasets.cases import collate
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.presets import Backbone
from alignedfusion.training import TrainingSettings, fit, parameter_groups, token_writer
from alignedfusion.training.calibration import calibrate

ATTRIBUTES = 14


def make_tokens(folder: Path, cases: int, backbone: str) -> None:
    """A folder as `alignedfusion tokens` writes it, with random tokens of images that do not exist."""
    torch.manual_seed(0)
    weights = folder / "weights.pth"
    torch.save(timm.create_model(backbone, pretrained=False, num_classes=0).state_dict(), weights)
    cache = token_writer.write([], folder / "tokens", backbone=Backbone(backbone, pretrained=weights), progress=False)
    with open(cache.file.path, "wb") as data, open(cache.folder / "index.jsonl", "w", encoding="utf-8") as index:
        for start in range(0, cases, 1000):
            count = min(1000, cases - start)
            data.write(torch.randn(count, *cache.file.shape).to(cache.file.dtype).view(torch.int16).numpy().data)
            index.writelines(json.dumps([str(folder / f"{start + i}.jpg"), 0, 0]) + "\n" for i in range(count))


def make_images(folder: Path, count: int) -> None:
    """Images of 512 x 512 pixels, as JPEG files of about 60 KB."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        coarse.resize((512, 512), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)


def make_table(files: list[str]) -> pd.DataFrame:
    """Cases with 14 attributes, 30 % of them unmentioned, three classes and a split."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"file": files, "label": rng.choice(list("abc"), len(files))})
    frame["split"] = rng.choice(["train", "valid", "test"], len(files), p=[0.8, 0.1, 0.1])
    for i in range(ATTRIBUTES):
        values = rng.choice(["absent", "present", None], len(files), p=[0.4, 0.3, 0.3])
        frame[f"attribute {i}"] = values
    return frame


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train once in this process; returns seconds per case and peak memory in MB."""
    folder = Path(options.folder)
    tokens = TokenCache(folder / "tokens") if options.case == "tokens" else None
    if tokens is None:
        root = Path(options.images or folder / "pictures")
        files = sorted(path.name for path in root.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        files = [files[i % len(files)] for i in range(options.image_cases)]
    else:
        root = folder
        drawn = np.random.default_rng(1).permutation(options.cases)[: max(100, round(options.share * options.cases))]
        files = [f"{i}.jpg" for i in drawn]
    manifest = Manifest.from_frame(
        make_table(files), CaseColumns(images="file", label="label", split="split"), root=root, tokens=tokens
    )
    schema = manifest.schema()
    model = presets.standard(
        schema, manifest.class_names, backbone=Backbone(options.backbone, pretrained=folder / "weights.pth")
    )
    transform = model.visual.transform(is_training=True)
    if tokens is not None:
        model.visual.backbone = None  # as in `runs.train`
    train, valid = (manifest.cases(manifest.rows(split), schema, transform) for split in ("train", "valid"))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as checkpoints:
        log = fit(
            model,
            train,
            None,
            checkpoints,
            TrainingSettings(epochs=options.epochs, batch_size=options.batch_size),
            workers=options.workers,
            progress=False,
        )
    processor_seconds = time.process_time() - start
    calibrate(model, valid, progress=False)  # `fit` would do this with validation cases, but as a part of training time
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    seconds = next(entry["train_runtime"] for entry in log if "train_runtime" in entry) / options.epochs
    return {
        "training_cases": len(train),
        "seconds_per_epoch": seconds,
        "seconds_per_case": seconds / len(train),
        "processor_seconds_per_case": processor_seconds / options.epochs / len(train),
        **parts(model, train, options.batch_size),
        "peak_mb": peak,
    }


def parts(model: Any, cases: Any, batch_size: int, batches: int = 30) -> dict[str, float]:
    """Seconds per case to read a batch, and to train on a batch in memory."""
    loader = iter(DataLoader(cases, batch_size, shuffle=True, drop_last=True, collate_fn=collate))
    batches = min(batches, len(cases) // batch_size)
    start = time.perf_counter()
    read = [next(loader) for _ in range(batches)]
    reading = time.perf_counter() - start
    optimizer = torch.optim.AdamW(parameter_groups(model.train()))
    device = next(model.parameters()).device
    start = time.perf_counter()
    for batch in read:
        on_device = {name: value.to(device) for name, value in batch.items()}
        model(**on_device).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    learning = time.perf_counter() - start
    cases_read = batches * batch_size
    return {"reading_per_case": reading / cases_read, "learning_per_case": learning / cases_read}


def main() -> None:
    """Create the files, train with both methods and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=114_000, help="images in the file (default: 114000)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the images to train on (default: 1)")
    parser.add_argument("--epochs", type=int, default=1, help="number of epochs (default: 1)")
    parser.add_argument(
        "--backbone",
        default="vit_small_patch32_224",
        metavar="NAME",
        help="any timm model (default: vit_small_patch32_224; vit_small_r26_s32_224 has tokens of the same size)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="cases per step (default: 32)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of both methods (default: 0)")
    parser.add_argument(
        "--images", metavar="FOLDER", help="images for the backbone (default: random images, 512 x 512 JPEG)"
    )
    parser.add_argument(
        "--image-cases", type=int, default=400, help="cases with the backbone in the loop (default: 400)"
    )
    parser.add_argument("--temp", metavar="FOLDER", help="parent of the temporary folder (default: that of the system)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file to write the results to")
    parser.add_argument("--case", choices=["tokens", "images"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.temp) as folder:
        make_tokens(Path(folder), options.cases, options.backbone)
        results["file_mb"] = (Path(folder) / "tokens" / "tokens.bin").stat().st_size / 1e6
        (Path(folder) / "pictures").mkdir()
        make_images(Path(folder) / "pictures", options.image_cases)
        for case in ("tokens", "images"):
            command = [sys.executable, __file__, *sys.argv[1:], "--case", case, "--folder", folder]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[case] = json.loads(output.splitlines()[-1])
    tokens, images = results["tokens"], results["images"]
    for clock in ("seconds", "processor_seconds"):
        results[f"ratio_of_{clock}"] = images[f"{clock}_per_case"] / tokens[f"{clock}_per_case"]
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"{results['file_mb']:.0f} MB of tokens; {place}; {options.workers} loader processes")
    for name, result in (("tokens", tokens), ("backbone in the loop", images)):
        wall, processor, reading, learning = (
            1e3 * result[f"{part}_per_case"] for part in ("seconds", "processor_seconds", "reading", "learning")
        )
        print(
            f"{name:21} {result['training_cases']:6} cases in {result['seconds_per_epoch']:7.1f} s, {wall:.2f} ms per case "
            f"(processor {processor:.2f}, reading {reading:.2f}, training {learning:.2f}); peak {result['peak_mb']:.0f} MB"
        )
    print(
        f"{results['ratio_of_seconds']:.1f} times faster; in processor time {results['ratio_of_processor_seconds']:.1f} times"
    )
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
