"""The methods in the rows of the tables. All use the same cases, codes, width, depth, number of epochs and hiding.

Only MBT has two rounds: with one, its bottleneck tokens transfer nothing between the modalities.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from completions import Completed, DetachedReconstructor, WeightedReconstruction, without_reconstruction
from torch import Tensor, nn

from alignedfusion import (
    AlignedFusionClassifier,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.attributes import REPORT, AttributeSchema
from alignedfusion.baselines import (
    Concatenation,
    CrossAttention,
    ElementwiseSum,
    GradientBoosting,
    ImageAndTableBoosting,
    JointSelfAttention,
    MajorityClass,
    MSMAFusion,
    NaiveBayes,
    RemixFormerFusion,
    SecondStageSVM,
    TwoExperts,
    WholeReportTokenizer,
)
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation.inference import outputs
from alignedfusion.modules.heads import UnimodalHeads
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.training import TrainingSettings, fit
from alignedfusion.training.calibration import CALIBRATION_RATES, calibrate, fit_weights

if TYPE_CHECKING:
    from sources import Source

OURS = "alignedfusion"
USED = "ours, reconstructed tokens used"
HEADS = 2


@dataclass
class Fold:
    """The data and settings that a method is trained with.

    Attributes:
        train: Training cases, with the missing cells of the scenario.
        valid: Validation cases, with the missing cells of the scenario.
        valid_rows: Row numbers of the validation cases, which determine their missing cells.
        schema: The schema, learned from the training rows.
        class_names: Names of the classes.
        dim: Token width D.
        epochs: Epochs of every neural method.
        seed: Seed of weights, order and hiding.
        text_encoder: Text encoder of the methods that encode text, or None.
        trained: Trained models by row, which several rows share.
    """

    train: TensorCases
    valid: TensorCases
    valid_rows: list[int]
    schema: AttributeSchema
    class_names: tuple[str, ...]
    dim: int
    epochs: int
    seed: int
    text_encoder: Any = None
    trained: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls, source: Source, rows: Mapping[str, np.ndarray], *, dim: int, epochs: int, seed: int
    ) -> tuple[Fold, TensorCases]:
        """The fold of a split whose reports stay as they are, and its test cases."""
        source = source.reduced(rows["train"])
        schema = source.schema(rows["train"])
        codes = schema.encode(source.frame, unseen="unknown")
        fold = cls(
            train=source.cases(rows["train"], codes[rows["train"]], training=True),
            valid=source.cases(rows["valid"], codes[rows["valid"]]),
            valid_rows=rows["valid"].tolist(),
            schema=schema,
            class_names=tuple(source.class_names),
            dim=dim,
            epochs=epochs,
            seed=seed,
        )
        return fold, source.cases(rows["test"], codes[rows["test"]])

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the image modalities."""
        return tuple(self.train.image)

    def shared(self, name: str) -> nn.Module:
        """The model of another row, trained once."""
        if name not in self.trained:
            self.trained[name] = METHODS[name](self)
        return self.trained[name]


def neural(
    fusion: Callable[..., nn.Module] = IntermediateTokenFusion,
    modalities: tuple[str, ...] | None = None,
    *,
    reconstruct: str | None = None,
    reconstructor: type[MaskedTokenReconstructor] = MaskedTokenReconstructor,
    classifier: Callable[..., AlignedFusionClassifier] = AlignedFusionClassifier,
    text: str = "learned",
    depth: int = 1,
    hide_probability: float = 0.3,
    hide_report_probability: float = 0.1,
    sparse_report_probability: float = 0.1,
    unimodal_heads: bool = False,
    first_round_heads: bool = True,
    training: dict[str, Any] | None = None,
    **settings: Any,
) -> Callable[[Fold], nn.Module]:
    """A method that trains an `AlignedFusionClassifier`; `modalities` are "images" and "report", both by default."""

    def train(fold: Fold) -> nn.Module:
        torch.manual_seed(fold.seed)
        names = modalities or ("images", REPORT)
        kept = (*(fold.images if "images" in names else ()), *((REPORT,) if REPORT in names else ()))
        has_images = kept != (REPORT,)
        features = next(iter(fold.train.image.values())).shape[-1] if has_images else None
        vectors = None if text == "learned" else fold.text_encoder
        tokenizer: Any = AttributeTokenizer(fold.schema, fold.dim, text_encoder=vectors if text == "values" else None)
        if text == "report":
            tokenizer = WholeReportTokenizer(fold.schema, fold.dim, vectors)
        model = classifier(
            VisualTokenizer(None, fold.dim, num_features=features) if has_images else None,
            tokenizer,
            (fusion if len(kept) > 1 else JointSelfAttention)(
                fold.dim, modalities=kept, depth=depth, num_heads=HEADS, dropout=0.1, **settings
            ),
            None if reconstruct is None else reconstructor(fold.dim, fill=reconstruct),
            num_classes=len(fold.class_names),
            hiding=HideAttributes(hide_probability, whole=hide_report_probability, sparse=sparse_report_probability),
            unimodal_heads=unimodal_heads,
        )
        if unimodal_heads and not first_round_heads:
            model.unimodal_heads = UnimodalHeads(fold.dim, kept, len(fold.class_names))
        with tempfile.TemporaryDirectory() as scratch:
            fit(
                model,
                fold.train,
                None,
                scratch,
                TrainingSettings(**{"epochs": fold.epochs, "seed": fold.seed, **(training or {})}),
                progress=False,
            )
        calibrate(model, fold.valid, progress=False)
        return model

    return train


