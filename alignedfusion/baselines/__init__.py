"""Baselines: other fusions, classifiers of attributes alone, and models that are combined after training.

Models are called like an `AlignedFusionClassifier`; a fusion replaces `IntermediateTokenFusion` in one.
"""

from alignedfusion.baselines.combined import ImageAndTableBoosting, SecondStageSVM, TwoExperts
from alignedfusion.baselines.tables import GradientBoosting, MajorityClass, NaiveBayes
from alignedfusion.baselines.whole_report import WholeReportTokenizer
from alignedfusion.modules.fusions.published import MSMAFusion, RemixFormerFusion
from alignedfusion.modules.fusions.simple import Concatenation, CrossAttention, ElementwiseSum, JointSelfAttention

__all__ = [
    "Concatenation",
    "CrossAttention",
    "ElementwiseSum",
    "GradientBoosting",
    "ImageAndTableBoosting",
    "JointSelfAttention",
    "MSMAFusion",
    "MajorityClass",
    "NaiveBayes",
    "RemixFormerFusion",
    "SecondStageSVM",
    "TwoExperts",
    "WholeReportTokenizer",
]
