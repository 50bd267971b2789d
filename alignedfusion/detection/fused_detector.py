"""Two lines that add report attributes to a detector, without touching its code, its checkpoints or its first results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.detection.feature_maps import FeatureMapFusion
from alignedfusion.detection.probing import submodule

LOSS = "loss_attribute_reconstruction"

# Per thread and task, and by model: a plain slot would give one thread the other's attributes.
_CALLS: ContextVar[dict[int, FusedCall]] = ContextVar("alignedfusion_calls")


class FusedCall:
    """One call of a fused detector.

    Attributes:
        codes: int64 (B, A), or None if nothing is mentioned.
        loss: Reconstruction loss of what was fused in this call; None before that.
    """

    def __init__(self, codes: Tensor | None) -> None:
        self.codes = codes
        self.loss: Tensor | None = None


class FusedDetector(nn.Module):
    """A detector whose feature maps hear of report attributes.

    The detector stays as it is, in `detector`: the same code and the same keys in its `state_dict`; a hook fuses the maps that
    one of its submodules returns (or takes).

    Args:
        detector: Any module.
        fusion: For the maps at that place; see `FeatureMapFusion.for_model`.
        at: Name of the submodule, such as "backbone".
        side: "output" of the submodule, or its "input".

    Raises:
        ValueError: If there is no such submodule, or `side` is neither.
    """

    def __init__(self, detector: nn.Module, fusion: FeatureMapFusion, *, at: str, side: str = "output") -> None:
        super().__init__()
        place = submodule(detector, at)
        if side not in ("output", "input"):
            raise ValueError(f"side must be 'output' or 'input', got {side!r}")
        self.detector = detector
        self.fusion = fusion
        self.at = at
        self.side = side
        self._compiled_call: FusedCall | None = None
        # Bound methods: a deep copy's hook then belongs to the copy.
        if side == "output":
            place.register_forward_hook(self._on_output)
        else:
            place.register_forward_pre_hook(self._on_input, with_kwargs=True)

    def forward(self, *inputs: Any, codes: Tensor | None = None, **named: Any) -> Any:
        """Run the detector; everything but `codes` is passed straight through.

        Args:
            *inputs: As the detector takes them.
            codes: int64 (B, A), the codes of the images in their order; None for those of an open
                `with model.use_codes(codes)`, and outside of one if no report mentions anything.
            **named: As the detector takes them.

        Returns:
            What the detector returns. A dict of losses, or an output with a `loss`, has the reconstruction loss added.
        """
        if codes is None:
            codes = self._call().codes
        if torch.compiler.is_compiling():  # the compiler sets no context variables, and knows no threads either
            self._compiled_call = call = FusedCall(codes)
            try:
                output = self.detector(*inputs, **named)
            finally:
                self._compiled_call = None
        else:
            with self.use_codes(codes) as call:
                output = self.detector(*inputs, **named)
        return self._with_loss(output, call.loss)

    @contextmanager
    def use_codes(self, codes: Tensor | None) -> Iterator[FusedCall]:
        """Where the call cannot be changed: `with model.use_codes(codes): detector(images)`.

        Yields:
            The call, whose `loss` is the reconstruction loss afterwards, if the detector was called and not this module.
        """
        call = FusedCall(codes)
        token = _CALLS.set({**_CALLS.get({}), id(self): call})
        try:
            yield call
        finally:
            _CALLS.reset(token)

    def _call(self) -> FusedCall:
        if torch.compiler.is_compiling() and self._compiled_call is not None:
            return self._compiled_call
        # A compiled part of a call that is not: where the compiler cannot read this, it breaks the graph here.
        call = (_CALLS.get(None) or {}).get(id(self))
        return call or self._compiled_call or FusedCall(None)

    def _fuse(self, maps: Any) -> Any:
        call = self._call()
        fused = self.fusion(maps, call.codes)
        call.loss = fused.loss if call.loss is None else call.loss + fused.loss
        return fused.maps

    def _on_output(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return self._fuse(output)

    def _on_input(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return self._fuse((inputs, named))

    def _with_loss(self, output: Any, loss: Tensor | None) -> Any:
        if loss is None or not self.training:
            return output
        if type(output) is dict:
            are_losses = len(output) > 0 and all(isinstance(v, Tensor) and v.ndim == 0 for v in output.values())
            return {**output, LOSS: loss} if are_losses else output
        if isinstance(output, Mapping) and getattr(output, "loss", None) is not None:  # Hugging Face
            output.loss = output["loss"] + loss  # type: ignore[attr-defined]
        return output

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"at={self.at!r}, side={self.side!r}"
