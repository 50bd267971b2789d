"""The model of an estimator, and its random numbers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.images import check_images, image_paths, token_width
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.modules.backbones import Backbone
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import check_unused, choose_backbone, match_tokens, standard

if TYPE_CHECKING:
    from alignedfusion.sklearn.labels import FitLabels


def build_model(
    frame: pd.DataFrame,
    schema: AttributeSchema,
    labels: FitLabels,
    *,
    images: Sequence[str],
    root: str | Path,
    tokens: str | Path | None,
    backbone: Backbone,
    dim: int,
) -> AlignedFusionClassifier:
    """The model of an estimator, untrained.

    Args:
        frame: All rows of `fit`.
        schema: The attributes.
        labels: The labels.
        images: Image columns.
        root: Folder that relative image paths start from.
        tokens: Folder of a token cache, or None.
        backbone: The backbone that was asked for.
        dim: Token width D.

    Raises:
        ValueError: For images that cannot be read or have no tokens, or an image column without any.
    """
    if not images:
        # Tokens and settings of the backbone have no effect, as is usual in scikit-learn: a grid may compare with and without
        # images.
        return standard(schema, labels.names, images=(), dim=dim, task=labels.task)
    paths = image_paths(frame, tuple(images), root)
    if empty := [m for m, column in paths.items() if not any(column)]:
        raise ValueError(f"no row has an image of {empty}; leave the column out")
    files = sorted({path for column in paths.values() for path in column if path is not None})
    cache = None if tokens is None else TokenCache(tokens)
    if cache is None:
        check_images(files)
    elif faults := cache.faults(files):
        command = cache.command(tuple(images), Path(root))
        raise ValueError(f"{len(faults)} images have no tokens: {'; '.join(faults[:5])}; `{command}` adds them")
    num_features = token_width(paths)
    if num_features is not None:
        check_unused(backbone, "the images are .npy files of tokens")
    tune, backbone = backbone.tune, choose_backbone(cache, backbone)
    if num_features is None and not backbone.pretrained:
        warnings.warn(
            f"pretrained=False: the backbone {backbone.name!r} starts from random weights"
            + (", and tune='none' keeps them; its tokens are of little use" if tune == "none" else ""),
            stacklevel=3,
        )
    model = standard(
        schema,
        labels.names,
        backbone=None if num_features else backbone,
        images=tuple(paths),
        num_features=num_features,
        dim=dim,
        task=labels.task,
    )
    if cache is not None:
        visual = model.visual
        assert isinstance(visual, VisualTokenizer)
        match_tokens(visual, cache, backbone.pretrained)
    return model


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seeds all generators, and restores the caller's random states on exit."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
