"""What a model computes of one case, as plain arrays for its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.cases import collate
from alignedfusion.evaluation.inference import to_device
from alignedfusion.explanation import contributions, next_questions

if TYPE_CHECKING:
    from alignedfusion.modules.classifier import AlignedFusionClassifier

BATCH = 16


@dataclass(frozen=True)
class Facts:
    """What a model computed of one case.

    Attributes:
        codes: One code per attribute.
        logits: (C,).
        prior: (C,), the log prior.
        patches: (N, C) by image modality, what each patch adds.
        attributes: (A, C), what each attribute adds.
        together: (C,), what images and attributes add together, beyond each of them.
        values: (A, V_max), the probabilities of the values of unmentioned attributes.
        bits: (A,), the expected information of each attribute about the class; 0 where it is mentioned.
        questions: The unmentioned attributes, the most informative one first.
        predictions: (A, V_max, C), the class probabilities if an attribute had a value.
    """

    codes: list[int]
    logits: np.ndarray
    prior: np.ndarray
    patches: Mapping[str, np.ndarray]
    attributes: np.ndarray
    together: np.ndarray
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
        """The classes, the most probable one first."""
        return [int(c) for c in np.argsort(-self.logits, kind="stable")]

    @property
    def uncertainty(self) -> float:
        """The entropy of the class probabilities, in bits."""
        shares = self.probabilities[self.probabilities > 0]
        return float(max(0.0, -(shares * np.log2(shares)).sum()))

    def against(self, terms: np.ndarray) -> float:
        """Logits (C,) of the most probable class minus those of the second."""
        return float(terms[self.ranking[0]] - terms[self.ranking[1]])


def read_facts(model: AlignedFusionClassifier, cases: Sequence[Mapping[str, Any]]) -> Iterator[Facts]:
    """Compute what the pages of some cases show.

    Args:
        model: The model, in evaluation mode.
        cases: Cases as `datasets.cases.make_cases` gives them.
    """
    for start in range(0, len(cases), BATCH):
        yield from _read_batch(model, cases[start : start + BATCH])


def _read_batch(model: AlignedFusionClassifier, cases: Sequence[Mapping[str, Any]]) -> Iterator[Facts]:
    batch = {name: to_device(value, model.log_prior.device) for name, value in collate(list(cases)).items()}
    image, codes, is_present = batch["image"], batch["codes"], batch.get("is_present")
    added = contributions(model, image, codes, is_present=is_present)
    asked = next_questions(model, image, codes, is_present=is_present)
    prior = _array(added.prior)
    patches = {m: _array(values) for m, values in added.patches.items()}
    arrays = {name: _array(getattr(added, name)) for name in ("attributes", "together", "logits")}
    arrays |= {name: _array(getattr(asked, name)) for name in ("bits", "order", "values", "predictions")}
    for i, row in enumerate(codes.tolist()):
        case = {name: values[i] for name, values in arrays.items()}
        order = [int(a) for a in case.pop("order")]
        yield Facts(
            codes=row,
            prior=prior,
            patches={m: values[i] for m, values in patches.items()},
            questions=[a for a in order if 0 <= a and row[a] == UNKNOWN],
            **case,
        )


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
