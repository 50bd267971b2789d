"""Seconds to write the page of one case and the page of a run.

python benchmarks/pages.py --data FOLDER --tokens TOKENS [--cases 1573]

FOLDER has `cases.csv` and `images/` of MILK10k, and TOKENS is a token cache of its images. The model has random weights: the
time does not depend on them. The first rows are pages of single cases, read from their images, after the model is loaded. The
others are the parts of testing a run on stored tokens: what metrics alone need, and all that the page and the card show.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.evaluation.inference import prepare_images
from alignedfusion.evaluation.metrics import missing_sweep
from alignedfusion.evaluation.testing import evaluate_model
from alignedfusion.pages import table_cases, write_case
from alignedfusion.presets import Backbone, standard
from alignedfusion.tables.files import read_table
from alignedfusion.training.run_pages import write_run_page


def main() -> None:
    """Print the seconds of each part, wall and CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokens", type=Path, required=True, metavar="TOKENS")
    parser.add_argument("--cases", type=int, default=1573)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    frame = read_table(options.data / "cases.csv")
    attributes = [name for name in frame.columns if name.startswith("derm_") or name in ("age_approx", "sex", "site")]
    frame["split"] = ["test" if i < options.cases else ("valid" if i % 5 == 0 else "train") for i in range(len(frame))]
    columns = CaseColumns(images=("clinical", "dermoscopic"), label="label", attributes=attributes, split="split")
    cache = TokenCache(options.tokens)
    manifest = Manifest.from_frame(frame, columns, root=options.data, tokens=cache)
    backbone = Backbone(cache.settings["backbone"], pretrained=False)
    model = standard(
        manifest.schema(), manifest.class_names, backbone=backbone, images=manifest.modalities, dim=128
    ).eval()
    print(
        f"{options.cases} cases, {len(model.schema)} attributes, {len(model.class_names)} classes, {options.threads} threads"
    )

    with tempfile.TemporaryDirectory() as scratch:
        for number in range(3):
            (case,) = table_cases(model, manifest.frame, [number], images=manifest.images, root=options.data)
            measure(f"page of case {number}", lambda case=case: write_case(model, case, Path(scratch) / "case.html"))
        cases = manifest.cases(manifest.rows("test"), model.schema, **prepare_images(model))

        measure(
            "accuracy by missing attributes alone", lambda: missing_sweep(model, cases, model.schema, progress=False)
        )
        result, probabilities = measure(
            "all metrics and the worth of attributes", lambda: evaluate_model(model, cases, progress=False)
        )
        measure(
            "figures and page",
            lambda: write_run_page(Path(scratch), model, manifest, cases, result, probabilities),
        )


def measure(name: str, run: Callable[[], Any]) -> Any:
    """Run a part, and print its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    print(f"{name:50} {time.perf_counter() - wall:6.1f} s wall {time.process_time() - cpu:6.1f} s CPU", flush=True)
    return result


if __name__ == "__main__":
    main()
