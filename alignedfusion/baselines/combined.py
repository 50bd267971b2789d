"""Models that are combined after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT, UNKNOWN, AttributeSchema
from alignedfusion.baselines.tables import GradientBoosting, one_hot
from alignedfusion.evaluation.inference import find_task, predict
from alignedfusion.modules.outputs import ClassifierOutput


def _select_image_masks(masks: Mapping[str, Any]) -> dict[str, Any]:
    """The masks of image modalities, by argument."""
    return {
        name: {m: mask for m, mask in (by_modality or {}).items() if m != REPORT} for name, by_modality in masks.items()
    }


def _check_classes(*models: nn.Module) -> None:
    for model in models:
        if (task := find_task(model)) != "multiclass":
            raise ValueError(
                f"this baseline combines the probabilities of classes, and a model has the task {task!r}: train one for "
                f"'multiclass'"
            )


class TwoExperts(nn.Module):
    """Adds the log-probabilities of an image-only and an attributes-only model (late fusion).

    Each expert's probabilities contain the class prior, so their sum counts it twice. If image and attributes are independent
    given the class, p(class | both) is proportional to p(class | image) p(class | attributes) / p(class).

    Args:
        image_model: Model trained on images alone.
        attribute_model: Model trained on attributes alone.
        class_counts: Training cases per class (C,), to count the prior once; None counts it twice, as a plain product does.
    """

    log_prior: Tensor | None

    def __init__(
        self, image_model: nn.Module, attribute_model: nn.Module, *, class_counts: Tensor | None = None
    ) -> None:
        super().__init__()
        _check_classes(image_model, attribute_model)
        self.image_model = image_model
        self.attribute_model = attribute_model
        self.register_buffer("log_prior", None)
        if class_counts is not None:
            smoothed = class_counts.float() + 1.0
            self.log_prior = (smoothed / smoothed.sum()).log()

    @property
    def visuals(self) -> Any:
        """The modules that read the image model's images."""
        return self.image_model.visuals

    def forward(self, image: Any, codes: Tensor, labels: Tensor | None = None, **masks: Any) -> ClassifierOutput:
        """Sums of log-probabilities (B, C) as logits."""
        image_logits: Tensor = self.image_model(image, codes, **_select_image_masks(masks)).logits
        is_present = (masks.get("is_present") or {}).get(REPORT)
        attribute_logits: Tensor = self.attribute_model(
            None, codes if is_present is None else codes.masked_fill(~is_present[:, None], UNKNOWN)
        ).logits
        logits = image_logits.log_softmax(-1) + attribute_logits.log_softmax(-1)
        return ClassifierOutput(logits=logits if self.log_prior is None else logits - self.log_prior)