def ours(**changes: Any) -> Callable[[Fold], nn.Module]:
    """The default recipe, with changes for an ablation."""
    return neural(**{"reconstruct": "none", "unimodal_heads": True, **changes})


def _table(kind: type) -> Callable[[Fold], nn.Module]:
    return lambda fold: kind(fold.schema, len(fold.class_names)).fit(fold.train)


def _image_and_table(fold: Fold) -> nn.Module:
    # Without augmented views: the mean token of a case is that of its original image.
    image = {m: tokens[:, 0] if tokens.ndim == 4 else tokens for m, tokens in fold.train.image.items()}
    train = TensorCases(image, fold.train.codes, fold.train.labels)
    return Tempered(ImageAndTableBoosting(fold.schema, len(fold.class_names)).fit(train), fold)


class Tempered(nn.Module):
    """A trained model whose logits are divided by a temperature, fitted to the validation cases as in `calibrate`."""

    def __init__(self, model: nn.Module, fold: Fold) -> None:
        super().__init__()
        self.model = model
        variants = [drop_attributes(fold.valid.codes, rate, fold.schema) for rate in CALIBRATION_RATES]
        logits = outputs(model, fold.valid, variants, "logits", progress=False)  # (versions, n, C)
        shares = torch.zeros(logits.shape[:2])
        shift, _, _ = fit_weights(logits[:, :, None], shares + 0.5, torch.zeros(logits.shape[-1]), fold.valid.labels)
        self.register_buffer("factor", shift.exp())

    @property
    def visuals(self) -> Any:
        """The modules that read the model's images."""
        return getattr(self.model, "visuals", {})

    def forward(self, image: Any, codes: Tensor, **masks: Any) -> Any:
        """The model's logits, divided by the temperature."""
        return ClassifierOutput(logits=self.model(image, codes, **masks).logits * self.factor)


def _two_experts(fold: Fold) -> nn.Module:
    return Tempered(TwoExperts(fold.shared("image only"), fold.shared("attributes only")), fold)


def _two_experts_one_prior(fold: Fold) -> nn.Module:
    counts = torch.bincount(fold.train.labels, minlength=len(fold.class_names))
    experts = TwoExperts(fold.shared("image only"), fold.shared("attributes only"), class_counts=counts)
    return Tempered(experts, fold)


def _second_stage(fold: Fold) -> nn.Module:
    return SecondStageSVM(fold.shared("image only"), fold.schema).fit(fold.train, fold.valid)


class WithoutImage(nn.Module):
    """A trained model that is not given one of the images.

    Args:
        model: The model.
        absent: The image modality.
    """

    def __init__(self, model: nn.Module, absent: str) -> None:
        super().__init__()
        self.model = model
        self.absent = absent

    @property
    def visuals(self) -> Any:
        """The modules that read the model's images."""
        return getattr(self.model, "visuals", {})

    def forward(self, image: Any, codes: Tensor, is_present: Any = None) -> Any:
        """The model's output with the image marked as absent; the same output from a model that does not read the image."""
        if self.absent not in getattr(self.model, "modalities", (self.absent,)):
            return self.model(image, codes)
        missing = torch.zeros(len(codes), dtype=torch.bool)
        return self.model(image, codes, is_present={**(is_present or {}), self.absent: missing})


