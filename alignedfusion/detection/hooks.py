"""The hook between a detector and its fusion, and the call that carries the codes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FusedCall:
    """The codes of a call and what became of them.

    Attributes:
        codes: Codes (B, A) as they were given; None if nothing is mentioned.
        loss: Sum of the reconstruction losses so far; None before the first maps are fused.
    """

    def __init__(self, codes: Any) -> None:
        self.codes = codes
        self.loss: Tensor | None = None


class Hook:
    """Runs the fusion of a `FusedDetector` when a submodule of its detector runs.

    Copies and unpickled hooks are not connected; a copied `FusedDetector` connects its own. So a detector that was copied
    without its fusion raises an error instead of losing the report.
    """

    def __init__(self) -> None:
        self.owner: nn.Module | None = None
        self._fuse: Callable[..., Any] | None = None

    def connect(self, owner: nn.Module, fuse: Callable[..., Any]) -> None:
        """Connect the hook with a `FusedDetector` and its method."""
        self.owner = owner
        self._fuse = fuse

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], *output: Any) -> Any:
        """Fuse the maps that the submodule takes or returns."""
        if self._fuse is None:
            raise RuntimeError(
                "this detector is a copy of one inside a FusedDetector, and the copy has no fusion: copy, average or save "
                "the FusedDetector instead, or call its remove() before copying the detector"
            )
        return self._fuse(inputs, named, *output)


def refuse_second(detector: nn.Module) -> None:
    """Refuse a detector whose submodules have the hook of a `FusedDetector` around it; drop hooks that are not connected."""
    modules = list(detector.modules())
    for module in modules:
        for hooks, with_kwargs in (
            (module._forward_hooks, module._forward_hooks_with_kwargs),
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        ):
            for key, hook in [(key, hook) for key, hook in hooks.items() if isinstance(hook, Hook)]:
                if hook.owner is None:
                    del hooks[key], with_kwargs[key]
                elif not any(hook.owner is each for each in modules):
                    raise ValueError(
                        f"the detector is wrapped by another FusedDetector ({hook.owner.extra_repr()}): call its remove() "
                        f"first, or wrap that FusedDetector if both fusions are wanted"
                    )
