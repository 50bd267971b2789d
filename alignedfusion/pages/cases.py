"""Case pages as files: one page, or a folder of pages with an index sorted by uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignedfusion.attributes import UNKNOWN
from alignedfusion.pages.case import Case, case_page
from alignedfusion.pages.facts import Facts, read_facts
from alignedfusion.pages.rendering import render

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier

INDEX = "index.html"


def write_case(
    model: AlignedFusionClassifier, case: Case, path: str | Path, *, record: Callable[[float], str] = lambda _: ""
) -> Path:
    """Write the page of one case.

    Args:
        model: The model.
        case: The case, from `table_cases` or `single_case`.
        path: The file to write.
        record: Returns a sentence about earlier predictions with a probability; see `TrackRecord`.
    """
    (facts,) = read_facts(model, [case.inputs])
    return _write(Path(path), case_page(model, case, facts, record=record(facts.probabilities[facts.predicted])))


def write_cases(
    model: AlignedFusionClassifier,
    cases: Sequence[Case],
    folder: str | Path,
    *,
    record: Callable[[float], str] = lambda _: "",
    back: str | None = None,
) -> list[Path]:
    """Write a page for each case, and an index sorted by uncertainty.

    Args:
        model: The model.
        cases: The cases, with distinct names.
        folder: Folder to write to.
        record: As in `write_case`.
        back: Address of a page that the index links to.

    Returns:
        The pages, in the order of the cases.
    """
    folder = Path(folder)
    names = [page_name(case.name) for case in cases]
    entries = []
    for case, name, facts in zip(cases, names, read_facts(model, [case.inputs for case in cases]), strict=True):
        page = case_page(
            model, case, facts, record=record(facts.probabilities[facts.predicted]), links={"All cases": INDEX}
        )
        _write(folder / name, page)
        entries.append(_entry(model, case, name, facts))
    entries.sort(key=lambda entry: -entry["bits"])
    has_labels = any(case.label is not None for case in cases)
    _write(folder / INDEX, render("index.html", title="Cases", entries=entries, has_labels=has_labels, back=back))
    return [folder / name for name in names]


def page_name(case: str) -> str:
    """The file name of a case's page, such as "row-14.html"."""
    return case.lower().replace(" ", "-") + ".html"


def _entry(model: AlignedFusionClassifier, case: Case, name: str, facts: Facts) -> dict[str, Any]:
    return {
        "name": case.name,
        "page": name,
        "label": case.label,
        "best": model.class_names[facts.predicted],
        "probability": float(facts.probabilities[facts.predicted]),
        "bits": facts.uncertainty,
        "mentioned": sum(code != UNKNOWN for code in facts.codes),
        "ask": model.schema.names[facts.questions[0]] if facts.questions else None,
    }


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
