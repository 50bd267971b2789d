"""What a model computes of one case, as plain arrays for its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from alignedfusion.datasets.cases import collate
from alignedfusion.evaluation.inference import encode_images, to_device
from alignedfusion.explanation import Questions, contributions, next_questions

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier

BATCH = 16


@dataclass(frozen=True)
class Facts:
    """What a model computed of one case.

    Attributes:
        codes: One code per attribute.
        predicted: The class that the model's `decide` chooses.
        logits: (C,). They are `prior` + `baseline` + the sum of `images` + the sum of `attributes`.
        prior: (C,), the log prior.
        baseline: (C,), what the fused tokens add without any image or attribute.
        images: (C,) by image modality, what each image adds.
        attributes: (A, C), what each attribute adds; zero where unmentioned.
        combined: (A, C), the part of `attributes` that is only added in combination with other inputs.
        patches: (N, C) by image modality, what each patch adds by itself.
        error: (A, C), the standard error of `attributes`; None if they are exact.
        values: (A, V_max), the probabilities of the values of unmentioned attributes.
        bits: (A,), the expected information of each attribute about the class; zero where mentioned.
        questions: The unmentioned attributes, the most informative one first; empty if the model does not reconstruct.
        predictions: (A, V_max, C), the class probabilities after each answer.
    """

    codes: list[int]
    predicted: int
    logits: np.ndarray
    prior: np.ndarray
    baseline: np.ndarray
    images: Mapping[str, np.ndarray]
    attributes: np.ndarray
    combined: np.ndarray
    patches: Mapping[str, np.ndarray]
    error: np.ndarray | None
    values: np.ndarray
    bits: np.ndarray
    questions: list[int]
    predictions: np.ndarray

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(C,), the class probabilities."""
        powers = np.exp(self.logits - self.logits.max())
        return powers / powers.sum()

    @cached_property
    def ranking(self) -> list[int]:
        """The classes: the predicted one, then the most probable one first."""
        order = np.argsort(-self.logits, kind="stable").tolist()
        return [self.predicted, *(c for c in order if c != self.predicted)]

    @property
    def uncertainty(self) -> float:
        """The entropy of the class probabilities, in bits."""
        shares = self.probabilities[self.probabilities > 0]
        return float(max(0.0, -(shares * np.log2(shares)).sum()))

    def against(self, terms: np.ndarray) -> float:
        """Logits (C,) of the predicted class minus those of the most probable other one."""
        return float(terms[self.ranking[0]] - terms[self.ranking[1]])


def check_classes(task: str) -> None:
    """Raise a ValueError unless the task of a model is multiclass, which pages of cases are for."""
    if task != "multiclass":
        raise ValueError(
            f"pages of cases show classes, and this model has the task {task!r}; explanation.contributions returns what each "
            f"image and attribute adds to each of its outputs"
        )


def read_facts(model: AlignedFusionClassifier, cases: Sequence[Mapping[str, Any]]) -> Iterator[Facts]:
    """Compute what the pages of some cases show.

    Args:
        model: The model, in evaluation mode.
        cases: Cases as `datasets.cases.make_cases` gives them.

    Raises:
        ValueError: If the task of the model is not multiclass.
    """
    check_classes(model.task)
    for start in range(0, len(cases), BATCH):
        yield from _read_batch(model, cases[start : start + BATCH])


def _read_batch(model: AlignedFusionClassifier, cases: Sequence[Mapping[str, Any]]) -> Iterator[Facts]:
    batch = {name: to_device(value, model.log_prior.device) for name, value in collate(list(cases)).items()}
    image, codes, is_present = batch["image"], batch["codes"], batch.get("is_present")
    if not model.image_modalities:
        image = None
    elif not isinstance(image, Mapping):
        image = {model.image_modalities[0]: image}
    image = encode_images(model, image)  # once for both
    added = contributions(model, image, codes, is_present=is_present)
    asked = None if model.reconstructor is None else next_questions(model, image, codes, is_present=is_present)
    count = codes.shape[1]
    for i, row in enumerate(codes.tolist()):
        yield Facts(
            codes=row,
            predicted=int(model.decide(added.logits[i])),
            logits=_array(added.logits[i]),
            prior=_array(added.prior),
            baseline=_array(added.baseline[i]),
            images={m: _array(total[i]) for m, total in added.image_totals.items()},
            attributes=_array(added.attribute_totals[i]),
            combined=_array(added.shares[i, :count]),
            patches={m: _array(values[i]) for m, values in added.patches.items()},
            error=None if added.error is None else _array(added.error[i, :count]),
            **_answers(asked, i),
        )


def _answers(asked: Questions | None, i: int) -> dict[str, Any]:
    """The fields of `Facts` about unmentioned attributes."""
    if asked is None:
        return {"values": np.zeros((0, 0)), "bits": np.zeros(0), "questions": [], "predictions": np.zeros((0, 0, 0))}
    order = asked.order[i].tolist()
    return {
        "values": _array(asked.values[i]),
        "bits": _array(asked.bits[i]),
        "questions": order[: int(asked.is_open[i].sum())],
        "predictions": _array(asked.predictions[i]),
    }


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
