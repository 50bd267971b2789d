"""The model of an estimator, and its random numbers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from alignedfusion.datasets.images import check_images, image_paths, token_width
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.modules.backbones import Backbone
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import choose_backbone, match_tokens, standard

if TYPE_CHECKING:
    from alignedfusion.sklearn.estimator import AlignedFusionEstimator


def build_model(estimator: AlignedFusionEstimator, frame: pd.DataFrame) -> AlignedFusionClassifier:
    """The model of an estimator, untrained.

    Args:
        estimator: The estimator, with its schema and the names of its labels.
        frame: All rows of `fit`.

    Raises:
        ValueError: For images that cannot be read or have no tokens, or an image column without any.
    """
    columns = estimator.image_columns()
    if not columns:
        return standard(estimator.schema_, estimator.label_names_, images=(), dim=estimator.dim, task=estimator.task)
    paths = image_paths(frame, columns, estimator.image_root)
    if empty := [m for m, column in paths.items() if not any(column)]:
        raise ValueError(f"no row has an image of {empty}; leave the column out")
    files = sorted({path for column in paths.values() for path in column if path is not None})
    cache = None if estimator.tokens is None else TokenCache(estimator.tokens)
    if cache is None:
        check_images(files)
    elif faults := cache.faults(files):
        command = cache.command(columns, Path(estimator.image_root))
        raise ValueError(f"{len(faults)} images have no tokens: {'; '.join(faults[:5])}; `{command}` adds them")
    num_features = token_width(paths)
    backbone = choose_backbone(
        cache, Backbone(estimator.backbone, estimator.pretrained, estimator.frozen, estimator.image_size)
    )
    if num_features is None and not backbone.pretrained:
        warnings.warn(
            f"pretrained=False: the backbone {backbone.name!r} starts from random weights"
            + (", and frozen=True keeps them; its tokens are of little use" if estimator.frozen else ""),
            stacklevel=3,
        )
    model = standard(
        estimator.schema_,
        estimator.label_names_,
        backbone=None if num_features else backbone,
        images=tuple(paths),
        num_features=num_features,
        dim=estimator.dim,
        task=estimator.task,
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
