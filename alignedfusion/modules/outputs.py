"""The output of a classifier: named fields, the same in training and evaluation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor
from torch.utils import _pytree


class ClassifierOutput(OrderedDict[str, Tensor | None]):
    """The output of `AlignedFusionClassifier`, with the same fields in training and evaluation.

    Fields can be read as attributes, as keys (`out["logits"]`), or by position among those that are not None (`out[0]`).
    This is the behaviour of transformers' `ModelOutput`, which is not used because defining a model would import transformers.

    Attributes:
        loss: Classification plus reconstruction loss (l_all); None without labels.
        logits: (B, C); the model's `activate` turns them into probabilities or values.
        reconstruction: (B, A, V_max) logits over each attribute's values, -inf beyond the last; None if the model does not
            reconstruct.
        intermediate: (B, K, D).
        contributions: (B, P, C), the weighted contribution of each of the model's `branches` to each class; the logits are the
            model's `weighted_prior` plus their sum.
    """

    # torch.compile supports subclasses of OrderedDict that keep its own __init__.
    loss: Tensor | None
    logits: Tensor | None
    reconstruction: Tensor | None
    intermediate: Tensor | None
    contributions: Tensor | None

    def __getattr__(self, name: str) -> Tensor | None:
        _check_field(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Tensor | None) -> None:
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]

    def __setitem__(self, name: str, value: Tensor | None) -> None:
        _check_field(name)
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            del self[name]


_FIELDS = tuple(ClassifierOutput.__annotations__)


def _check_field(name: str) -> None:
    if name not in _FIELDS:
        raise AttributeError(f"ClassifierOutput has no field {name!r}; it has {list(_FIELDS)}")


# DistributedDataParallel with a static graph searches the output for tensors, and torch.export flattens it.
_pytree.register_pytree_node(
    ClassifierOutput,
    lambda out: (list(out.values()), list(out)),
    lambda values, names: ClassifierOutput(zip(names, values, strict=True)),
    serialized_type_name="alignedfusion.modules.outputs.ClassifierOutput",
)
