"""The page of one case: what the model predicts, why, and what to ask next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from alignedfusion.attributes import UNKNOWN
from alignedfusion.evaluation.inference import decide, prediction_sets
from alignedfusion.pages import case_charts, marking, pictures
from alignedfusion.pages.facts import Facts
from alignedfusion.pages.rendering import percent, render

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier
    from alignedfusion.reports.types import Row

MAX_STEPS = 8
"""Attributes with a bar of their own in the waterfall."""
MAX_UNMENTIONED = 12
"""Unmentioned attributes that are shown without a click, and on paper."""
MAX_ANSWERS = 6
QUESTIONS = 3


@dataclass(frozen=True)
class Case:
    """One case to write a page of.

    Attributes:
        name: Its name on the page, such as "Row 14".
        inputs: The case as `datasets.cases.make_cases` gives it: `image`, `codes`, and `is_present` where images may be absent.
        sizes: Width and height of the image files by modality, as far as they are known.
        label: Its label in the table; None if the table has none.
        is_trained: Whether the model was trained on it.
        unread: Attributes whose cells the model cannot read; they count as unmentioned.
        report: The report's text and its extracted cells; None leaves the text out.
        identity: Cells that identify the case, by column; shown as they are.
    """

    name: str
    inputs: Mapping[str, Any]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    label: str | None = None
    is_trained: bool = False
    unread: Sequence[str] = ()
    report: tuple[str, Row] | None = None
    identity: Mapping[str, str] = field(default_factory=dict)


def case_page(
    model: AlignedFusionClassifier,
    case: Case,
    facts: Facts,
    *,
    record: str = "",
    links: Mapping[str, str] | None = None,
) -> str:
    """The page of a case as the text of an HTML file.

    Args:
        model: The model.
        case: The case.
        facts: What the model computed of it, see `read_facts`.
        record: How often test predictions with a similar probability were right, one sentence.
        links: Addresses of other pages, by the text of the link.
    """
    best, second = facts.ranking[:2]
    names = model.class_names
    mentioned, unmentioned = _attributes(model, facts)
    pieces = [] if case.report is None else marking.divide(*case.report)
    pictured, overlays = _images(model, case, facts)
    return render(
        "case.html",
        title=f"{case.name}: {names[best]} {percent(facts.probabilities[best])}",
        case=case,
        best=names[best],
        second=names[second],
        probability=facts.probabilities[best],
        classes=[(int(c), names[c], float(facts.probabilities[c])) for c in facts.ranking],
        bits=facts.uncertainty,
        most_probable=names[int(facts.probabilities.argmax())],
        likely=_prediction_set(model, facts),
        record=record,
        images=pictured,
        waterfall=case_charts.waterfall(_steps(model, facts), first=names[best], second=names[second]),
        odds=math.exp(min(facts.logits[best] - facts.logits[second], 20.0)),
        mentioned=mentioned,
        unmentioned=unmentioned,
        max_unmentioned=MAX_UNMENTIONED,
        num_attributes=len(model.schema),
        error=_largest_error(facts),
        max_bits=math.log2(model.num_classes),
        questions=_questions(model, facts),
        pieces=pieces,
        evidence=_numbers(pieces),
        links=dict(links or {}),
        data={"classes": list(names), "probabilities": _rounded(facts.probabilities), "overlays": overlays},
    )


def _prediction_set(model: AlignedFusionClassifier, facts: Facts) -> tuple[float, str] | None:
    """Coverage and classes of the conformal prediction set, the most probable one first; None for a model without sets."""
    sets = prediction_sets(model, facts.probabilities[None], np.array([facts.codes]))
    if sets is None or model.prediction_sets is None:
        return None
    order = np.argsort(-facts.probabilities, kind="stable")
    names = [model.class_names[c] for c in order if sets[0, c]]
    return float(model.prediction_sets["coverage"]), ", ".join(names) or "no class"


def _numbers(pieces: Sequence[marking.Piece]) -> dict[str, int]:
    """A number for each attribute with marked evidence, in the order of the text; it also chooses the colour."""
    return {name: number for number, name in enumerate(name for piece in pieces for name in piece.ends)}


def _steps(model: AlignedFusionClassifier, facts: Facts) -> list[tuple[str, str, float]]:
    """The terms of the prediction, in logits of the best class against the second: name, value of an attribute, number."""
    steps = [("prior", "", facts.against(facts.prior)), ("without any input", "", facts.against(facts.baseline))]
    steps += [(_spaced(m), "", facts.against(total)) for m, total in facts.images.items()]
    mentioned = [
        (_spaced(attribute.name), attribute.values[code], facts.against(facts.attributes[a]))
        for a, (attribute, code) in enumerate(zip(model.schema, facts.codes, strict=True))
        if code != UNKNOWN
    ]
    mentioned.sort(key=lambda step: -abs(step[2]))
    shown, rest = mentioned[:MAX_STEPS], mentioned[MAX_STEPS:]
    if len(rest) == 1:
        shown, rest = mentioned, []
    return [*steps, *shown, *([(f"{len(rest)} other attributes", "", sum(r[2] for r in rest))] if rest else [])]


def _attributes(model: AlignedFusionClassifier, facts: Facts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the mentioned attributes, and those of the unmentioned ones in the order of the questions."""
    attributes = model.schema.attributes
    mentioned: list[dict[str, Any]] = [
        {
            "name": attribute.name,
            "value": attribute.values[facts.codes[a]],
            "adds": facts.against(facts.attributes[a]),
            "combined": facts.against(facts.combined[a]),
        }
        for a, attribute in enumerate(attributes)
        if facts.codes[a] != UNKNOWN
    ]
    mentioned.sort(key=lambda row: -abs(row["adds"]))
    unmentioned = []
    for a in facts.questions:
        shares = facts.values[a, : len(attributes[a].values)]
        guesses = [(attributes[a].values[v], float(shares[v])) for v in np.argsort(-shares)[:2]]
        unmentioned.append({"name": attributes[a].name, "bits": float(facts.bits[a]), "guesses": guesses})
    return mentioned, unmentioned