class _Without(nn.Module):
    """A trained model without the contribution of one branch."""

    def __init__(self, model: AlignedFusionClassifier, branch: str) -> None:
        super().__init__()
        self.model = model
        self.index = model.branches.index(branch)

    @property
    def visuals(self) -> Any:
        return self.model.visuals

    def forward(self, image: Any, codes: Tensor, **masks: Any) -> Any:
        output = self.model(image, codes, **masks)
        return type(output)(logits=output.logits - output.contributions[:, self.index])


def _weighted(weight: float) -> Callable[[Fold], nn.Module]:
    return ours(reconstruct="once", classifier=partial(WeightedReconstruction, weight=weight))


def _completed(draws: int, model: str = USED) -> Callable[[Fold], nn.Module]:
    return lambda fold: Tempered(Completed(fold.shared(model), fold.shared(USED), draws), fold)  # type: ignore[arg-type]


def _heads_alone(fold: Fold) -> nn.Module:
    return _Without(fold.shared(OURS), "fused")  # type: ignore[arg-type]


METHODS: dict[str, Callable[[Fold], nn.Module]] = {
    "majority class": _table(MajorityClass),
    "naive Bayes": _table(NaiveBayes),
    "gradient boosting": _table(GradientBoosting),
    "boosted trees on image and attributes": _image_and_table,
    "image only": neural(JointSelfAttention, ("images",)),
    "attributes only": neural(JointSelfAttention, (REPORT,), training={"epochs": 100}),
    "two experts": _two_experts,
    "two experts, prior counted once": _two_experts_one_prior,
    "element-wise sum": neural(ElementwiseSum),
    "concatenation": neural(Concatenation),
    "cross-attention": neural(CrossAttention),
    "joint self-attention": neural(JointSelfAttention),
    "MBT, 4 bottleneck tokens": neural(topology="shared", num_tokens=4, depth=2),
    "TIP's idea": neural(JointSelfAttention, reconstruct="none"),
    "FusionM4Net, 2nd stage": _second_stage,
    "FusionM4Net, Miss Val.": _second_stage,
    "RemixFormer's fusion": neural(RemixFormerFusion),
    "MSMA's fusion": neural(MSMAFusion),
    "whole report as one text": neural(text="report"),
    "values as text": ours(text="values"),
    "the paper's model": neural(reconstruct="once", hide_report_probability=0.0, sparse_report_probability=0.0),
    OURS: ours(),
    "ours, no intermediate token": ours(fusion=JointSelfAttention),
    "ours, no unimodal heads": ours(unimodal_heads=False),
    "ours, heads before fusion alone": ours(first_round_heads=False),
    "ours, unimodal heads alone": _heads_alone,
    "ours, no reconstruction": ours(classifier=without_reconstruction),
    USED: ours(reconstruct="once"),
    "ours, two passes": ours(reconstruct="two_pass"),
    "ours, image rate 1": ours(training={"image_rate": 1.0}),
    "ours, no whole report hidden": ours(hide_report_probability=0.0),
    "ours, no sparse report hidden": ours(sparse_report_probability=0.0),
    "ours, half of the whole reports hidden": ours(hide_report_probability=0.5),
    "ours, two rounds": ours(depth=2),
    "ours, three rounds": ours(depth=3),
    "ours, 4 tokens a pair": ours(num_tokens=4),
    "ours, one shared token": ours(topology="shared"),
    "ours, shared weights": ours(share_weights=True),
    **{f"ours, p = {p}": ours(hide_probability=p) for p in (0.0, 0.1, 0.2, 0.4, 0.5)},
    "used, their loss trains the reconstructor alone": ours(reconstruct="once", reconstructor=DetachedReconstructor),
    "used, reconstruction loss times 0.3": _weighted(0.3),
    "used, reconstruction loss times 3": _weighted(3.0),
    "most probable values filled in": _completed(draws=0),
    "mean over drawn values": _completed(draws=8),
    "mean over values drawn by another model": _completed(draws=8, model="ours, no reconstruction"),
}


def models_at(name: str, fold: Fold, rate: float) -> nn.Module:
    """The model of a row for a missing rate of the test reports, on which only "Miss Val." depends."""
    if name != "FusionM4Net, Miss Val." or not rate:
        return fold.shared(name)
    codes = drop_attributes(fold.valid.codes, rate, fold.schema, cases=fold.valid_rows, seed=fold.seed)
    missing = TensorCases(fold.valid.image, codes, fold.valid.labels)
    return SecondStageSVM(fold.shared("image only"), fold.schema).fit(fold.train, missing)
