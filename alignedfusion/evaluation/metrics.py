"""How good a model is, and what missing attributes cost it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.cases import collate
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.modules.tokenizers import VisualTokenizer

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
METRICS = ("accuracy", "balanced_accuracy", "macro_auc", "calibration_error")


def metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro AUC and expected calibration error.

    Args:
        probabilities: (n, C), rows that sum to one.
        labels: (n,) class indices.

    Returns:
        The four, 0 to 1. The AUC is one class against the rest, averaged over the classes that `labels` has; nan if it has
        only one.
    """
    from sklearn.metrics import roc_auc_score

    if len(probabilities) != len(labels) or not len(labels):
        raise ValueError(f"need one row of probabilities per label, got {len(probabilities)} for {len(labels)}")
    predicted = probabilities.argmax(1)
    present = np.unique(labels)
    recalls = [float((predicted[labels == c] == c).mean()) for c in present]
    aucs = [float(roc_auc_score(labels == c, probabilities[:, c])) for c in present] if len(present) > 1 else [np.nan]
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_auc": float(np.mean(aucs)),
        "calibration_error": calibration_error(probabilities.max(1), predicted == labels),
    }


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| per bin of equal width, weighted by the cases in it."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=is_right.astype(float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def predict(
    model: nn.Module, cases: Dataset[Any], variants: Sequence[Tensor], *, batch_size: int = 64, progress: bool = True
) -> np.ndarray:
    """Class probabilities of the same cases under several versions of their attributes; each image is encoded once.

    Args:
        model: An `AlignedFusionClassifier`; left in evaluation mode.
        cases: n cases, in order.
        variants: Codes (n, A), one tensor per version.
        batch_size: Cases per step.
        progress: Show a progress bar.

    Returns:
        (versions, n, C).
    """
    logits = outputs(model, cases, variants, "logits", batch_size=batch_size, progress=progress)
    return logits.softmax(-1).numpy()


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
    """One field of a model's output for the same cases under several versions of their attributes, as in `predict`."""
    from tqdm.auto import tqdm

    model.eval()
    device = next(iter(model.state_dict().values())).device
    results: list[list[Tensor]] = [[] for _ in variants]
    start = 0
    for batch in tqdm(DataLoader(cases, batch_size, collate_fn=collate), disable=not progress, desc="predicting"):
        size = len(batch["labels"])
        image = _features(getattr(model, "visual", None), to_device(batch["image"], device))
        is_present = to_device(batch.get("is_present"), device)
        for result, codes in zip(results, variants, strict=True):
            output = model(image, codes[start : start + size].to(device), is_present=is_present)
            result.append(output[field].float().cpu())
        start += size
    return torch.stack([torch.cat(result) for result in results])


def missing_sweep(
    model: nn.Module,
    cases: Any,
    schema: AttributeSchema,
    *,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = True,
) -> list[dict[str, float]]:
    """Metrics at each share of missing attributes, the mean over several draws of what is missing.

    Args:
        model: An `AlignedFusionClassifier`.
        cases: `TensorCases`, `FileCases`, or a dataset with the same `codes` and `labels`.
        schema: The attributes.
        rates: Shares of the mentioned cells that are dropped.
        seeds: Draws; at rate 0 they are all the same.
        progress: Show a progress bar.

    Returns:
        One row per rate, with `missing` and the four metrics.
    """
    variants = [drop_attributes(cases.codes, rate, schema, seed=seed) for rate in rates for seed in seeds]
    probabilities = predict(model, cases, variants, progress=progress)
    labels = cases.labels.numpy()
    rows = []
    for i, rate in enumerate(rates):
        draws = [metrics(probabilities[i * len(seeds) + j], labels) for j in range(len(seeds))]
        rows.append({"missing": float(rate)} | {name: float(np.mean([d[name] for d in draws])) for name in METRICS})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with equal keys as text: shares in percent, the AUC with three digits."""
    names = list(rows[0])
    cells = [[_cell(row[name], name != "macro_auc") for name in names] for row in rows]
    heads = [name.replace("_", " ") for name in names]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in [heads, *cells]]
    return "\n".join(lines)


def _cell(value: Any, is_share: bool) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    return f"{value * 100:.1f} %" if is_share else f"{value:.3f}"


def to_device(value: Any, device: torch.device) -> Any:
    """A tensor, a mapping of tensors or None, on a device."""
    if isinstance(value, dict):
        return {name: each.to(device) for name, each in value.items()}
    return None if value is None else value.to(device)


def _features(visual: nn.Module | None, image: Any) -> Any:
    # Images do not depend on what the report mentions: the backbone runs once for all versions of the attributes.
    if isinstance(image, dict):
        each = visual if isinstance(visual, nn.ModuleDict) else dict.fromkeys(image, visual)
        return {name: _features(each[name], pixels) for name, pixels in image.items()}
    has_backbone = isinstance(visual, VisualTokenizer) and visual.backbone is not None and image.ndim == 4
    return visual.features(image) if has_backbone else image  # type: ignore[union-attr, operator]
