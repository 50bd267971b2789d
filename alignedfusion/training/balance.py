"""Class shares in training: the prior of a model, and weights of cases that balance the classes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from alignedfusion.datasets.cases import WeightedCases
from alignedfusion.modules.classifier import AlignedFusionClassifier

_LOG = logging.getLogger(__name__)

_BALANCES = {"multiclass": ("none", "class_weights", "logit_adjustment"), "multilabel": ("none", "logit_adjustment")}


def check_balance(model: nn.Module, balance: str) -> None:
    """Raise a ValueError for help for rare classes that a model has no use for."""
    task = model.task if isinstance(model, AlignedFusionClassifier) else "multiclass"
    if balance not in (accepted := _BALANCES.get(task, ("none",))):
        raise ValueError(f"balance={balance!r} does not fit the task {task!r}; it takes {list(accepted)}")


def count_classes(model: nn.Module, train: Dataset[Any], counts: Tensor | None, balance: str) -> Tensor | None:
    """Training cases per class (C,), given or counted by their weights; None for a model that has no use for them."""
    if isinstance(model, AlignedFusionClassifier) and model.task != "multiclass":
        if counts is not None:
            raise ValueError(
                f"class_counts belong to the task 'multiclass', this model has {model.task!r}: leave them out"
            )
        return None
    if not isinstance(model, AlignedFusionClassifier) or (model.unimodal_heads is None and balance == "none"):
        kind = type(model).__name__
        if balance != "none":
            raise ValueError(f"balance={balance!r} takes an AlignedFusionClassifier, got {kind}")
        if counts is not None:
            raise ValueError(f"class_counts set the prior of a model with unimodal heads; {kind} has none")
        return None
    source = "given"
    if counts is None:
        labels, source = _labels(train)
        model.targets.check(labels, len(labels))
        is_known = labels >= 0
        weights = train.weights[is_known] if isinstance(train, WeightedCases) else None
        counts = torch.bincount(labels[is_known], weights, minlength=int(model.num_classes))
    _LOG.info("class counts for the prior, %s: %s", source, counts.tolist())
    return counts


def set_prior(model: nn.Module, train: Dataset[Any], counts: Tensor | None, balance: str) -> Dataset[Any]:
    """Set the prior for training. Returns the training cases, weighted with `balance="class_weights"`.

    For several labels or numbers, the prior is that of the labels, see `AlignedFusionClassifier.set_prior`.

    Weighted cases have equal class shares, so the prior is uniform in training; `restore_prior` makes it that of the classes.
    """
    if isinstance(model, AlignedFusionClassifier) and model.task != "multiclass":
        model.set_prior(_labels(train)[0], train.weights if isinstance(train, WeightedCases) else None)
        return train
    if counts is None:
        return train
    assert isinstance(model, AlignedFusionClassifier)
    if balance != "class_weights":
        model.set_class_counts(counts)
        return train
    share = counts.double() / counts.sum()
    by_class = torch.where(share > 0, 1 / (share * (share > 0).sum()), 0.0)  # scikit-learn's "balanced": on average 1
    model.set_class_counts(by_class * counts)
    weights = by_class[_labels(train)[0].clamp(min=0)]
    return (
        WeightedCases(train.cases, train.weights * weights)
        if isinstance(train, WeightedCases)
        else WeightedCases(train, weights)
    )


def _labels(train: Any) -> tuple[Tensor, str]:
    """The labels of training cases, (n,) or (n, C), and how they were obtained."""
    labels = getattr(train.cases if isinstance(train, WeightedCases) else train, "labels", None)
    if labels is not None:
        return labels, "counted"
    labels = torch.stack([torch.as_tensor(train[i]["labels"]) for i in range(len(train))])
    return labels, "counted by reading every training case once"


def restore_prior(model: nn.Module, counts: Tensor | None, balance: str) -> None:
    """Set the prior after training. With help for rare classes, the decision then disregards the class shares.

    `training.decision.choose_decision` chooses by validation cases how far it does.
    """
    if not isinstance(model, AlignedFusionClassifier):
        return
    if counts is not None:
        model.set_class_counts(counts)
    if counts is not None or model.task != "multiclass":
        model.prior_exponent = 0.0 if balance == "none" else 1.0
