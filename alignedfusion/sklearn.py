"""A scikit-learn classifier of the rows of a DataFrame, with image paths and incomplete attributes."""

# ruff: noqa: N803, N806 (scikit-learn's name for a table is X)

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.cases import WeightedCases, make_cases
from alignedfusion.datasets.images import check_images, image_paths, token_width
from alignedfusion.datasets.imputation import examples_of, fill_gaps
from alignedfusion.datasets.reading import read_cells
from alignedfusion.datasets.splits import hold_back
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.evaluation.inference import outputs, prepare_images
from alignedfusion.modules.backbones import Backbone
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import choose_backbone, match_tokens, standard
from alignedfusion.training.calibration import calibrate
from alignedfusion.training.decision import choose_decision
from alignedfusion.training.fitting import fit
from alignedfusion.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor


class AlignedFusionEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies the rows of a DataFrame with columns of image paths and columns of attributes, which may have empty cells.

    A cell that is None, NaN, an empty string or "UN" is unmentioned. So is a value that no row of `fit` had. The model is that
    of `alignedfusion train` (see `presets.standard`); without image columns it uses attributes only. The columns of a numeric
    array instead of a DataFrame are the attributes x0, x1, and so on.

    Args:
        images: Image columns. A file that ends in `.npy` holds precomputed tokens (N, F). An empty cell means that the row
            lacks that image. None means that there are no images.
        attributes: Attribute columns; None takes all columns that are neither images nor the group.
        group: Column with the patient, which is not used as an attribute. No patient has rows in both training and calibration.
        image_root: Folder that relative image paths start from.
        tokens: Folder that `alignedfusion tokens` wrote, which is read instead of the images. The backbone then runs once, not
            in every epoch, fold and setting; images are not augmented. New images without tokens can still be predicted.
        backbone: Name of a timm model, "hf-hub:owner/model" or "local-dir:FOLDER". None takes the backbone of `tokens`, or
            vit_small_patch16_224 without `tokens`.
        pretrained: True loads the weights of that name, a path loads a local file, False starts from random weights.
        tune: Weights of the backbone that are trained: "none", "last:K", "lora" or "whole" (see `modules.backbones.Backbone`).
        image_size: Side of the square input in pixels; by default that of the timm model.
        timm_args: Arguments of `timm.create_model` that change the architecture (see `VisualTokenizer`).
        dim: Token width D.
        epochs: Number of passes over the training rows.
        batch_size: Rows per training step.
        learning_rate: Peak learning rate of the parameters that process attributes only.
        calibration: Share of the rows of each class that is held back to calibrate the probabilities; 0 does not calibrate.
        balance: Help for rare classes in `predict`: "none", "class_weights" or "logit_adjustment" (see `TrainingSettings`). The
            probabilities stay calibrated. How far `predict` favours rare classes is chosen on the rows that are held back.
        workers: Number of processes that read images.
        random_state: Seed of weights, order, hiding and the rows held back.
        verbose: Whether to show a progress bar.

    Attributes:
        model_: The trained `AlignedFusionClassifier`; `model_.save_pretrained(folder)` saves it without pickle.
        schema_: The `AttributeSchema` of the model, learned from the training rows.
        classes_: The distinct labels.
        log_: The log that `training.fit` returned.
        n_features_in_: Number of columns of X.
        feature_names_in_: Names of the columns of X.
    """

    def __init__(
        self,
        *,
        images: str | Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        group: str | None = None,
        image_root: str | Path = ".",
        tokens: str | Path | None = None,
        backbone: str | None = None,
        pretrained: bool | str | Path = True,
        tune: str = "none",
        image_size: int | None = None,
        timm_args: Mapping[str, Any] | None = None,
        dim: int = 128,
        epochs: int = 30,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        calibration: float = 0.2,
        balance: str = "none",
        workers: int = 0,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.images = images
        self.attributes = attributes
        self.group = group
        self.image_root = image_root
        self.tokens = tokens
        self.backbone = backbone
        self.pretrained = pretrained
        self.tune = tune
        self.image_size = image_size
        self.timm_args = timm_args
        self.dim = dim
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.calibration = calibration
        self.balance = balance
        self.workers = workers
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> AlignedFusionEstimator:
        """Fit the schema and the model to these rows.

        Args:
            X: A DataFrame, or an array (n, features) without images.
            y: n labels of any type.
            sample_weight: n weights of the rows in the loss of the class and in the class shares; 1 by default. A row with the
                weight 0 is left out. Calibration does not use them.

        Raises:
            ValueError: For a column that is missing or cannot be an attribute, an unreadable image, or a single class.
        """
        whole, labels, weights = self._weighted(self._frame(X, reset=True), y, sample_weight)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        is_held = hold_back(labels, whole[self.group] if self.group else None, self.calibration, seed)
        frame = whole[~is_held]
        self.schema_ = AttributeSchema.from_table(frame, self._attribute_names(frame))
        self._examples = examples_of(frame, self.schema_)

        with _own_randomness(seed), tempfile.TemporaryDirectory() as folder:
            self.model_ = self._build(whole)
            # A backbone with random weights is trained with the full learning rate.
            starts_random = getattr(self.model_.visual, "backbone", None) is not None and not self.pretrained
            train = self._cases(frame, labels[~is_held], is_training=True)
            if weights is not None:
                used = torch.from_numpy(weights[~is_held])
                train = WeightedCases(train, used / used.mean())
            self.log_ = fit(
                self.model_,
                train,
                None,
                folder,
                TrainingSettings(
                    epochs=self.epochs,
                    batch_size=self.batch_size,
                    learning_rate=self.learning_rate,
                    image_rate=1.0 if starts_random else 0.2,
                    backbone_rate=1.0 if starts_random else 0.1,
                    seed=seed,
                    balance=self.balance,
                ),
                workers=self.workers,
                progress=self.verbose,
            )
            if is_held.any():
                held = self._cases(whole[is_held], labels[is_held])
                calibrate(self.model_, held, progress=self.verbose)
                if self.balance != "none":
                    choose_decision(self.model_, held, progress=self.verbose)
        self.model_.cpu().eval()  # so that a pickle can be loaded on a machine without a GPU
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, C), in the order of `classes_`."""
        return self._outputs(self._fitted_frame(X), "logits").softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The label of each row: the most probable one, unless `balance` helps rare classes."""
        logits = self._outputs(self._fitted_frame(X), "logits")
        return self.classes_[self.model_.decide(logits).numpy()]

    def impute(self, X: Any) -> pd.DataFrame:
        """The table with the most probable value in each unmentioned cell; for a number, the median of the interval."""
        frame = self._fitted_frame(X)
        probable = self._outputs(frame, "reconstruction").argmax(-1)  # (n, A)
        return fill_gaps(frame, self.schema_, probable, self._examples)

    def __sklearn_tags__(self) -> Any:
        """Tags that allow missing values, text and categories in X."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def _frame(self, X: Any, *, reset: bool) -> pd.DataFrame:
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if infinite := [name for name in X if pd.api.types.is_float_dtype(X[name]) and np.isinf(X[name]).any()]:
                raise ValueError(f"the columns {infinite} hold infinity; leave a cell empty where nothing was recorded")
        else:
            X = pd.DataFrame(validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan"))
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])
        frame = X.set_axis(names, axis=1)
        wanted = [*self._image_columns(), *(self.attributes or ()), *([self.group] if self.group else ())]
        if absent := [name for name in wanted if name not in frame]:
            raise ValueError(f"X has no columns {absent}; it has {list(frame)}")
        return frame

    def _fitted_frame(self, X: Any) -> pd.DataFrame:
        check_is_fitted(self)
        return self._frame(X, reset=False)

    def _weighted(
        self, frame: pd.DataFrame, y: Any, sample_weight: Any
    ) -> tuple[pd.DataFrame, np.ndarray, np.ndarray | None]:
        """The rows with a weight above 0, their labels as indices, and their weights."""
        if sample_weight is None:
            labels = self._labels(y)
            check_consistent_length(frame, labels)
            return frame, labels, None
        weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        if weights.ndim != 1 or len(weights) != len(frame) or (weights < 0).any():
            raise ValueError(
                f"sample_weight must hold one number of at least 0 per row ({len(frame)}), got the shape {weights.shape} with "
                f"{int((weights < 0).sum())} negative numbers"
            )
        y = column_or_1d(y, warn=True)
        check_consistent_length(frame, y)
        if not (is_used := weights > 0).any():
            raise ValueError(f"all {len(weights)} rows have a sample_weight of zero: there is nothing to learn")
        return frame[is_used], self._labels(y[is_used]), weights[is_used]

    def _labels(self, y: Any) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        if pd.isna(y).any():
            raise ValueError(f"y contains NaN: {int(pd.isna(y).sum())} rows have no label; leave them out")
        check_classification_targets(check_array(y, ensure_2d=False, dtype=None))
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class, {list(self.classes_)}: there is nothing to learn")
        return labels

    def _image_columns(self) -> tuple[str, ...]:
        return (self.images,) if isinstance(self.images, str) else tuple(self.images or ())

    def _attribute_names(self, frame: pd.DataFrame) -> list[str]:
        reserved = {*self._image_columns(), *([self.group] if self.group else ())}
        names = (
            [str(name) for name in frame if name not in reserved] if self.attributes is None else list(self.attributes)
        )
        if both := reserved & set(names):
            raise ValueError(f"the columns {sorted(both)} are images or the group, and cannot be attributes")
        empty = [name for name in names if (frame[name].isna() | frame[name].isin(("", "UN"))).all()]
        if empty:
            warnings.warn(f"the attributes {empty} have no value in these rows, and are left out", stacklevel=3)
        if not (kept := [name for name in names if name not in empty]):
            raise ValueError(f"X has no column that can be an attribute among {list(frame)}; at least one is needed")
        return kept

    def _build(self, frame: pd.DataFrame) -> AlignedFusionClassifier:
        class_names = [str(name) for name in self.classes_]
        columns = self._image_columns()
        if not columns:
            return standard(self.schema_, class_names, images=(), dim=self.dim)
        paths = image_paths(frame, columns, self.image_root)
        if empty := [m for m, column in paths.items() if not any(column)]:
            raise ValueError(f"no row has an image of {empty}; leave the column out")
        files = sorted({path for column in paths.values() for path in column if path is not None})
        cache = None if self.tokens is None else TokenCache(self.tokens)
        if cache is None:
            check_images(files)
        elif faults := cache.faults(files):
            command = cache.command(columns, Path(self.image_root))
            raise ValueError(f"{len(faults)} images have no tokens: {'; '.join(faults[:5])}; `{command}` adds them")
        num_features = token_width(paths)
        requested = Backbone(self.backbone, self.pretrained, self.tune, self.image_size, self.timm_args)
        backbone = choose_backbone(cache, requested)
        if num_features is None and not backbone.pretrained:
            warnings.warn(
                f"pretrained=False: the backbone {backbone.name!r} starts from random weights"
                + (", and tune='none' keeps them; its tokens are of little use" if self.tune == "none" else ""),
                stacklevel=3,
            )
        model = standard(
            self.schema_,
            class_names,
            backbone=None if num_features else backbone,
            images=tuple(paths),
            num_features=num_features,
            dim=self.dim,
        )
        if cache is not None:
            visual = model.visual
            assert isinstance(visual, VisualTokenizer)
            match_tokens(visual, cache, backbone.pretrained)
        return model

    def _cases(self, frame: pd.DataFrame, labels: np.ndarray | None = None, *, is_training: bool = False) -> Any:
        codes = read_cells(frame, self.schema_, max_unread=1.0).codes
        paths = image_paths(frame, self._image_columns(), self.image_root)
        tokens = None
        if paths and self.tokens is not None and Path(self.tokens).is_dir():
            cache = TokenCache(self.tokens)
            if not cache.faults(path for column in paths.values() for path in column if path is not None):
                tokens = cache
        return make_cases(
            paths,
            codes,
            None if labels is None else torch.from_numpy(labels),
            **prepare_images(self.model_, is_training=is_training),
            tokens=tokens,
        )

    def _outputs(self, frame: pd.DataFrame, field: str) -> Tensor:
        cases = self._cases(frame)
        self.model_.to("cuda" if torch.cuda.is_available() else "cpu")
        with _own_randomness(0):  # inference is deterministic, but a loader draws a seed for its workers
            result = outputs(self.model_, cases, [cases.codes], field, progress=False)[0]
        self.model_.cpu()
        return result


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seeds all generators, and restores the caller's random states on exit."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
