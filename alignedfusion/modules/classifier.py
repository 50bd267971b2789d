"""The assembled model, which classifies a case from its images and incomplete attributes (eq. 11)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignedfusion.attributes import REPORT, UNKNOWN, AttributeSchema
from alignedfusion.modules.branches import WeightedBranches
from alignedfusion.modules.fusions import build_fusion, describe_fusion
from alignedfusion.modules.fusions.base import Fusion, FusionOutput, check_fusion
from alignedfusion.modules.heads import FUSED, IMAGE, UnimodalHeads, linear_head, unimodal_branches
from alignedfusion.modules.images import (
    Images,
    blank_images,
    build_visual,
    describe_visual,
    images_by_modality,
    resolve_visual,
)
from alignedfusion.modules.inputs import check_class_names, check_widths
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.modalities import Masks, as_masks, blank, check_mask, module_key, share_of_mean
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.modules.pretrained import PretrainedClassifier
from alignedfusion.modules.reconstruction import (
    MaskedTokenReconstructor,
    Reconstruction,
    fill_unknown,
    reconstruction_loss,
)
from alignedfusion.modules.tokenizers import AttributeTokenizer


class AlignedFusionClassifier(WeightedBranches, PretrainedClassifier):
    """Classifies a case from its images and the attributes that its report mentions.

    The logits are w_prior log p(class) + w_image c_image + w_report c_report + w_fused c_fused: the contributions of the images
    alone, of the report alone (see `UnimodalHeads`), and of the fused tokens (eq. 11). Each branch has its own term in
    the loss. The prior p(class) is set by `set_prior`.

    The weights w depend on the share s of the attributes that are mentioned: w = exp(a + b (1/2 - s)), because a branch that
    is reliable for a complete report may not be for an empty one. They are not trained: w starts at 1/2, 1/2 and 1/4 for every
    s (for "regression" divided by their sum), and `training.calibration.calibrate` fits a, b and the weight of the prior,
    which starts at 1, to cases that were not used in training.

    With `task="multilabel"`, each class is a label that a case has or lacks, and the logits are log odds. With
    `task="regression"`, each class is a number, and the logits are in units of its standard deviation in training. `activate`
    turns logits into probabilities or values.

    Args:
        visual: Turns images into tokens (B, N, D): a `VisualTokenizer` or any module of your own. One module serves all
            image modalities of the fusion; a mapping gives each its own. None if the fusion has no image modality.
        tokenizer: Turns attribute codes into tokens.
        fusion: `IntermediateTokenFusion`, or another `alignedfusion.modules.fusions.Fusion`. The modality "report" stands for
            the attributes, every other name for an image.
        reconstructor: Reconstructs unmentioned attributes; None leaves them unmentioned.
        num_classes: Number of classes, labels or numbers C.
        class_names: Their names, in the order of the logits.
        hiding: Hides attributes in training. None hides 30 % of the cells (eq. 9), and more of two reports in ten.
        dropout: Dropout probability before the last layers.
        unimodal_heads: Whether each modality also has a branch of its own. False keeps only the branch of the fused tokens, as
            in the paper.
        task: "multiclass", one of C classes; "multilabel", C labels that are present or absent; "regression", C numbers.

    Attributes:
        branches: Names of the branches, in the order of `ClassifierOutput.contributions`.
        branch_weights: (P,), the weight exp(a) of each branch when half of the attributes are mentioned.
        branch_slopes: (P,), the change b of the logarithm of each weight from a complete report to an empty one.
        log_prior: (C,), the logarithm of the class prior; the log odds of each label; zeros for numbers.
        prior_weight: (), its weight in the logits.
        prior_exponent: Exponent of the prior that `decide` divides the probabilities by. `training.decision` chooses it; 0, the
            default, decides for the most probable class.
        prediction_sets: Calibration of conformal prediction sets, the dict of `evaluation.PredictionSets`; None without.
    """

    def __init__(
        self,
        visual: nn.Module | Mapping[str, nn.Module] | None,
        tokenizer: AttributeTokenizer,
        fusion: Fusion,
        reconstructor: MaskedTokenReconstructor | None,
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        hiding: HideAttributes | None = None,
        dropout: float = 0.1,
        unimodal_heads: bool = True,
        task: str = "multiclass",
    ) -> None:
        check_fusion(fusion)
        if class_names is not None:
            check_class_names(class_names, num_classes)
        check_widths(fusion.dim, {"tokenizer": tokenizer, "reconstructor": reconstructor})
        branches = (*(unimodal_branches(fusion.modalities) if unimodal_heads else ()), FUSED)
        super().__init__(branches, tuple(map(str, range(num_classes) if class_names is None else class_names)), task)
        self.modalities = tuple(fusion.modalities)
        self.image_modalities = tuple(m for m in self.modalities if m != REPORT)
        self.visual = resolve_visual(visual, self.image_modalities)
        self.tokenizer = tokenizer
        self.fusion = fusion
        self.reconstructor = reconstructor if REPORT in self.modalities else None
        self.hiding = HideAttributes(0.3, whole=0.1, sparse=0.1) if hiding is None else hiding
        self.dropout = dropout
        self.head = linear_head(fusion.pooled_dim, num_classes, dropout)
        self.unimodal_heads = self._build_heads(getattr(fusion, "has_first_round", False)) if unimodal_heads else None

    @property
    def schema(self) -> AttributeSchema:
        """The attributes that this model was built for."""
        return self.tokenizer.schema

    @property
    def visuals(self) -> dict[str, nn.Module]:
        """The module that reads each image modality; one module may read them all."""
        visual = self.visual
        is_dict = isinstance(visual, nn.ModuleDict)
        return {m: visual[module_key(m)] if is_dict else visual for m in self.image_modalities}  # type: ignore[index, misc]

    def forward(
        self,
        image: Images | None,
        codes: Tensor,
        labels: Tensor | None = None,
        *,
        is_present: Masks | None = None,
        is_valid: Masks | None = None,
        is_hidden: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> ClassifierOutput:
        """Classify a batch.

        Args:
            image: (B, channels, H, W) or precomputed tokens (B, N, F); a mapping of them for several image modalities.
            codes: int64 (B, A), `UNKNOWN` where unmentioned.
            labels: int64 (B,), the class; -100 is ignored. For "multilabel" int64 (B, C), 0, 1, or -1 where unknown. For
                "regression" float (B, C), nan where unknown.
            is_present: (B,) per modality that some rows lack; the images or codes of those rows are ignored.
            is_valid: (B, N) per image modality whose tokens are padded; False where padded.
            is_hidden: (B, A), cells to hide and reconstruct; drawn at random in training, none otherwise.
            weights: (B,), weights of the cases in the loss of the class; 1 by default.

        Raises:
            ValueError: For a missing modality, codes that do not fit the schema, or shapes that do not fit each other.
        """
        self.schema.check_codes(codes)
        if labels is not None:
            self.targets.check(labels, codes.shape[0])
        is_valid, is_present = as_masks("is_valid", is_valid), as_masks("is_present", is_present)
        codes = self.present_codes(codes, is_present)
        visible, is_hidden = self.hiding(codes, is_hidden)

        # Hidden and unmentioned attributes become the same tokens from here on.
        values = self.tokenizer.value_tokens()  # (V, D)
        tokens = self._tokenize(image, visible, values, is_valid, is_present)  # (B, N_m, D) each
        fused: FusionOutput = self.fusion(tokens, is_valid=is_valid, is_present=is_present)
        first_round = fused.first_round  # kept apart: a second pass would fuse filled tokens

        rebuilt = None
        if self.reconstructor is not None:
            rebuilt = self.reconstructor(fused.tokens[REPORT], values, self.schema)
            is_unknown = visible == UNKNOWN
            fused = fill_unknown(
                self.reconstructor.fill, self.fusion, tokens, fused, rebuilt, is_unknown, is_valid, is_present
            )

        fused_logits = self.head(self.fusion.pool(fused, is_valid, is_present))  # (B, C)
        per_head = self._heads(tokens, first_round, fused_logits, visible, is_valid, is_present)  # (B, H, C) per branch
        contributions = torch.stack([per_head[branch].float().mean(1) for branch in self.branches], dim=1)  # (B, P, C)
        weighted = contributions * self.weigh_branches(visible)[..., None]
        output = {
            "loss": None if labels is None else self._loss(per_head, labels, weights, rebuilt, codes, is_hidden),
            "logits": (self.weighted_prior + weighted.sum(1)).to(fused_logits.dtype),
            "reconstruction": None if rebuilt is None else rebuilt.logits,
            "intermediate": fused.intermediate,
            "contributions": weighted,
        }
        # None is left out here, because a compiled ClassifierOutput would keep it.
        return ClassifierOutput(**{name: value for name, value in output.items() if value is not None})

    def patch_contributions(
        self, image: Images | None, codes: Tensor, *, is_present: Masks | None = None, is_valid: Masks | None = None
    ) -> dict[str, Tensor]:
        """What each image patch adds to the logits in the branch "image", (B, N_m, C) for each image modality m.

        The sum over patches and images is this branch of `ClassifierOutput.contributions` in evaluation mode. A model without
        unimodal heads has no such branch, and its patches add zero.

        Args:
            image: Images or tokens, as in `forward`.
            codes: int64 (B, A).
            is_present: As in `forward`.
            is_valid: As in `forward`.
        """
        is_valid, is_present = is_valid or {}, is_present or {}
        codes = self.present_codes(codes, is_present)
        tokens = self._tokenize(image, codes, self.tokenizer.value_tokens(), is_valid, is_present)
        if self.unimodal_heads is None or not self.image_modalities:
            return {m: tokens[m].new_zeros(*tokens[m].shape[:2], self.num_classes) for m in self.image_modalities}
        fused: FusionOutput = self.fusion(tokens, is_valid=is_valid, is_present=is_present)
        weight = self.weigh_branches(codes)[:, self.branches.index(IMAGE), None, None]
        per_token = self.unimodal_heads.token_contributions(tokens, fused.first_round)
        return {m: weight * share_of_mean(per_token[m], m, is_valid, is_present).float() for m in self.image_modalities}

    def present_codes(self, codes: Tensor, is_present: Masks) -> Tensor:
        """Codes (B, A) in which nothing is mentioned for rows without a report."""
        for m, mask in is_present.items():
            check_mask(f"is_present[{m!r}]", mask, (codes.shape[0],))
        return codes.masked_fill(~is_present[REPORT][:, None], UNKNOWN) if REPORT in is_present else codes

    def image_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that process images, alone or together with the report; none for a model without images.

        Image tokens are many and detailed, so these parameters overfit first: `training.fit` gives them a lower learning rate.
        """
        if not self.image_modalities:
            return
        report_parameters = [*self.tokenizer.parameters(), *self.fusion.report_parameters()]
        if self.reconstructor is not None:
            report_parameters += self.reconstructor.parameters()
        if self.unimodal_heads is not None:
            report_parameters += self.unimodal_heads.report_parameters()
        excluded = set(map(id, report_parameters))
        yield from (parameter for parameter in self.parameters() if id(parameter) not in excluded)

    def to_dict(self) -> dict[str, Any]:
        """Settings that rebuild this model, as plain JSON; the weights are in the state dict."""
        if not isinstance(self.tokenizer, AttributeTokenizer):
            kind = type(self.tokenizer).__name__
            raise ValueError(f"only models with an AttributeTokenizer can be saved, got {kind}")
        return {
            "visual": describe_visual(self.visual, self.image_modalities),
            "tokenizer": self.tokenizer.to_dict(),
            "fusion": describe_fusion(self.fusion),
            "reconstructor": None if self.reconstructor is None else self.reconstructor.to_dict(),
            "task": self.task,
            "class_names": list(self.class_names),
            "hiding": {"p": self.hiding.p, "whole": self.hiding.whole, "sparse": self.hiding.sparse},
            "dropout": self.dropout,
            "unimodal_heads": self.unimodal_heads is not None,
            "first_round_heads": self.unimodal_heads is not None and self.unimodal_heads.first_round_heads is not None,
            "prior_exponent": self.prior_exponent,
            "prediction_sets": self.prediction_sets,
        }

    @classmethod
    def from_dict(
        cls,
        settings: Mapping[str, Any],
        *,
        visual: nn.Module | Mapping[str, nn.Module] | None = None,
        fusion: Fusion | None = None,
    ) -> AlignedFusionClassifier:
        """A model with the settings of `to_dict` and random weights.

        Args:
            settings: What `to_dict` returned.
            visual: Your own visual module, if the model was built with one.
            fusion: Your own fusion, if the model was built with one.
        """
        reconstructor = settings["reconstructor"]
        model = cls(
            build_visual(settings["visual"]) if visual is None else visual,
            AttributeTokenizer.from_dict(settings["tokenizer"]),
            build_fusion(settings["fusion"]) if fusion is None else fusion,
            None if reconstructor is None else MaskedTokenReconstructor(**reconstructor),
            len(settings["class_names"]),
            class_names=settings["class_names"],
            hiding=HideAttributes(**settings["hiding"]),
            dropout=settings["dropout"],
            unimodal_heads=settings["unimodal_heads"],
            task=settings.get("task", "multiclass"),  # older checkpoints have no other task
        )
        if model.unimodal_heads is not None and not settings.get("first_round_heads", False):
            model.unimodal_heads = model._build_heads(first_round=False)  # release 0.1.0 had no other heads
        model.prior_exponent = float(settings.get("prior_exponent", 0.0))
        model.prediction_sets = settings.get("prediction_sets")
        return model

    def _tokenize(
        self, image: Images | None, visible: Tensor, values: Tensor, is_valid: Masks, is_present: Masks
    ) -> dict[str, Tensor]:
        images = images_by_modality(image, self.image_modalities, visible.shape[0])
        visuals = self.visuals
        tokens = {m: visuals[m](pixels) for m, pixels in blank_images(images, is_valid, is_present).items()}
        # Blank again after the module: a user's own may turn zeros into anything.
        tokens = {m: blank(stream, m, is_valid, is_present) for m, stream in tokens.items()}
        if REPORT in self.modalities:
            tokens[REPORT] = self.tokenizer(visible, values=values)  # (B, A, D)
        return tokens

    def _build_heads(self, first_round: bool) -> UnimodalHeads:
        return UnimodalHeads(
            self.fusion.dim, self.modalities, self.num_classes, dropout=self.dropout, first_round=first_round
        )

    def _heads(
        self,
        tokens: dict[str, Tensor],
        first_round: dict[str, Tensor] | None,
        fused_logits: Tensor,
        visible: Tensor,
        is_valid: Masks,
        is_present: Masks,
    ) -> dict[str, Tensor]:
        """The contributions (B, H, C) of the H heads of each branch, without the branch weights."""
        if self.unimodal_heads is None:
            return {FUSED: fused_logits[:, None]}
        # A report that mentions nothing counts as absent.
        mentions = {REPORT: (visible != UNKNOWN).any(1)} if REPORT in self.modalities else {}
        per_head = self.unimodal_heads(tokens, is_valid, {**is_present, **mentions}, first_round=first_round)
        return {**per_head, FUSED: fused_logits[:, None]}

    def _loss(
        self,
        per_head: dict[str, Tensor],
        labels: Tensor,
        weights: Tensor | None,
        rebuilt: Reconstruction | None,
        codes: Tensor,
        is_hidden: Tensor,
    ) -> Tensor:
        # Each head has its own, unweighted term: in a joint loss, a head that is already right would leave the others no
        # gradient.
        contributions = torch.cat([per_head[branch] for branch in self.branches], dim=1).float()  # (B, sum of H, L)
        loss = self.targets.loss(self.log_prior.float() + contributions, labels, weights)
        return loss if rebuilt is None else loss + reconstruction_loss(rebuilt.logits, codes, is_hidden)

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"branches={self.branches}"
