"""The estimator: `fit`, `predict` and what belongs to them."""

# ruff: noqa: N803, N806 (scikit-learn's name for a table is X)

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import RegressorTags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from alignedfusion.attributes import AttributeSchema
from alignedfusion.datasets.cases import WeightedCases, make_cases
from alignedfusion.datasets.images import image_paths
from alignedfusion.datasets.imputation import examples_of, fill_gaps
from alignedfusion.datasets.reading import read_cells
from alignedfusion.datasets.splits import hold_back
from alignedfusion.datasets.tasks import TASKS
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.evaluation.inference import outputs, prepare_images
from alignedfusion.modules.backbones import Backbone
from alignedfusion.sklearn.building import build_model, own_randomness
from alignedfusion.sklearn.labels import score_labels, used_rows
from alignedfusion.training.calibration import calibrate
from alignedfusion.training.decision import choose_decision
from alignedfusion.training.fitting import fit
from alignedfusion.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor


def _has_probabilities(estimator: AlignedFusionEstimator) -> bool:
    return estimator.task != "regression"


class AlignedFusionEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts labels of the rows of a DataFrame with columns of image paths and of attributes, which may have empty cells.

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
        task: "multiclass" for classes; "multilabel" for y (n, L) of 0 and 1, -1 where unknown; "regression" for y (n,) or
            (n, L) of numbers, nan where unknown. The columns of a DataFrame y name the labels.
        workers: Number of processes that read images.
        random_state: Seed of weights, order, hiding and the rows held back.
        verbose: Whether to show a progress bar.

    Attributes:
        model_: The trained `AlignedFusionClassifier`; `model_.save_pretrained(folder)` saves it without pickle.
        schema_: The `AttributeSchema` of the model, learned from the training rows.
        classes_: The distinct labels; for several labels 0 and 1 for each; absent for numbers.
        label_names_: Names of the classes, labels or numbers.
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
        task: str = "multiclass",
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
        self.task = task
        self.workers = workers
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> AlignedFusionEstimator:
        """Fit the schema and the model to these rows.

        Args:
            X: A DataFrame, or an array (n, features) without images.
            y: n labels of any type, or (n, L) as the task asks, see `labels.read_labels`.
            sample_weight: n weights of the rows in the loss of the class and in the class shares; 1 by default. A row with the
                weight 0 is left out. Calibration does not use them.

        Raises:
            ValueError: For a column that is missing or cannot be an attribute, an unreadable image, a single class, or labels
                that do not fit the task.
        """
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {list(TASKS)}, got {self.task!r}")
        whole, found, weights = used_rows(self._frame(X, reset=True), y, sample_weight, self.task)
        self.label_names_, self._is_flat = found.names, found.is_flat
        self.__dict__.pop("classes_", None)  # of an earlier fit with another task
        if found.classes is not None:
            self.classes_ = found.classes
        labels, groups = found.values, whole[self.group] if self.group else None
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        is_held = hold_back(found.strata(groups), groups, self.calibration, seed)
        frame = whole[~is_held]
        self.schema_ = AttributeSchema.from_table(frame, self._attribute_names(frame))
        self._examples = examples_of(frame, self.schema_)

        with own_randomness(seed), tempfile.TemporaryDirectory() as folder:
            self.model_ = build_model(
                whole,
                self.schema_,
                found,
                images=self._image_columns(),
                root=self.image_root,
                tokens=self.tokens,
                backbone=Backbone(self.backbone, self.pretrained, self.tune, self.image_size, self.timm_args),
                dim=self.dim,
            )
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

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, C), in the order of `classes_`, or of each label (n, L); no method of a model for numbers."""
        logits = self._outputs(self._fitted_frame(X), "logits")
        return self.model_.activate(logits).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """What is predicted for each row.

        Classes (n,): the most probable one, unless `balance` helps rare classes. Labels (n, L) of 0 and 1. Numbers with the
        shape of y.
        """
        logits = self._outputs(self._fitted_frame(X), "logits")
        decided = self.model_.decide(logits).numpy()
        if self.model_.task == "multiclass":
            return self.classes_[decided]
        return decided[:, 0] if self._is_flat else decided

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of classes, share of the known labels that are predicted right, or R2 of the known numbers."""
        if self.task == "multiclass":
            return float(super().score(X, y, sample_weight))
        predicted = self.predict(X)
        return score_labels(predicted.reshape(len(predicted), -1), y, self.label_names_, self.task, sample_weight)

    def impute(self, X: Any) -> pd.DataFrame:
        """The table with the most probable value in each unmentioned cell; for a number, the median of the interval."""
        frame = self._fitted_frame(X)
        probable = self._outputs(frame, "reconstruction").argmax(-1)  # (n, A)
        return fill_gaps(frame, self.schema_, probable, self._examples)

    def __sklearn_tags__(self) -> Any:
        """Tags that allow missing values, text and categories in X."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        if self.task == "regression":
            tags.estimator_type, tags.classifier_tags, tags.regressor_tags = "regressor", None, RegressorTags()
        elif self.task == "multilabel":
            tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = self.task == "regression"
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
        with own_randomness(0):  # inference is deterministic, but a loader draws a seed for its workers
            result = outputs(self.model_, cases, [cases.codes], field, progress=False)[0]
        self.model_.cpu()
        return result
