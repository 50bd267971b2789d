"""Wraps a detector and conditions its feature maps on report attributes; its code and checkpoints stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from alignedfusion.detection.feature_maps import FeatureMapFusion
from alignedfusion.detection.hooks import FusedCall, Hook, refuse_second
from alignedfusion.detection.probing import submodule

LOSS = "loss_attribute_reconstruction"

# Per thread and task, and per model: with a plain attribute, threads would overwrite each other's codes.
_CALLS: ContextVar[dict[int, FusedCall]] = ContextVar("alignedfusion_calls")


class FusedDetector(nn.Module):
    """Wraps a detector and conditions its feature maps on report attributes.

    The detector is kept in `detector`, with the same code and the same keys in its `state_dict`; a hook fuses the maps that
    one of its submodules returns or takes. Module and fusion start in the detector's mode, training or evaluation.

    The fusion is not part of the inner detector: give optimizers, `DistributedDataParallel`, copies and checkpoints this
    module. Two methods can be overridden: `add_loss` for detectors with outputs of another kind, and `codes_of_rows` where
    the rows of the maps are not the images of the call.

    Args:
        detector: Any module.
        fusion: Fusion for the maps at that place; see `FeatureMapFusion.for_model`.
        at: Name of the submodule, such as "backbone".
        side: "output" of the submodule, or its "input".

    Raises:
        ValueError: If there is no such submodule, `side` is neither, or the detector is wrapped already.
    """

    def __init__(self, detector: nn.Module, fusion: FeatureMapFusion, *, at: str, side: str = "output") -> None:
        super().__init__()
        place = submodule(detector, at)
        if side not in ("output", "input"):
            raise ValueError(f"side must be 'output' or 'input', got {side!r}")
        refuse_second(detector)
        self.detector = detector
        self.fusion = fusion
        self.at = at
        self.side = side
        self._compiled_call: FusedCall | None = None
        self._hook = Hook()
        self._hook.connect(self, self._fuse)
        if side == "output":
            self._handle = place.register_forward_hook(self._hook, with_kwargs=True)
        else:
            self._handle = place.register_forward_pre_hook(self._hook, with_kwargs=True)
        self._is_removed = False
        self.training = detector.training
        fusion.train(detector.training)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._hook.owner is None:
            self._hook.connect(self, self._fuse)

    def forward(self, *inputs: Any, codes: Any = None, **named: Any) -> Any:
        """Run the detector; everything but `codes` is passed on to it.

        Args:
            *inputs: Inputs of the detector.
            codes: int64 (B, A), one row per image or one row for all of them, or rows of attribute values as in
                `FeatureMapFusion.forward`. None takes the codes of an open `with model.use_codes(codes)`; outside of one,
                nothing is mentioned.
            **named: Keyword arguments of the detector.

        Returns:
            The output of the detector. In training, `add_loss` adds the reconstruction loss, except within
            `with model.use_codes(codes) as call`, where it is found in `call.loss`.

        Raises:
            RuntimeError: If the detector did not run the submodule, or the fusion was removed.
            ValueError: If the output has no place for the reconstruction loss.
        """
        self._check_connected()
        opened = self._open_call() if codes is None else None
        if opened is not None:
            before = opened.loss
            output = self.detector(*inputs, **named)
            self._check_fused(opened.loss is not before)
            return output
        if torch.compiler.is_compiling():  # the compiler sets no context variables, and has no threads
            self._compiled_call = call = FusedCall(codes)
            try:
                output = self.detector(*inputs, **named)
            finally:
                self._compiled_call = None
        else:
            with self.use_codes(codes) as call:
                output = self.detector(*inputs, **named)
        self._check_fused(call.loss is not None)
        return self.add_loss(output, call.loss) if self.training and call.loss is not None else output

    @contextmanager
    def use_codes(self, codes: Any) -> Iterator[FusedCall]:
        """Set the codes for calls that cannot be changed: `with model.use_codes(codes): detector(images)`.

        Args:
            codes: As in `forward`.

        Yields:
            The call. After the detector ran, its `loss` is the reconstruction loss, for outputs of every kind.

        Raises:
            RuntimeError: If no maps were fused until the end of the block, or the fusion was removed.
        """
        self._check_connected()
        call = FusedCall(codes)
        token = _CALLS.set({**_CALLS.get({}), id(self): call})
        try:
            yield call
        finally:
            _CALLS.reset(token)
        self._check_fused(call.loss is not None)

    def add_loss(self, output: Any, loss: Tensor) -> Any:
        """Add the reconstruction loss to an output of the detector in training. Override for outputs of another kind.

        Args:
            output: A mapping with a scalar "loss", which is increased, or a dict of scalar losses, which gets one more entry,
                "loss_attribute_reconstruction".
            loss: The reconstruction loss, a scalar.

        Returns:
            The output with the loss.

        Raises:
            ValueError: For an output of another kind.
        """
        if isinstance(output, Mapping) and _is_scalar(output.get("loss")):
            total = output["loss"] + loss
            if type(output) is dict:
                return {**output, "loss": total}
            output.loss = total  # type: ignore[attr-defined]  # an output of transformers
            return output
        if type(output) is dict and output and all(_is_scalar(value) for value in output.values()):
            return {**output, LOSS: loss}
        if self.fusion.hiding.p == 0 or not torch.is_grad_enabled():
            return output  # nothing is hidden or nothing is learned: no loss is lost
        raise ValueError(
            f"the detector returned {_kind(output)} in training, which has no place for the reconstruction loss. Take the loss "
            f"from the call, `with model.use_codes(codes) as call: output = model(...)` and then `call.loss`; or override "
            f"add_loss; or set hide_probability=0 in the fusion, so that there is no such loss"
        )

    def codes_of_rows(self, codes: Any, *inputs: Any, **named: Any) -> Any:
        """Return the codes for the rows of the maps. Override where a row is not an image, such as a region of interest.

        Args:
            codes: Codes of the call, as they were given.
            *inputs: Inputs of the submodule `at`.
            **named: Keyword arguments of the submodule.

        Returns:
            Codes with as many rows as the maps, with one row for all of them, or None if nothing is mentioned.
        """
        return codes

    def remove(self) -> nn.Module:
        """Undo the wrapping and return the detector as it was before; this module cannot be called afterwards."""
        self._handle.remove()
        self._is_removed = True
        return self.detector

    def _open_call(self) -> FusedCall | None:
        if torch.compiler.is_compiling() and self._compiled_call is not None:
            return self._compiled_call
        # In a compiled part of a call that is not compiled itself, the graph may break here.
        return (_CALLS.get(None) or {}).get(id(self)) or self._compiled_call

    def _fuse(self, inputs: tuple[Any, ...], named: dict[str, Any], output: Any = None) -> Any:
        call = self._open_call()
        if call is None:
            if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
                raise RuntimeError(
                    f"submodule {self.at!r} runs again during backward(), where the codes of its call are gone: checkpoint "
                    f"the call of the FusedDetector as a whole, not a part of the detector"
                )
            call = FusedCall(None)
        codes = self.codes_of_rows(call.codes, *inputs, **named)
        fused = self.fusion(output if self.side == "output" else (inputs, named), codes)
        call.loss = fused.loss if call.loss is None else call.loss + fused.loss
        return fused.maps

    def _check_connected(self) -> None:
        if self._is_removed:
            raise RuntimeError("the fusion was taken off this detector by remove(): build a new FusedDetector")

    def _check_fused(self, is_fused: bool) -> None:
        if not is_fused:
            raise RuntimeError(
                f"no feature maps were fused: the submodule {self.at!r} did not run in this thread, so the codes had no "
                f"effect. Name a submodule that the detector calls, and call the detector that is wrapped, not a copy"
            )

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise RuntimeError(
            "nn.DataParallel copies a FusedDetector without its hook's connection; use DistributedDataParallel, or one device"
        )

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"at={self.at!r}, side={self.side!r}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _kind(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {sorted(map(str, output))}"
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    return f"a {type(output).__name__}"
