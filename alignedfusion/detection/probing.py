"""Feature maps of a network's submodules, found with one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def is_map(leaf: Any) -> bool:
    """Whether this is a feature map: a floating tensor with two or three spatial dimensions."""
    return isinstance(leaf, Tensor) and leaf.ndim in (4, 5) and leaf.is_floating_point()


def submodule(model: nn.Module, name: str) -> nn.Module:
    """A submodule by its dotted name; the error lists what there is."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        parent = model
        known = [child for child, _ in parent.named_children()]
        raise ValueError(
            f"the model has no submodule {name!r}; its parts are {known}, with parts of their own"
        ) from None


@torch.no_grad()
def find_maps(model: nn.Module, at: str, example: Any, side: str = "output") -> list[Tensor]:
    """The feature maps of a submodule in one forward pass of the model, in evaluation mode."""
    found: list[Any] = []
    place = submodule(model, at)
    if side == "output":
        handle = place.register_forward_hook(lambda module, inputs, output: found.append(output))
    else:
        handle = place.register_forward_pre_hook(
            lambda module, inputs, named: found.append((inputs, named)), with_kwargs=True
        )
    was_training = model.training
    model.eval()
    try:
        model(**example) if isinstance(example, Mapping) else model(example)
    finally:
        handle.remove()
        model.train(was_training)
    maps = [leaf for leaf in tree_leaves(found[:1]) if is_map(leaf)]
    if not maps:
        raise ValueError(f"submodule {at!r} gives no feature map (B, C, H, W) or (B, C, D, H, W) as its {side}")
    return maps
