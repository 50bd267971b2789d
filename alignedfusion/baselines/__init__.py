"""What we compare with: other fusions, classifiers of attributes alone, and models combined after training.

All are called like an `AlignedFusionClassifier`, or go into one in the place of `IntermediateTokenFusion`.
"""

from alignedfusion.baselines.combined import SecondStageSVM, TwoExperts
from alignedfusion.baselines.fusions import Concatenation, CrossAttention, ElementwiseSum, JointSelfAttention
from alignedfusion.baselines.published import MSMAFusion, RemixFormerFusion
from alignedfusion.baselines.tables import GradientBoosting, MajorityClass, NaiveBayes
from alignedfusion.baselines.whole_report import WholeReportTokenizer

__all__ = [
    "Concatenation",
    "CrossAttention",
    "ElementwiseSum",
    "GradientBoosting",
    "JointSelfAttention",
    "MSMAFusion",
    "MajorityClass",
    "NaiveBayes",
    "RemixFormerFusion",
    "SecondStageSVM",
    "TwoExperts",
    "WholeReportTokenizer",
]
