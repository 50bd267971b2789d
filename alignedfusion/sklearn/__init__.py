"""A scikit-learn estimator of the rows of a DataFrame, with image paths and incomplete attributes."""

from alignedfusion.sklearn.estimator import AlignedFusionEstimator

__all__ = ["AlignedFusionEstimator"]
