"""The weights of a backbone that are trained: none, all, those of the last stages, or low-rank adapters (LoRA)."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

TUNES = '"none", "whole", "last:K" or "lora"'
RANK = 8
"""Rank of the adapters of "lora"."""


def parse_tune(tune: str) -> tuple[str, int]:
    """The kind of tuning, and its number: of stages for "last:K", the rank for "lora" or "lora:RANK", otherwise 0.

    Raises:
        ValueError: For any other text.
    """
    match = re.fullmatch(r"(none|whole|lora|(?:last|lora):([1-9]\d*))", tune) if isinstance(tune, str) else None
    if match is None:
        raise ValueError(f"tune must be {TUNES}, such as 'last:1' for the last stage of the backbone; got {tune!r}")
    kind = tune.partition(":")[0]
    return kind, int(match[2] or (RANK if kind == "lora" else 0))


def set_trained(backbone: Any, tune: str, input_size: Sequence[int]) -> None:
    """Mark the parameters of a backbone that are trained, and add adapters for "lora".

    Args:
        backbone: A timm model.
        tune: As in `Backbone`.
        input_size: (channels, H, W) of its images.

    Raises:
        ValueError: If the backbone has too few stages, or no layers for adapters.
        ImportError: If adapters are asked for and peft is not installed.
    """
    kind, number = parse_tune(tune)
    backbone.requires_grad_(kind == "whole")
    if kind == "last":
        trained = _last_stages(backbone, number)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in trained)
    elif kind == "lora":
        add_adapters(backbone, number, input_size)


def train_where_trained(module: nn.Module) -> None:
    """Set training mode in the modules of which all parameters are trained, and evaluation mode in all others.

    Batch norm in a stage that is not trained then keeps its statistics.
    """
    parameters = list(module.parameters())
    is_trained = bool(parameters) and all(parameter.requires_grad for parameter in parameters)
    module.training = is_trained
    for child in module.children():
        if is_trained:
            child.train()
        else:
            train_where_trained(child)


def _last_stages(backbone: Any, count: int) -> set[str]:
    """Names of the parameters of the last stages, with those after them, as timm groups them.

    A stage is a block of a plain vision transformer, and a resolution of a conv net or a hierarchical transformer.
    """
    from timm.models._manipulate import group_with_matcher

    name = type(backbone).__name__
    try:
        matcher = backbone.group_matcher(coarse=True)
    except (AttributeError, AssertionError) as error:  # the few models without groups, or without coarse ones
        raise ValueError(f"timm's {name} is not divided into stages; use tune='whole' or 'lora'") from error
    parameters = [(name, None) for name, _ in backbone.named_parameters()]
    # What no pattern matches comes after the last stage, such as a norm; the empty name is there in any case.
    group_of = group_with_matcher([*parameters, ("", None)], matcher, reverse=True)
    after = group_of.pop("")
    stages = after - 1  # the first group is the stem
    if count > stages:
        raise ValueError(f"tune='last:{count}' asks for {count} stages, timm's {name} has {stages}; use tune='whole'")
    return {name for name, group in group_of.items() if group >= after - count}


def add_adapters(backbone: Any, rank: int, input_size: Sequence[int]) -> None:
    """Add LoRA adapters to all linear layers and convolutions other than depthwise ones; only they are trained.

    Args:
        backbone: A timm model.
        rank: Rank of the adapters.
        input_size: (channels, H, W) of its images.
    """
    peft = import_peft()
    names = _adaptable(backbone, input_size)
    if not names:
        raise ValueError(f"timm's {type(backbone).__name__} has no layers for adapters; use tune='last:1' or 'whole'")
    targets = "|".join(map(re.escape, names))
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), backbone)


def _adaptable(backbone: Any, input_size: Sequence[int]) -> list[str]:
    """Names of the layers whose adapters would take part in a forward pass, and can be merged exactly.

    Some models use a layer's weight without calling the layer, which an adapter would not notice. Subclasses of layers, such as
    those with standardized weights, may not be linear in their weight. Depthwise convolutions have few weights.
    """
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in backbone.named_modules()
        if type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
    ]
    was_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval().forward_features(torch.zeros(1, *input_size))
    finally:
        backbone.train(was_training)
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(called))


def import_peft() -> Any:
    """The package `peft`."""
    try:
        import peft
    except ImportError as error:
        raise ModuleNotFoundError("tune='lora' needs peft: pip install 'alignedfusion[lora]'", name="peft") from error
    return peft


def merge_adapters(backbone: nn.Module) -> nn.Module:
    """Add the adapters to the weights of a backbone, in place: it has the modules and names of the timm model again."""
    for name, module in list(backbone.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            backbone.set_submodule(name, module.get_base_layer())
    return backbone


def has_adapters(backbone: nn.Module) -> bool:
    """Whether a backbone has adapters that are not merged."""
    return any(hasattr(module, "lora_A") for module in backbone.modules())


@contextmanager
def adapters_merged(model: nn.Module) -> Iterator[None]:
    """Replace each backbone that has adapters by a copy in which they are merged, for as long as the context lasts."""
    owners: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "backbone", None), nn.Module)]
    backbones = {owner: owner.backbone for owner in owners if has_adapters(owner.backbone)}
    try:
        for owner, backbone in backbones.items():
            owner.backbone = merge_adapters(copy.deepcopy(backbone))
        yield
    finally:
        for owner, backbone in backbones.items():
            owner.backbone = backbone