class SecondStageSVM(nn.Module):
    """FusionM4Net's second stage (Tang et al. 2022): an SVM on class probabilities and one-hot metadata.

    The result is w times the image model's probabilities plus 1 - w times those of the SVM, where w is the value of 0, 0.1 ...
    1 with the highest accuracy on the validation cases. If these are complete (the paper's "FusionM4net"), w is chosen for
    complete reports; if they lack attributes ("Miss Val."), for incomplete ones. A softmax turns the SVM's decision values into
    probabilities.

    Args:
        image_model: The first stage, a model trained on images alone.
        schema: The attributes.
    """

    def __init__(self, image_model: nn.Module, schema: AttributeSchema) -> None:
        super().__init__()
        _check_classes(image_model)
        self.image_model = image_model
        self.schema = schema
        self.weight = 0.5
        self.svm: Any = None

    @property
    def visuals(self) -> Any:
        """The modules that read the image model's images."""
        return self.image_model.visuals

    def fit(self, train: Any, valid: Any) -> SecondStageSVM:
        """Fit the SVM to the training cases, and the weight to the validation cases."""
        from sklearn.svm import SVC

        first = predict(self.image_model, train, [train.codes], progress=False)[0]
        self.svm = SVC().fit(self._columns(first, train.codes), train.labels.numpy())
        first = predict(self.image_model, valid, [valid.codes], progress=False)[0]
        second = self._second(first, valid.codes)
        weights = np.linspace(0, 1, 11)
        accuracy = [((w * first + (1 - w) * second).argmax(1) == valid.labels.numpy()).mean() for w in weights]
        self.weight = float(weights[int(np.argmax(accuracy))])
        return self

    def forward(self, image: Any, codes: Tensor, labels: Tensor | None = None, **masks: Any) -> ClassifierOutput:
        """Log-probabilities (B, C) as logits."""
        logits = self.image_model(image, codes, **_select_image_masks(masks)).logits
        first = logits.float().softmax(-1).detach().cpu().numpy()
        mixed = self.weight * first + (1 - self.weight) * self._second(first, codes.cpu())
        return ClassifierOutput(logits=torch.from_numpy(mixed).clamp(min=1e-9).log().float())

    def _columns(self, probabilities: np.ndarray, codes: Tensor) -> np.ndarray:
        return np.concatenate([probabilities, one_hot(codes, self.schema)], axis=1)

    def _second(self, first: np.ndarray, codes: Tensor) -> np.ndarray:
        decision = np.atleast_2d(self.svm.decision_function(self._columns(first, codes)))
        if len(self.svm.classes_) == 2:
            decision = np.stack([-decision.reshape(-1), decision.reshape(-1)], axis=1)
        result = np.zeros_like(first)  # the SVM does not have classes without a training case
        result[:, self.svm.classes_] = torch.from_numpy(decision).softmax(-1).numpy()
        return result


class ImageAndTableBoosting(GradientBoosting):
    """Gradient-boosted trees on principal components of the mean image token, beside the attributes.

    It stands in for a foundation model of tables that takes images: it trains no network, and handles missing values by
    itself. The components of an absent image are missing values.

    Args:
        schema: The attributes.
        num_classes: Number of classes C.
        components: Principal components of each image modality.
    """

    visuals: Mapping[str, nn.Module] = {}
    # The copies of a case have the same image: leaves of scikit-learn's default size, 20 rows, would memorise four cases.
    settings: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 0.05,
        "max_leaf_nodes": 6,
        "min_samples_leaf": 100,
        "max_features": 0.3,
        "l2_regularization": 10.0,
    }

    def __init__(self, schema: AttributeSchema, num_classes: int, *, components: int = 30) -> None:
        super().__init__(schema, num_classes)
        self.components = components
        self.axes: dict[str, Any] = {}

    def fit(self, cases: Any) -> ImageAndTableBoosting:
        """Fit components and trees to cases whose `image` holds tokens (n, N, F) by modality."""
        from sklearn.decomposition import PCA

        for m, tokens in cases.image.items():
            if tokens.ndim != 3:
                raise ValueError(f"image {m!r} must be tokens (n, N, F), got {tuple(tokens.shape)}")
            means = tokens.float().mean(1).numpy()
            self.axes[m] = PCA(min(self.components, *means.shape), random_state=0).fit(means)
        self.estimator = self.fit_trees(cases.codes, cases.labels.numpy(), self._image_columns(cases.image, {}))
        return self

    def forward(self, image: Any, codes: Tensor, labels: Tensor | None = None, **masks: Any) -> ClassifierOutput:
        """Log-probabilities (B, C) as logits."""
        is_present = masks.get("is_present") or {}
        if REPORT in is_present:
            codes = codes.masked_fill(~is_present[REPORT][:, None], UNKNOWN)
        numbers = self._image_columns(image, is_present)
        return ClassifierOutput(
            logits=self.log_probabilities(np.concatenate([self.columns(codes.cpu()), numbers], axis=1))
        )

    def _image_columns(self, image: Mapping[str, Tensor], is_present: Mapping[str, Tensor]) -> np.ndarray:
        columns = []
        for m, axes in self.axes.items():
            projected = axes.transform(image[m].float().mean(1).cpu().numpy())
            if m in is_present:
                projected[~is_present[m].cpu().numpy()] = np.nan
            columns.append(projected)
        return np.concatenate(columns, axis=1)
