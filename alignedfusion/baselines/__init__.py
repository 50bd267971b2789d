"""What we compare with: other fusions, classifiers of attributes alone, and models combined after training.

All are called like an `AlignedFusionClassifier`, or go into one in the place of `IntermediateTokenFusion`.
"""

from alignedfusion.baselines.combined import SecondStageSVM, TwoExperts
from alignedfusion.baselines.tables import GradientBoosting, MajorityClass, NaiveBayes
from alignedfusion.baselines.whole_report import WholeReportTokenizer
from alignedfusion.modules.fusions.published import MSMAFusion, RemixFormerFusion
from alignedfusion.modules.fusions.simple import Concatenation, CrossAttention, ElementwiseSum, JointSelfAttention

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
