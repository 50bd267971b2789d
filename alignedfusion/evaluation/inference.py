"""Outputs of a trained model for many cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from alignedfusion.attributes import UNKNOWN
from alignedfusion.datasets.cases import collate
from alignedfusion.evaluation.conformal import PredictionSets
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tokenizers import VisualTokenizer


def predict(
    model: nn.Module, cases: Dataset[Any], variants: Sequence[Tensor], *, batch_size: int = 64, progress: bool = True
) -> np.ndarray:
    """What a model predicts for several versions of the same cases' attributes; each image is encoded once.

    Args:
        model: An `AlignedFusionClassifier`; it is left in evaluation mode.
        cases: n cases.
        variants: Codes (n, A), one tensor per version.
        batch_size: Cases per forward pass.
        progress: Whether to show a progress bar.

    Returns:
        (versions, n, C): probabilities of the classes, the probability of each label, or values; see the model's `activate`.
    """
    logits = outputs(model, cases, variants, "logits", batch_size=batch_size, progress=progress)
    return (model.activate(logits) if isinstance(model, AlignedFusionClassifier) else logits.softmax(-1)).numpy()


def find_task(model: nn.Module) -> str:
    """The task of a model; "multiclass" for all but an `AlignedFusionClassifier`."""
    return model.task if isinstance(model, AlignedFusionClassifier) else "multiclass"


def decide(model: nn.Module, outputs: np.ndarray) -> np.ndarray:
    """The decisions for outputs (..., C) of `predict`: by the model's own `decide`, or the most probable classes.

    Classes have the shape (...), labels 0 and 1 the shape (..., C). Values are returned as they are.
    """
    if not isinstance(model, AlignedFusionClassifier):
        return outputs.argmax(-1)
    if model.task == "regression":
        return outputs
    return model.decide(model.targets.deactivate(torch.from_numpy(outputs))).numpy()


def prediction_sets(model: nn.Module, probabilities: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """Which classes are in the model's conformal prediction sets, bool (..., C); None for a model without.

    Args:
        model: The model.
        probabilities: (..., C).
        codes: (..., A).
    """
    calibrated = getattr(model, "prediction_sets", None)
    if calibrated is None:
        return None
    return PredictionSets.from_dict(calibrated)(probabilities, (codes != UNKNOWN).mean(-1))


@torch.no_grad()
def outputs(
    model: nn.Module,
    cases: Dataset[Any],
    variants: Sequence[Tensor],
    field: str,
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """One field of a model's output for several versions of the same cases' attributes.

    Args:
        model: An `AlignedFusionClassifier`; it is left in evaluation mode.
        cases: n cases.
        variants: Codes (n, A), one tensor per version.
        field: Name of the field, such as "logits".
        batch_size: Cases per forward pass.
        progress: Whether to show a progress bar.

    Returns:
        The field with the shape (versions, n, ...).
    """
    from tqdm.auto import tqdm

    model.eval()
    device = next(iter(model.state_dict().values())).device
    results: list[Tensor] = []
    start = 0
    for batch in tqdm(DataLoader(cases, batch_size, collate_fn=collate), disable=not progress, desc="predicting"):
        size = len(batch["labels"])
        image = encode_images(model, to_device(batch["image"], device))
        is_present = to_device(batch.get("is_present"), device)
        codes = torch.stack([codes[start : start + size] for codes in variants])  # (versions, B, A)
        # Versions often share rows: a cell that is dropped at a rate is dropped at every higher one. Each is computed once.
        case = torch.arange(size).expand(len(variants), size)
        rows = torch.cat([case[..., None], codes], dim=-1).flatten(0, 1)
        distinct, place = rows.unique(dim=0, return_inverse=True)
        found = []
        for step in distinct.split(batch_size):
            number = step[:, 0].to(device)
            output = model(_take(image, number), step[:, 1:].to(device), is_present=_take(is_present, number))
            found.append(output[field].float().cpu())
        results.append(torch.cat(found)[place].unflatten(0, (len(variants), size)))
        start += size
    if not results:
        raise ValueError("there is no case to predict: the data set is empty")
    return torch.cat(results, dim=1)


def _take(value: Any, rows: Tensor) -> Any:
    """Rows of a tensor, of each tensor of a mapping, or None."""
    if isinstance(value, dict):
        return {name: tensor[rows] for name, tensor in value.items()}
    return None if value is None else value[rows]


def prepare_images(model: AlignedFusionClassifier, *, is_training: bool = False) -> dict[str, Any]:
    """The arguments `transform` and `shape` of `make_cases` for a model: each image prepared for the module that reads it.

    Args:
        model: The classifier.
        is_training: Whether to augment the images.
    """
    visuals = {m: visual for m, visual in model.visuals.items() if isinstance(visual, VisualTokenizer)}
    with_images = {m: visual.preprocessing for m, visual in visuals.items() if visual.preprocessing is not None}
    transform = {
        m: visuals[m].transform(is_training=is_training) if m in with_images else None for m in model.image_modalities
    }
    shape = {m: (1, visual.num_features) for m, visual in visuals.items()}
    shape |= {m: tuple(preprocessing["input_size"]) for m, preprocessing in with_images.items()}
    return {"transform": transform, "shape": shape}


@torch.inference_mode()
def answer(model: AlignedFusionClassifier, cases: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The fields of a model's output for one batch of cases, on the CPU."""
    device = model.log_prior.device
    batch = {name: to_device(value, device) for name, value in collate(cases).items()}
    output = model(batch["image"], batch["codes"], is_present=batch.get("is_present"))
    return {name: value.float().cpu() for name, value in output.items()}


def to_device(value: Any, device: torch.device) -> Any:
    """Move a tensor, a mapping of tensors or None to a device. accelerate has the same function, but is an optional extra."""
    if isinstance(value, dict):
        return {name: tensor.to(device) for name, tensor in value.items()}
    return None if value is None else value.to(device)


def encode_images(model: nn.Module, image: Any) -> Any:
    """Images as tokens of their backbones, which do not depend on the attributes: each backbone runs once for all versions."""
    visuals = getattr(model, "visuals", {})
    if isinstance(image, dict):
        return {m: _features(visuals.get(m), pixels) for m, pixels in image.items()}
    return _features(next(iter(visuals.values()), None), image)


def _features(visual: nn.Module | None, pixels: Tensor) -> Tensor:
    has_backbone = isinstance(visual, VisualTokenizer) and visual.backbone is not None and pixels.ndim == 4
    return visual.features(pixels) if has_backbone else pixels  # type: ignore[union-attr, operator]
