"""Attributes revealed one by one, in the order of `next_questions` and in other orders."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from alignedfusion import UNKNOWN, AlignedFusionClassifier
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.explanation import next_questions
from alignedfusion.explanation.questions import entropy

Score = Callable[[Tensor], Tensor]
"""A score (n, A) of each attribute, from what is known of each case (n, A); the highest is asked for next."""


@torch.inference_mode()
def reveal(model: AlignedFusionClassifier, cases: TensorCases, score: Score) -> Tensor:
    """Class probabilities (n, A + 1, C) after 0, 1, ..., A answers.

    Reports start empty. An attribute that the true report does not mention counts as asked, and its answer is "unknown".
    """
    codes = torch.full_like(cases.codes, UNKNOWN)
    may_ask = torch.ones_like(codes, dtype=torch.bool)
    rows = torch.arange(len(codes))
    steps = [model(cases.image, codes).logits.softmax(-1)]
    for _ in range(codes.shape[1]):
        attribute = score(codes).masked_fill(~may_ask, -torch.inf).argmax(1)
        codes[rows, attribute] = cases.codes[rows, attribute]
        may_ask[rows, attribute] = False
        steps.append(model(cases.image, codes).logits.softmax(-1))
    return torch.stack(steps, dim=1)


def suggested(model: AlignedFusionClassifier, cases: TensorCases) -> Score:
    """The expected information about the class."""
    return lambda codes: next_questions(model, cases.image, codes).bits


def most_uncertain(model: AlignedFusionClassifier, cases: TensorCases) -> Score:
    """The entropy of the attribute's own value."""
    return lambda codes: entropy(model(cases.image, codes).reconstruction.softmax(-1))


def at_random(cases: TensorCases, seed: int) -> Score:
    """Another random order for each case."""
    priority = torch.rand(cases.codes.shape, generator=torch.Generator().manual_seed(seed))
    return lambda codes: priority


def in_order(order: list[int]) -> Score:
    """The same order for all cases."""
    priority = -torch.tensor(order).argsort().float()
    return lambda codes: priority.expand(codes.shape)


@torch.inference_mode()
def best_fixed_order(model: AlignedFusionClassifier, cases: TensorCases) -> list[int]:
    """The order in which each next attribute lowers the cross-entropy of some cases most."""
    order: list[int] = []
    known = torch.full_like(cases.codes, UNKNOWN)
    while len(order) < cases.codes.shape[1]:
        losses = {}
        for attribute in set(range(cases.codes.shape[1])) - set(order):
            codes = known.clone()
            codes[:, attribute] = cases.codes[:, attribute]
            losses[attribute] = float(F.cross_entropy(model(cases.image, codes).logits, cases.labels))
        order.append(min(losses, key=losses.__getitem__))
        known[:, order[-1]] = cases.codes[:, order[-1]]
    return order
