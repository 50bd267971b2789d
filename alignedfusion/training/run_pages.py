"""The page of a run or an evaluation, and the pages of its most confident errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.datasets.reading import count_unread
from alignedfusion.evaluation.inference import decide
from alignedfusion.pages import RunCases, TrackRecord, run_page, table_cases, write_cases
from alignedfusion.pages.run import CASES

if TYPE_CHECKING:
    from alignedfusion.datasets.cases import Cases
    from alignedfusion.datasets.manifest import Manifest
    from alignedfusion.modules.classifier import AlignedFusionClassifier

PAGE = "report.html"

_LOG = logging.getLogger(__name__)


def write_run_page(
    folder: Path,
    model: AlignedFusionClassifier,
    manifest: Manifest,
    cases: Cases,
    result: Mapping[str, Any],
    outputs: np.ndarray,
    *,
    case_pages: bool = False,
) -> Path | None:
    """Write `report.html`. A page that cannot be written is logged as a warning, because the results do not depend on it.

    Args:
        folder: Folder to write to.
        model: The model.
        manifest: The table; its test rows are the cases.
        cases: The test cases.
        result: What `evaluation.testing.evaluate_model` returned.
        outputs: (n, L), the predictions of the test cases.
        case_pages: Whether to write the pages of the most confident errors too, into the folder `cases`.

    Returns:
        The page; None if it could not be written.
    """
    table = manifest.rows("test")
    predicted = decide(model, outputs)
    tested = RunCases(table.index.to_numpy(), cases.codes.numpy(), cases.labels.numpy(), outputs, predicted, model.task)

    def write() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if case_pages:
            _write_errors(folder / CASES, model, manifest, tested)
        page = run_page(
            result,
            tested,
            model.class_names,
            title=f"Test of {manifest.label!r}" + (f", {manifest.source}" if manifest.source else ""),
            unreadable=count_unread(model.schema.read(table).is_unread, model.schema),
            folder=folder,
        )
        (folder / PAGE).write_text(page, encoding="utf-8")
        return folder / PAGE

    return _try(write)


def _write_errors(folder: Path, model: AlignedFusionClassifier, manifest: Manifest, tested: RunCases) -> None:
    rows = [int(tested.rows[i]) for i, _ in tested.errors()]
    cases = table_cases(model, manifest.frame, rows, images=manifest.images, root=manifest.root, label=manifest.label)
    record = TrackRecord(tested.confidence, tested.predicted == tested.labels)
    write_cases(model, cases, folder, record=record, back=f"../{PAGE}")


def _try(write: Callable[[], Path]) -> Path | None:
    from jinja2 import TemplateError  # arrives with torch

    try:
        return write()
    except (ImportError, OSError, ValueError, RuntimeError, TemplateError) as error:
        _LOG.warning("%s could not be written, all other results are complete: %s", PAGE, error)
        return None
