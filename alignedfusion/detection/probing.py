"""Feature maps of a network's submodules, found with one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def is_map(leaf: Any) -> bool:
    """Whether this is a feature map: a floating tensor (B, C, H, W) or (B, C, D, H, W) with at least one channel."""
    return isinstance(leaf, Tensor) and leaf.ndim in (4, 5) and leaf.is_floating_point() and leaf.shape[1] > 0


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name; the error lists the known names."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        parent, known = model, ""
        for child in name.split("."):
            if child not in dict(parent.named_children()):
                break
            parent, known = parent.get_submodule(child), f"{known}.{child}".lstrip(".")
        names = [child for child, _ in parent.named_children()]
        where = f"{known!r}" if known else "the model"
        raise ValueError(f"the model has no submodule {name!r}; the submodules of {where} are {names}") from None


@torch.no_grad()
def find_maps(
    model: nn.Module, at: str, example: Any, side: str = "output", chosen: Sequence[int | str] | None = None
) -> tuple[tuple[int, ...] | None, list[Tensor]]:
    """Find the feature maps of a submodule with one forward pass of the model in evaluation mode.

    Args:
        model: The network.
        at: Name of the submodule.
        example: Input of the model: its argument, or a mapping of keyword arguments.
        side: "output" or "input" of the submodule.
        chosen: Maps by index or by name; None takes all but those that the submodule returns as it received them.

    Returns:
        The indices of the maps among all feature maps there, or None if all of them are taken; and the maps.

    Raises:
        ValueError: If the submodule does not run or has no feature map, or there is no map of that index or name.
    """
    passed = _record(model, at, example)
    if passed is None:
        raise ValueError(f"submodule {at!r} does not run in a forward pass of the model")
    inputs, output = passed
    tree = output if side == "output" else inputs
    maps = [(path, leaf) for path, leaf in _walk(tree) if is_map(leaf)]
    if not maps:
        raise ValueError(f"submodule {at!r} has no feature map (B, C, H, W) or (B, C, D, H, W) as its {side}")
    if chosen is None:
        received = [id(leaf) for leaf in tree_leaves(inputs)] if side == "output" else []
        # An activation in place returns its input: then that is the map.
        indices = [i for i, (_, leaf) in enumerate(maps) if id(leaf) not in received] or list(range(len(maps)))
    else:
        indices = [i for name in chosen for i in _lookup(name, maps)]
        if not indices or len(set(indices)) < len(indices):
            raise ValueError(f"maps must name one or more different maps, got {list(chosen)}")
    found = [maps[i][1] for i in indices]
    if side == "output" and any(_is_channels_last(submodule(model, at), leaf) for leaf in found):
        raise ValueError(
            f"submodule {at!r} returns maps with the channels last, such as {tuple(found[-1].shape)}: put a module behind it "
            f"that calls permute(0, 3, 1, 2), and name that one"
        )
    return None if indices == list(range(len(maps))) else tuple(indices), found


def _record(model: nn.Module, at: str, example: Any) -> tuple[Any, Any] | None:
    """The inputs and the output of a submodule when it first runs."""
    passed: list[tuple[Any, Any]] = []
    handle = submodule(model, at).register_forward_hook(
        lambda module, inputs, named, output: passed.append(((inputs, named), output)), with_kwargs=True
    )
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        model(**example) if isinstance(example, Mapping) else model(example)
    finally:
        handle.remove()
        for module, training in was_training.items():
            module.training = training
    return passed[0] if passed else None


def _is_channels_last(place: nn.Module, leaf: Tensor) -> bool:
    """Whether a map is (B, H, W, C): its last size is that of a layer norm, and its second is no output size of any layer."""
    norms = [module.normalized_shape for module in place.modules() if isinstance(module, nn.LayerNorm)]
    sizes = {parameter.shape[0] for parameter in place.parameters() if parameter.ndim}
    return (leaf.shape[-1],) in norms and leaf.shape[1] not in sizes


def _walk(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of a structure in order, each with the keys that lead to it."""
    if isinstance(tree, Mapping):
        return [leaf for key, value in tree.items() for leaf in _walk(value, (*path, str(key)))]
    if isinstance(tree, (list, tuple)):
        keys = getattr(tree, "_fields", None)
        named = [path] * len(tree) if keys is None else [(*path, key) for key in keys]
        return [leaf for key, value in zip(named, tree, strict=True) for leaf in _walk(value, key)]
    return [(path, leaf) for leaf in tree_leaves(tree)]


def _lookup(name: int | str, maps: Sequence[tuple[tuple[str, ...], Tensor]]) -> list[int]:
    if isinstance(name, str):
        found = [i for i, (path, _) in enumerate(maps) if name in path]
    else:
        found = [range(len(maps))[name]] if -len(maps) <= name < len(maps) else []
    if not found:
        known = [f"{i}: {'.'.join(path)} {tuple(leaf.shape)}" for i, (path, leaf) in enumerate(maps)]
        raise ValueError(f"there is no map {name!r}; known are {known}")
    return found
