"""Models for other runtimes: torch.export programs, and ONNX files that say themselves what goes in and what comes out."""

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
    """A classifier as other runtimes see it: plain dictionaries of tensors go in and come out, and nothing is optional.

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
        """Everything the classifier says but its loss, and the probabilities (B, C) beside the logits.

        Args:
            image: Images (B, channels, H, W) or tokens (B, N, F) for each image modality.
            codes: int64 (B, A).
            is_present: (B,) for each image modality.
            is_valid: (B, N) for image modalities with padded tokens; may be empty.
        """
        # A check that raises does not survive tracing. An index far beyond any table does: the lookup of the token fails,
        # where a code that is only slightly wrong would have found the token of another attribute.
        is_right = (codes >= UNKNOWN) & (codes < self.limits)
        codes = codes.masked_fill(~is_right, 2**40)

        out = self.model(image, codes, is_present=is_present, is_valid=is_valid)
        answer = {"logits": out.logits, "probabilities": out.logits.float().softmax(-1)}
        return {**answer, **{name: value for name, value in out.items() if name not in answer}}


def export(
    model: AlignedFusionClassifier, *, image: Images | None = None, has_padding: bool = False
) -> ExportedProgram:
    """Trace a model with `torch.export`, for any number of cases at a time.

    The program's module is called as `module(image, codes, is_present, is_valid)`: mappings by image modality (see
    `Answer.forward`), all of them always given. `torch.export.load` needs torch alone, not this library. A code out of range
    is an IndexError.

    Args:
        model: In evaluation mode.
        image: An example, two cases or more, if the shape of images does not follow from the model: with a visual module of
            your own, or to give a model with a backbone precomputed tokens. The number of tokens is free, the size of images
            is not.
        has_padding: Take `is_valid` for every image modality; without it there is no padding.

    Raises:
        ValueError: For a model in training mode, an example that is needed and not given, or padding of images.
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
    """Write a model as one ONNX file, for any number of cases at a time.

    Inputs, for each image modality m: `m`, images (B, channels, H, W) or tokens (B, N, F); `is_present_m`, bool (B,); with
    padding `is_valid_m`, bool (B, N). And `codes`, int64 (B, A). Outputs: `logits`, `probabilities` (B, C), and what else
    the classifier says: `reconstruction`, `intermediate`, `contributions`. A code out of range fails on the CPU; other
    runtimes may not look.

    The file's metadata say the rest in JSON, see `metadata`.

    Args:
        model: As for `export`, like the rest.
        path: Where to write.
        image: See there.
        has_padding: See there.
        quantize: Multiply matrices in 8-bit integers, on CPUs: weights are rounded here, activations as they come. A vision
            transformer takes about half the time; convolutions gain nothing. Try your test cases before you rely on it.

    Raises:
        ValueError: See `export`; also for a modality called "codes".
    """
    import onnxscript  # noqa: F401  # if it is not there, let it be known before the model is traced

    if "codes" in model.image_modalities:
        raise ValueError("an image modality is called 'codes', like the input of attributes: give it another name")
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
            ],  # for their names
            dynamo=True,
            verbose=False,
        )
        assert onnx is not None
        onnx.model.metadata_props.update({key: json.dumps(value) for key, value in metadata(model).items()})
        if quantize:
            from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

            proto = onnx.model_proto
            del proto.graph.value_info[:]  # shapes within: torch 2.8 has some of them wrong, and they are inferred anew
            quantize_dynamic(proto, path, per_channel=True, op_types_to_quantize=["MatMul"])
        else:
            onnx.save(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what exporters say of their own work: axes that share a name, constants not folded."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(model: AlignedFusionClassifier) -> dict[str, Any]:
    """What one must know to use a model without this library; plain JSON types.

    - `attributes`, in the order of the columns of codes, each with its name, kind and values. A cell's code is the index of
      its value, and of a number (kind "numeric") how many of `edges` are at or below it.
    - `unknown`, the code of what is not mentioned.
    - `class_names`, in the order of the logits.
    - `branches`, in the order of the contributions.
    - `preprocessing`, for each image modality how an image becomes its input; None for tokens.
    """
    return {
        "library": "alignedfusion",
        "attributes": [
            {**row, "values": list(attribute.values)}
            for row, attribute in zip(model.schema.to_dict()["attributes"], model.schema, strict=True)
        ],
        "unknown": UNKNOWN,
        "class_names": list(model.class_names),
        "branches": list(model.branches),
        "preprocessing": {m: getattr(visual, "preprocessing", None) for m, visual in model.visuals.items()},
    }


def _trace(model: AlignedFusionClassifier, arguments: Any, shapes: Any) -> ExportedProgram:
    if model.training:
        raise ValueError("the model is in training mode, where it hides attributes at random: call model.eval() first")
    answer = Answer(model).eval()
    with torch.no_grad(), _quiet():
        answer(*arguments)  # an example that does not fit is refused in the model's own words
        # Strict, for the other way of tracing takes len(tensor) for a constant, in modules of your own as well.
        return torch.export.export(answer, arguments, dynamic_shapes=shapes, strict=True)


def _inputs(model: AlignedFusionClassifier, image: Images | None, has_padding: bool) -> tuple[Any, Any]:
    """Examples of what `Answer.forward` takes, and which of their sizes are free."""
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
    # By number: a modality's name need not be an identifier.
    sizes = {m: {0: batch, 1: Dim(f"tokens_{i}")} if are_tokens[m] else {0: batch} for i, m in enumerate(images)}
    return arguments, (sizes, {0: batch}, {m: {0: batch} for m in images}, {m: sizes[m] for m in padded})


def _examples(model: AlignedFusionClassifier) -> dict[str, Tensor]:
    examples = {}
    for m, visual in model.visuals.items():
        if not isinstance(visual, VisualTokenizer):
            raise ValueError(f"image must hold an example: what {type(visual).__name__} takes for {m!r} is not known")
        # Five tokens: a number that no other size is likely to share.
        shape = (5, visual.num_features) if visual.preprocessing is None else visual.preprocessing["input_size"]
        examples[m] = torch.zeros(2, *shape, device=model.log_prior.device)
    return examples