def _largest_error(facts: Facts) -> float | None:
    """A bound on the standard errors of what the attributes add for the best class against the second."""
    if facts.error is None:
        return None
    best, second = facts.ranking[:2]
    return float((facts.error[:, best] + facts.error[:, second]).max())


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _questions(model: AlignedFusionClassifier, facts: Facts) -> list[dict[str, Any]]:
    """The attributes to ask about next, with their answers and the predictions that follow."""
    questions = []
    for a in facts.questions[:QUESTIONS]:
        attribute = model.schema.attributes[a]
        shares = facts.values[a, : len(attribute.values)]
        answers = []
        for v in np.argsort(-shares)[:MAX_ANSWERS]:
            then = facts.predictions[a, v]
            answers.append(
                {
                    "value": attribute.values[v],
                    "share": float(shares[v]),
                    "best": model.class_names[(chosen := int(decide(model, then)))],
                    "probability": float(then[chosen]),
                    "then": _rounded(then),
                }
            )
        questions.append(
            {
                "name": attribute.name,
                "bits": float(facts.bits[a]),
                "answers": answers,
                "others": max(0, len(shares) - MAX_ANSWERS),
            }
        )
    return questions


def _images(
    model: AlignedFusionClassifier, case: Case, facts: Facts
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The images with their overlays, and the overlays by class; each class is held against the best other one."""
    best, second = facts.ranking[:2]
    images, pairs = [], [(c, best if c != best else second) for c in facts.ranking]
    inputs = case.inputs["image"]
    for m, visual in model.visuals.items():
        pixels = inputs[m] if isinstance(inputs, Mapping) else inputs
        is_present = bool(case.inputs.get("is_present", {}).get(m, True))
        patches = facts.patches[m]  # (N, C)
        rows, columns = pictures.grid(len(patches))
        strongest = int((patches[:, best] - patches[:, second]).argmax())
        images.append(
            {
                "name": m,
                "is_present": is_present,
                "picture": pictures.picture(visual, pixels, case.sizes.get(m)) if is_present else None,
                "grid": f"{rows} by {columns}",
                "adds": facts.against(facts.images[m]),
                "place": f"row {strongest // columns + 1}, column {strongest % columns + 1}",
            }
        )
    overlays = []
    for first, other in pairs if facts.patches else []:
        difference = {m: patches[:, first] - patches[:, other] for m, patches in facts.patches.items()}
        limit = max(float(np.abs(values).max()) for values in difference.values())
        overlays.append(
            {
                "first": model.class_names[first],
                "other": model.class_names[other],
                "images": {m: pictures.overlay(values, limit) for m, values in difference.items()},
            }
        )
    return images, overlays


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
