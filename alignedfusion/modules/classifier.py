"""The assembled model, which classifies a case from its images and incomplete attributes (eq. 11)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion.attributes import REPORT, UNKNOWN, AttributeSchema
from alignedfusion.modules import card, checkpoint
from alignedfusion.modules.fusions import build_fusion, describe_fusion
from alignedfusion.modules.fusions.base import Fusion, FusionOutput, check_fusion
from alignedfusion.modules.heads import FUSED, IMAGE, UnimodalHeads, linear_head
from alignedfusion.modules.images import (
    Images,
    blank_images,
    build_visual,
    describe_visual,
    images_by_modality,
    resolve_visual,
)
from alignedfusion.modules.inputs import check_class_names, check_labels
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.modalities import Masks, as_masks, blank, check_mask, module_key, share_of_mean
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor, Reconstruction, reconstruction_loss
from alignedfusion.modules.tokenizers import AttributeTokenizer
from alignedfusion.modules.tuning import adapters_merged


class AlignedFusionClassifier(nn.Module):
    """Classifies a case from its images and the attributes that its report mentions.

    The logits are w_prior log p(class) + w_image c_image + w_report c_report + w_fused c_fused: the contributions of the images
    alone, of the report alone (see `UnimodalHeads`), and of the fused tokens (eq. 11). Each branch has its own term in
    the loss. The prior p(class) is set by `set_class_counts`.

    The weights w depend on the share s of the attributes that are mentioned: w = exp(a + b (1/2 - s)), because a branch that
    is reliable for a complete report may not be for an empty one. They are not trained: w starts at 1/2, 1/2 and 1/4 for every
    s, and `training.calibration.calibrate` fits a, b and the weight of the prior, which starts at 1, to cases that were not
    used in training.

    Args:
        visual: Turns images into tokens (B, N, D): a `VisualTokenizer` or any module of your own. One module serves all
            image modalities of the fusion; a mapping gives each its own. None if the fusion has no image modality.
        tokenizer: Turns attribute codes into tokens.
        fusion: `IntermediateTokenFusion`, or another `alignedfusion.modules.fusions.Fusion`. The modality "report" stands for
            the attributes, every other name for an image.
        reconstructor: Reconstructs unmentioned attributes; None leaves them unmentioned.
        num_classes: Number of classes C.
        class_names: Names of the classes, in the order of the logits.
        hiding: Hides attributes in training. None hides 30 % of the cells (eq. 9), and more of two reports in ten.
        dropout: Dropout probability before the last layers.
        unimodal_heads: Whether each modality also has a branch of its own. False keeps only the branch of the fused tokens, as
            in the paper.

    Attributes:
        branches: Names of the branches, in the order of `ClassifierOutput.contributions`.
        branch_weights: (P,), the weight exp(a) of each branch when half of the attributes are mentioned.
        branch_slopes: (P,), the change b of the logarithm of each weight from a complete report to an empty one.
        log_prior: (C,), the logarithm of the class prior.
        prior_weight: (), its weight in the logits.
        prior_exponent: Exponent of the prior that `decide` divides the probabilities by. `training.decision` chooses it; 0, the
            default, decides for the most probable class.
        prediction_sets: Calibration of conformal prediction sets, the dict of `evaluation.PredictionSets`; None without.
    """

    log_prior: Tensor
    prior_weight: Tensor
    branch_weights: Tensor
    branch_slopes: Tensor
    saved_in: Path | None = None
    """Folder that the model was loaded from or saved to."""

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
    ) -> None:
        super().__init__()
        check_fusion(fusion)
        if class_names is not None:
            check_class_names(class_names)
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"class_names must name {num_classes} classes, got {len(class_names)}: {list(class_names)}"
            )
        for name, module in (("tokenizer", tokenizer), ("reconstructor", reconstructor)):
            if module is not None and module.dim != fusion.dim:
                raise ValueError(
                    f"{name} and fusion must have the same width, got dim={module.dim} and dim={fusion.dim}"
                )
        self.modalities = tuple(fusion.modalities)
        self.image_modalities = tuple(m for m in self.modalities if m != REPORT)
        self.visual = resolve_visual(visual, self.image_modalities)
        self.tokenizer = tokenizer
        self.fusion = fusion
        self.reconstructor = reconstructor if REPORT in self.modalities else None
        self.num_classes = num_classes
        self.class_names = tuple(map(str, range(num_classes) if class_names is None else class_names))
        self.hiding = HideAttributes(0.3, whole=0.1, sparse=0.1) if hiding is None else hiding
        self.dropout = dropout
        self.head = linear_head(fusion.pooled_dim, num_classes, dropout)
        self.unimodal_heads = self._build_heads(getattr(fusion, "has_first_round", False)) if unimodal_heads else None
        self.branches = (*(() if self.unimodal_heads is None else self.unimodal_heads.branches), FUSED)
        self.register_buffer("branch_weights", self.initial_branch_weights())
        self.register_buffer("branch_slopes", torch.zeros(len(self.branches)))
        self.register_buffer("log_prior", torch.zeros(num_classes))
        self.register_buffer("prior_weight", torch.ones(()))
        self.prior_exponent = 0.0
        self.prediction_sets: dict[str, Any] | None = None

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
            labels: int64 (B,).
            is_present: (B,) per modality that some rows lack; the images or codes of those rows are ignored.
            is_valid: (B, N) per image modality whose tokens are padded; False where padded.
            is_hidden: (B, A), cells to hide and reconstruct; drawn at random in training, none otherwise.
            weights: (B,), weights of the cases in the loss of the class; 1 by default.

        Raises:
            ValueError: For a missing modality, codes that do not fit the schema, or shapes that do not fit each other.
        """
        self.schema.check_codes(codes)
        if labels is not None:
            check_labels(labels, codes.shape[0], self.class_names)
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
            fused = self._fill(tokens, fused, rebuilt, (visible == UNKNOWN)[..., None], is_valid, is_present)

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

    def initial_branch_weights(self) -> Tensor:
        """Weights of the branches (P,) before any calibration."""
        if self.unimodal_heads is None:
            return torch.ones(1)
        return torch.tensor([1 / 2] * (len(self.branches) - 1) + [1 / 4])

    @property
    def weighted_prior(self) -> Tensor:
        """The part (C,) of the logits that is the same for every case."""
        return self.prior_weight.float() * self.log_prior.float()

    def weigh_branches(self, codes: Tensor) -> Tensor:
        """Weights (B, P) of the branches for codes (B, A), which depend on the share of attributes mentioned."""
        if REPORT not in self.modalities:
            return self.branch_weights.float().expand(len(codes), -1)
        share = (codes != UNKNOWN).float().mean(1, keepdim=True)  # (B, 1)
        return self.branch_weights.float() * (self.branch_slopes.float() * (0.5 - share)).exp()

    def set_class_counts(self, counts: Tensor | Sequence[int]) -> None:
        """Set the prior from the number of training cases of each class (C,), before training; `training.fit` calls this.

        Without it the prior is uniform. Every branch then learns the class shares, and their sum counts them more than once.
        """
        counts = torch.as_tensor(counts, dtype=torch.float32)
        if tuple(counts.shape) != (self.num_classes,):
            raise ValueError(f"counts must hold one number per class ({self.num_classes}), got {tuple(counts.shape)}")
        if not (counts >= 0).all():
            raise ValueError(f"counts are numbers of cases and cannot be negative or nan, got {counts.tolist()}")
        self.log_prior.copy_(((counts + 1.0) / (counts + 1.0).sum()).log())

    def decide(self, logits: Tensor) -> Tensor:
        """The predicted classes (...) for logits or log probabilities (..., C): the largest p(class) / prior ** prior_exponent.

        This is logit adjustment (Menon et al. 2021): an exponent above 0 favours rare classes. Probabilities are unchanged.
        """
        return (logits - self.prior_exponent * self.log_prior.to(logits)).argmax(-1)

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
        )
        if model.unimodal_heads is not None and not settings.get("first_round_heads", False):
            model.unimodal_heads = model._build_heads(first_round=False)  # release 0.1.0 had no other heads
        model.prior_exponent = float(settings.get("prior_exponent", 0.0))
        model.prediction_sets = settings.get("prediction_sets")
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights (safetensors), settings (JSON) and a card (README.md) into a folder; see `modules.checkpoint.save`.

        Adapters of a backbone (`tune="lora"`) are merged in the file: it has the names of the timm model. A card that somebody
        edited is kept, and so is one with metrics as long as the model stays the same.
        """
        with adapters_merged(self):
            is_new = checkpoint.save(self, self.to_dict(), folder)
        if is_new:
            card.write(card.render(self), folder)
        self.saved_in = Path(folder).resolve()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        schema: AttributeSchema | None = None,
        visual: nn.Module | Mapping[str, nn.Module] | None = None,
        fusion: Fusion | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> AlignedFusionClassifier:
        """Load a model from a folder that `save_pretrained` wrote, or from a model hub; it is returned in evaluation mode.

        Args:
            folder: A folder, or the name of a repository, "owner/model". A folder of that name takes precedence.
            schema: The schema of your codes; a checkpoint with another schema is refused.
            visual: Your own visual module, if the model was built with one: the folder has only its weights.
            fusion: Your own fusion, if the model was built with one.
            revision: Branch, tag or commit of a repository; the newest by default.
            token: Access token of a private repository; by default the one that `hf auth login` stored.
            cache_dir: Folder for downloads; by default the cache that all Hugging Face libraries share.

        Raises:
            FileNotFoundError: If neither a folder nor a repository of that name holds a model.
            ValueError: If it holds another library's model, or one that needs arguments that were not given.
        """
        folder = checkpoint.resolve_folder(folder, revision=revision, token=token, cache_dir=cache_dir)
        settings = checkpoint.read_settings(folder)
        saved = AttributeSchema.from_dict(settings["tokenizer"]["schema"])
        if schema is not None and schema != saved:
            raise ValueError(
                f"the checkpoint in {str(folder)!r} has another schema: {saved.difference(schema)} given; encode your table "
                f"with the checkpoint's own schema, model.schema, or train the model again"
            )
        try:
            model = cls.from_dict(settings, visual=visual, fusion=fusion)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot build the model in {str(folder)!r}: {error}") from error
        checkpoint.load_weights(model, folder)
        model.saved_in = folder.resolve()
        return model.eval()

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

    def _fill(
        self,
        tokens: dict[str, Tensor],
        fused: FusionOutput,
        rebuilt: Reconstruction,
        is_unknown: Tensor,
        is_valid: Masks,
        is_present: Masks,
    ) -> FusionOutput:
        """Replace the tokens of unknown attributes by the reconstructed ones, following the reconstructor's `fill`."""
        assert self.reconstructor is not None
        if self.reconstructor.fill == "none":
            return fused
        if self.reconstructor.fill == "two_pass":
            filled = torch.where(is_unknown, rebuilt.tokens, tokens[REPORT])
            return self.fusion({**tokens, REPORT: filled}, is_valid=is_valid, is_present=is_present)
        filled = torch.where(is_unknown, rebuilt.tokens, fused.tokens[REPORT])
        return fused._replace(tokens={**fused.tokens, REPORT: filled})

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
        contributions = torch.cat([per_head[branch] for branch in self.branches], dim=1).float()  # (B, sum of H, C)
        logits = (self.log_prior.float() + contributions).transpose(1, 2)  # (B, C, sum of H)
        targets = labels[:, None].expand(-1, logits.shape[2])
        losses = F.cross_entropy(logits, targets, reduction="none").sum(1)  # (B,)
        if weights is not None:
            losses = losses * weights
        loss = losses.sum() / (labels >= 0).sum().clamp(min=1)
        return loss if rebuilt is None else loss + reconstruction_loss(rebuilt.logits, codes, is_hidden)

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"classes={self.class_names}, branches={self.branches}"
