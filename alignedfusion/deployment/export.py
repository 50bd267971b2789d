"""Models for other runtimes: torch.export programs, and ONNX files whose metadata describe their inputs and outputs."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from alignedfusion.attributes import UNKNOWN
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.images import Images
from alignedfusion.modules.tokenizers import VisualTokenizer


class Answer(nn.Module):
    """A classifier with the signature that other runtimes need: dictionaries of tensors, and no optional arguments.

    Args:
        model: The classifier.
    """

    limits: Tensor

    def __init__(self, model: AlignedFusionClassifier) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("limits", torch.tensor(model.schema.num_values, device=model.log_prior.device))

    def forward(
        self,
        image: dict[str, Tensor],
        codes: Tensor,
        is_present: dict[str, Tensor],
        is_valid: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """All fields of the classifier's output except the loss, and the probabilities (B, C), or the values of numbers.

        Args:
            image: Images (B, channels, H, W) or tokens (B, N, F) for each image modality.
            codes: int64 (B, A).
            is_present: (B,) for each image modality.
            is_valid: (B, N) for image modalities with padded tokens; may be empty.
        """
        # Tracing drops a check that raises. An index far out of range survives it and makes the lookup of the token fail,
        # while a code that is only slightly out of range would find the token of another attribute.
        is_right = (codes >= UNKNOWN) & (codes < self.limits)
        codes = codes.masked_fill(~is_right, 2**40)

        out = self.model(image, codes, is_present=is_present, is_valid=is_valid)
        answer = {"logits": out.logits, output_name(self.model): self.model.activate(out.logits.float())}
        return {**answer, **{name: value for name, value in out.items() if name not in answer}}


def output_name(model: AlignedFusionClassifier) -> str:
    """Name of the output that holds what `model.activate` returns: "probabilities", or "values" for numbers."""
    return "values" if model.task == "regression" else "probabilities"


def export(
    model: AlignedFusionClassifier, *, image: Images | None = None, has_padding: bool = False
) -> ExportedProgram:
    """Trace a model with `torch.export`, with a dynamic batch size.

    The module of the program is called as `module(image, codes, is_present, is_valid)`. The arguments other than `codes` are
    mappings by image modality (see `Answer.forward`), and none of them is optional. `torch.export.load` needs only torch, not
    this library. A code out of range raises an IndexError.

    Args:
        model: The model, in evaluation mode.
        image: Example images of two or more cases. Needed if the model does not determine their shape: with a visual module of
            your own, or for precomputed tokens as the input of a model with a backbone. The number of tokens is dynamic, the
            size of images is not.
        has_padding: Whether every image modality has an input `is_valid`. Without it, tokens must not be padded.

    Raises:
        ValueError: For a model in training mode, a needed example that is missing, or padding of images.
    """
    return _trace(model, *_inputs(model, image, has_padding))


def to_onnx(
    model: AlignedFusionClassifier,
    path: str | Path,
    *,
    image: Images | None = None,
    has_padding: bool = False,
    quantize: bool = False,
) -> None:
    """Write a model as one ONNX file, with a dynamic batch size.

    Inputs, for each image modality m: `m`, images (B, channels, H, W) or tokens (B, N, F); `is_present_m`, bool (B,); with
    padding `is_valid_m`, bool (B, N). And `codes`, int64 (B, A). Outputs: `logits` and `probabilities` (B, C), or `values` for
    numbers in their own units; and the other fields of the classifier's output: `reconstruction`, `intermediate`,
    `contributions`. A code out of range is an error on the CPU; other execution providers may not check it.

    The metadata of the file describe the inputs and outputs in JSON, see `metadata`.

    Args:
        model: The model, in evaluation mode.
        path: File to write.
        image: Example images of two or more cases, if the model does not determine their shape, as in `export`.
        has_padding: Whether every image modality has an input `is_valid`.
        quantize: Whether to multiply matrices in 8-bit integers, for CPUs: weights are rounded here, activations at run time.
            A vision transformer takes about half the time; convolutions are not faster. Test its accuracy on your own cases.

    Raises:
        ValueError: As in `export`, and for a modality with the name "codes".
    """
    import onnxscript  # noqa: F401  # imported here, so that a missing package is reported before tracing

    if "codes" in model.image_modalities:
        raise ValueError(
            "an image modality is called 'codes', as is the input of attribute codes: give it another name"
        )
    arguments, shapes = _inputs(model, image, has_padding)
    program = _trace(model, arguments, shapes)
    images, _, is_present, is_valid = arguments
    with _quiet():
        onnx = torch.onnx.export(
            program,
            input_names=[
                *images,
                "codes",
                *(f"is_present_{m}" for m in is_present),
                *(f"is_valid_{m}" for m in is_valid),
            ],
            output_names=program.call_spec.out_spec.context,  # the keys of the answer
            dynamic_shapes=[
                *shapes[0].values(),
                shapes[1],
                *shapes[2].values(),
                *shapes[3].values(),
            ],  # gives the dynamic axes their names
            dynamo=True,
            verbose=False,
        )
        assert onnx is not None
        onnx.model.metadata_props.update({key: json.dumps(value) for key, value in metadata(model).items()})
        if quantize:
            from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

            proto = onnx.model_proto
            del proto.graph.value_info[:]  # inner shapes: some are wrong in torch 2.8, and ONNX infers them again
            quantize_dynamic(proto, path, per_channel=True, op_types_to_quantize=["MatMul"])
        else:
            onnx.save(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' warnings about their own work: axes that share a name, constants that are not folded."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(model: AlignedFusionClassifier) -> dict[str, Any]:
    """The description of a model that is needed to use it without this library, in plain JSON types.

    - `attributes`: the name, kind and values of each attribute, in the order of the columns of `codes`. The code of a cell is
      the index of its value; the code of a number (kind "numeric") is the number of `edges` at or below it.
    - `unknown`: the code of an unmentioned attribute.
    - `task`: "multiclass", "multilabel" or "regression".
    - `class_names`: the names of the classes, labels or numbers, in the order of the logits.
    - `decision_offsets`: the predicted class is the largest logit after adding these, and the predicted labels are those whose
      sum is above 0, see `AlignedFusionClassifier.decide`. Numbers are the output `values`.
    - `branches`: the names of the branches, in the order of the contributions.
    - `preprocessing`: the preprocessing of the images of each modality; None for tokens.
    """
    return {
        "library": "alignedfusion",
        "attributes": [
            {**row, "values": list(attribute.values)}
            for row, attribute in zip(model.schema.to_dict()["attributes"], model.schema, strict=True)
        ],
        "unknown": UNKNOWN,
        "task": model.task,
        "class_names": list(model.class_names),
        "decision_offsets": (-model.prior_exponent * model.log_prior).tolist(),
        "branches": list(model.branches),
        "preprocessing": {m: getattr(visual, "preprocessing", None) for m, visual in model.visuals.items()},
    }


def _trace(model: AlignedFusionClassifier, arguments: Any, shapes: Any) -> ExportedProgram:
    if model.training:
        raise ValueError("the model is in training mode, where it hides attributes at random: call model.eval() first")
    answer = Answer(model).eval()
    with torch.no_grad(), _quiet():
        answer(*arguments)  # the model refuses a wrong example with its own error
        # Strict: non-strict tracing takes len(tensor) for a constant, also in modules of a user's own.
        return torch.export.export(answer, arguments, dynamic_shapes=shapes, strict=True)


def _inputs(model: AlignedFusionClassifier, image: Images | None, has_padding: bool) -> tuple[Any, Any]:
    """Example arguments of `Answer.forward`, and their dynamic sizes."""
    images = _examples(model) if image is None else image
    if isinstance(images, Tensor):
        images = {model.image_modalities[0]: images}
    are_tokens = {m: pixels.ndim == 3 for m, pixels in images.items()}
    if has_padding and not all(are_tokens.values()):
        raise ValueError(
            f"has_padding is for tokens (B, N, F), got images of {[m for m in images if not are_tokens[m]]}"
        )
    counts = sorted({len(pixels) for pixels in images.values()}) or [2]
    if len(counts) > 1 or counts[0] < 2:
        raise ValueError(f"image must hold the same number of cases of each modality, two or more; got {counts}")

    ones = functools.partial(torch.ones, dtype=torch.bool, device=model.log_prior.device)
    padded = images if has_padding else {}
    arguments = (
        dict(images),
        torch.full((counts[0], len(model.schema)), UNKNOWN, device=model.log_prior.device),
        {m: ones(counts[0]) for m in images},
        {m: ones(tokens.shape[:2]) for m, tokens in padded.items()},
    )
    batch = Dim("batch")
    # Axes are named by number, because the name of a modality need not be an identifier.
    sizes = {m: {0: batch, 1: Dim(f"tokens_{i}")} if are_tokens[m] else {0: batch} for i, m in enumerate(images)}
    return arguments, (sizes, {0: batch}, {m: {0: batch} for m in images}, {m: sizes[m] for m in padded})


def _examples(model: AlignedFusionClassifier) -> dict[str, Tensor]:
    examples = {}
    for m, visual in model.visuals.items():
        if not isinstance(visual, VisualTokenizer):
            raise ValueError(f"pass an example as image: the input of {type(visual).__name__} for {m!r} is not known")
        # Five tokens: no other size is likely to be the same.
        shape = (5, visual.num_features) if visual.preprocessing is None else visual.preprocessing["input_size"]
        examples[m] = torch.zeros(2, *shape, device=model.log_prior.device)
    return examples
