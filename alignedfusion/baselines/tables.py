"""Classifiers of the attributes alone, from scikit-learn, that are called like a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from alignedfusion.attributes import UNKNOWN, AttributeSchema
from alignedfusion.modules.masking import hide_attributes
from alignedfusion.modules.outputs import ClassifierOutput


class TableClassifier(nn.Module):
    """Base class of classifiers of a table: they are fitted once, then called like a model.

    Args:
        schema: The attributes.
        num_classes: Number of classes C.
    """

    log_shares: Tensor

    def __init__(self, schema: AttributeSchema, num_classes: int) -> None:
        super().__init__()
        self.schema = schema
        self.num_classes = num_classes
        self.register_buffer("log_shares", torch.zeros(num_classes))
        self.estimator: Any = None

    def fit(self, cases: Any) -> TableClassifier:
        """Fit the classifier to the `codes` and `labels` of cases."""
        counts = torch.bincount(cases.labels, minlength=self.num_classes) + 1.0
        self.log_shares.copy_((counts / counts.sum()).log())
        self.estimator = self.learn(cases.codes, cases.labels.numpy())
        return self

    def learn(self, codes: Tensor, labels: np.ndarray) -> Any:
        """Fit an estimator and return it."""
        raise NotImplementedError

    def columns(self, codes: Tensor) -> np.ndarray:
        """The estimator's input for codes (B, A)."""
        return one_hot(codes, self.schema)

    def forward(self, image: Any, codes: Tensor, labels: Tensor | None = None, **ignored: Any) -> ClassifierOutput:
        """Log-probabilities (B, C) as logits; images are ignored."""
        return ClassifierOutput(logits=self.log_probabilities(self.columns(codes.cpu())))

    def log_probabilities(self, columns: np.ndarray) -> Tensor:
        """The estimator's log-probabilities (B, C)."""
        probabilities = torch.full((len(columns), self.num_classes), 1e-9, dtype=torch.float64)
        # The estimator does not have classes without a training case.
        probabilities[:, self.estimator.classes_] = torch.from_numpy(self.estimator.predict_proba(columns))
        return probabilities.clamp(min=1e-9).log().float()


class MajorityClass(TableClassifier):
    """Predicts the class shares of the training cases for every case."""

    def learn(self, codes: Tensor, labels: np.ndarray) -> Any:
        """Fit nothing: the class shares suffice."""

    def forward(self, image: Any, codes: Tensor, labels: Tensor | None = None, **ignored: Any) -> ClassifierOutput:
        """The log shares (B, C) as logits."""
        return ClassifierOutput(logits=self.log_shares.expand(len(codes), -1))


class NaiveBayes(TableClassifier):
    """Naive Bayes on the mentioned attributes; unmentioned ones are left out of the product."""

    def learn(self, codes: Tensor, labels: np.ndarray) -> Any:
        """Count each value in each class."""
        from sklearn.naive_bayes import MultinomialNB

        return MultinomialNB().fit(one_hot(codes, self.schema), labels)


class GradientBoosting(TableClassifier):
    """Gradient-boosted trees with native support for missing values.

    They are fitted to five copies of every training case: one complete, and four with attributes hidden as in all other methods
    (30 %). Trees fitted without missing values would send a missing value down an arbitrary branch.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of the trees other than scikit-learn's defaults."""

    def learn(self, codes: Tensor, labels: np.ndarray) -> Any:
        """Fit trees to the codes as categories."""
        return self.fit_trees(codes, labels, np.empty((len(codes), 0)))

    def fit_trees(self, codes: Tensor, labels: np.ndarray, numbers: np.ndarray) -> Any:
        """Fit trees to the codes as categories, beside numeric columns (n, k) that are never hidden."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        generator = torch.Generator().manual_seed(0)
        copies = [codes, *(hide_attributes(codes, generator=generator)[0] for _ in range(4))]
        trees = HistGradientBoostingClassifier(
            categorical_features=list(range(len(self.schema))), early_stopping=False, random_state=0, **self.settings
        )
        rows = [np.concatenate([self.columns(copy), numbers], axis=1) for copy in copies]
        return trees.fit(np.concatenate(rows), np.tile(labels, len(copies)))

    def columns(self, codes: Tensor) -> np.ndarray:
        """Codes as floating-point numbers, NaN where unmentioned."""
        return np.where(codes == UNKNOWN, np.nan, codes.double())


def one_hot(codes: Tensor, schema: AttributeSchema) -> np.ndarray:
    """One column per value (B, V), all zero where unmentioned."""
    tables = [torch.eye(number + 1)[:, :number] for number in schema.num_values]  # the last row is UNKNOWN = -1
    return torch.cat([table[column] for table, column in zip(tables, codes.unbind(1), strict=True)], dim=1).numpy()
