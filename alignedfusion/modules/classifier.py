"""The assembled model: image and incomplete attributes in, class out (eq. 11). Saving is in `checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignedfusion.attributes import REPORT, UNKNOWN, AttributeSchema, check_probability
from alignedfusion.modules import checkpoint
from alignedfusion.modules.fusions.intermediate import FusionOutput, check_mask, mean_of_tokens
from alignedfusion.modules.heads import FUSED, EvidenceHeads, linear_head
from alignedfusion.modules.images import Images, blanked, images_by_modality, visual_of
from alignedfusion.modules.masking import apply_hiding
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor, Reconstruction, reconstruction_loss
from alignedfusion.modules.tokenizers import AttributeTokenizer


class AlignedFusionClassifier(nn.Module):
    """Classifies a case from its images and from what its report mentions.

    The logits are log p(class) + w_image e_image + w_report e_report + w_fused e_fused: what the images say alone, what the
    report says alone (see `EvidenceHeads`), and what the fused tokens say (eq. 11). Each is trained to be right alone. The
    weights w are no parameters: they start at 2/3, 2/3 and 1/3, and `alignedfusion.training.calibration.calibrate` fits them
    to cases that the model was not trained on. The prior p(class) comes from `set_class_counts`.

    Args:
        visual: Turns images into tokens (B, N, D): a `VisualTokenizer` or any module of your own. One module serves all
            image modalities of the fusion; a mapping gives each its own. None if the fusion has no image modality.
        tokenizer: Turns attribute codes into tokens.
        fusion: `IntermediateTokenFusion`, or anything with its call and its `modalities` and `dim`. The modality "report"
            stands for the attributes, every other name for an image.
        reconstructor: Names unmentioned attributes; None to leave them unnamed.
        num_classes: Classes C.
        class_names: Their names, in the order of the logits.
        hide_probability: Probability p of hiding a mentioned attribute in training (eq. 9).
        hide_report_probability: Probability of hiding all attributes of a case in training.
        reconstruct: "once" puts the reconstructed token in the place of every unmentioned or hidden one after fusion;
            "two_pass" puts it in before, and fuses again; "none" only trains the reconstructor.
        dropout: Probability before the last layers.
        evidence: Let each modality also speak for itself. False leaves the fused tokens alone, as in the paper.
    """

    log_prior: Tensor
    weights: Tensor
    saved_in: Path | None = None  # its card lies there

    def __init__(
        self,
        visual: nn.Module | Mapping[str, nn.Module] | None,
        tokenizer: AttributeTokenizer,
        fusion: nn.Module,
        reconstructor: MaskedTokenReconstructor | None,
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        hide_probability: float = 0.3,
        hide_report_probability: float = 0.1,
        reconstruct: str = "once",
        dropout: float = 0.1,
        evidence: bool = True,
    ) -> None:
        super().__init__()
        if reconstruct not in ("once", "two_pass", "none"):
            raise ValueError(f"reconstruct must be 'once', 'two_pass' or 'none', got {reconstruct!r}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"class_names must name {num_classes} classes, got {len(class_names)}: {list(class_names)}"
            )
        if tokenizer.dim != fusion.dim:
            raise ValueError(
                f"tokenizer and fusion must have the same width, got dim={tokenizer.dim} and dim={fusion.dim}"
            )
        if reconstructor is not None and reconstructor.dim != fusion.dim:
            raise ValueError(
                f"reconstructor and fusion must have the same width, got dim={reconstructor.dim} and dim={fusion.dim}"
            )
        check_probability("hide_probability", hide_probability)
        check_probability("hide_report_probability", hide_report_probability)
        if reconstructor is not None and hasattr(fusion, "pooled_dim"):
            raise ValueError(
                f"{type(fusion).__name__} pools its tokens by itself, so reconstructed ones would come too late: pass "
                f"reconstructor=None"
            )
        self.modalities: tuple[str, ...] = tuple(fusion.modalities)  # type: ignore[arg-type]
        self.image_modalities = tuple(m for m in self.modalities if m != REPORT)
        self.visual = visual_of(visual, self.image_modalities)
        self.tokenizer = tokenizer
        self.fusion = fusion
        self.reconstructor = reconstructor if REPORT in self.modalities else None
        self.num_classes = num_classes
        self.class_names = tuple(map(str, range(num_classes) if class_names is None else class_names))
        self.hide_probability = hide_probability
        self.hide_report_probability = hide_report_probability
        self.reconstruct = reconstruct
        self.dropout = dropout
        self.pooled_dim = self._pooled_dim()
        self.head = linear_head(self.pooled_dim, num_classes, dropout)
        self.evidence = (
            EvidenceHeads(tokenizer.dim, self.modalities, num_classes, dropout=dropout) if evidence else None
        )
        self.parts: tuple[str, ...] = (*(self.evidence.parts if self.evidence else ()), FUSED)
        self.register_buffer("weights", self.initial_weights())
        self.register_buffer("log_prior", torch.zeros(num_classes))

    @property
    def schema(self) -> AttributeSchema:
        """The attributes this model was built for."""
        return self.tokenizer.schema

    @property
    def visuals(self) -> dict[str, nn.Module]:
        """The module that reads each image modality; one module may read them all."""
        each = self.visual
        return {m: each[m] if isinstance(each, nn.ModuleDict) else each for m in self.image_modalities}  # type: ignore[misc]

    def forward(
        self,
        image: Images | None,
        codes: Tensor,
        labels: Tensor | None = None,
        *,
        is_present: Mapping[str, Tensor] | None = None,
        is_valid: Mapping[str, Tensor] | None = None,
        is_hidden: Tensor | None = None,
    ) -> ClassifierOutput:
        """Classify a batch.

        Args:
            image: (B, channels, H, W) or precomputed tokens (B, N, F); a mapping of them for several image modalities.
            codes: int64 (B, A), `UNKNOWN` where unmentioned.
            labels: int64 (B,).
            is_present: (B,) per modality that some rows lack. What stands in its place there counts for nothing.
            is_valid: (B, N) per image modality whose tokens are padded; False where padded.
            is_hidden: (B, A), cells to hide and reconstruct; drawn at random in training, none otherwise.

        Raises:
            ValueError: For a missing modality, codes that do not fit the schema, or shapes that do not fit each other.
        """
        self.schema.check_codes(codes)
        for m, mask in (is_present or {}).items():
            check_mask(f"is_present[{m!r}]", mask, (codes.shape[0],))
        if is_present and REPORT in is_present:
            codes = codes.masked_fill(~is_present[REPORT][:, None], UNKNOWN)
        seen, is_hidden = apply_hiding(
            codes, is_hidden, self.hide_probability, whole=self.hide_report_probability, training=self.training
        )

        # Hidden and unmentioned attributes become the same tokens from here on.
        values = self.tokenizer.value_tokens()  # (V, D)
        is_valid, is_present = is_valid or {}, is_present or {}
        images = images_by_modality(image, self.image_modalities, codes.shape[0])
        visuals = self.visuals
        tokens = {m: visuals[m](blanked(each, m, is_valid, is_present)) for m, each in images.items()}  # (B, N, D) each
        if REPORT in self.modalities:
            tokens[REPORT] = self.tokenizer(seen, values=values)  # (B, A, D)
        fused: FusionOutput = self.fusion(tokens, is_valid=is_valid, is_present=is_present)

        rebuilt = None
        if self.reconstructor is not None:
            rebuilt = self.reconstructor(fused.tokens[REPORT], values, self.schema)
            fused = self._fill(tokens, fused, rebuilt, (seen == UNKNOWN)[..., None], is_valid, is_present)

        said = {} if self.evidence is None else self.evidence(tokens, is_valid, {**is_present, **self._is_said(seen)})
        said[FUSED] = self.head(self._pool(fused, is_valid, is_present))
        evidence = torch.stack([said[part].float() for part in self.parts], dim=1)  # (B, P, C)
        weighted = evidence * self.weights.float()[:, None]
        answer = {
            "loss": None if labels is None else self._loss(evidence, labels, rebuilt, codes, is_hidden),
            "logits": (self.log_prior + weighted.sum(1)).to(said[FUSED].dtype),
            "reconstruction": None if rebuilt is None else rebuilt.logits,
            "intermediate": fused.intermediate,
            "evidence": weighted,
        }
        # Not left to the output: compiled, it would hold a None it was given.
        return ClassifierOutput(**{name: value for name, value in answer.items() if value is not None})

    def initial_weights(self) -> Tensor:
        """Weights of the parts (P,) before any calibration."""
        return torch.tensor([2 / 3] * (len(self.parts) - 1) + [1 / 3] if self.evidence else [1.0])

    def set_class_counts(self, counts: Tensor | Sequence[int]) -> None:
        """Tell how often each class (C,) occurs among the training cases, before training; `training.fit` does it.

        Without it the prior is uniform, every part learns the class shares by itself, and their sum counts them twice.
        """
        counts = torch.as_tensor(counts, dtype=torch.float32)
        if tuple(counts.shape) != (self.num_classes,):
            raise ValueError(f"counts must hold one number per class ({self.num_classes}), got {tuple(counts.shape)}")
        self.log_prior.copy_(((counts + 1.0) / (counts + 1.0).sum()).log())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors) and settings (JSON) into a folder; see `checkpoint.save`.

        `sharing.model_card.write` puts a card beside them.
        """
        checkpoint.save(self, folder)
        self.saved_in = Path(folder).resolve()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        schema: AttributeSchema | None = None,
        visual: nn.Module | Mapping[str, nn.Module] | None = None,
        fusion: nn.Module | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> AlignedFusionClassifier:
        """Read a model that `save_pretrained` wrote or `push_to_hub` put on a model hub, in evaluation mode.

        Args:
            folder: Where it lies, or the name of a repository, "owner/model". A folder of that name comes first.
            schema: The schema your codes follow; a checkpoint with another one is refused.
            visual: Your own visual module, if the model was built with one: only its weights are in the folder.
            fusion: Your own fusion, likewise.
            revision: Branch, tag or commit of a repository; the newest by default.
            token: See `sharing.hub.download`, as for the next.
            cache_dir: See there.

        Raises:
            FileNotFoundError: If neither a folder nor a repository of that name holds a model.
            ValueError: If what is there is another library's model, or needs arguments that were not given.
        """
        from alignedfusion.deployment import hub

        if hub.is_repository(folder):
            folder = hub.download(str(folder), revision=revision, token=token, cache_dir=cache_dir)
        elif revision is not None:
            raise ValueError(
                f"revision={revision!r} belongs to a repository, and {str(folder)!r} is none; leave it out"
            )
        model = checkpoint.load(cls, folder, schema=schema, visual=visual, fusion=fusion)
        model.saved_in = Path(folder).resolve()
        return model

    def push_to_hub(
        self, name: str, *, private: bool = True, commit_message: str | None = None, token: str | None = None
    ) -> str:
        """Put weights, settings and card into a repository of a model hub, as one commit. Nothing else leaves this machine.

        The card is the README.md beside the weights that this model was loaded from or saved to, if it still has them, so that
        the figures of a run go along; else one with what the model knows of itself. A README.md that was edited there stays.

        Args:
            name: The repository, "owner/model"; it is made if it is not there.
            private: Whether a new repository is seen by its owners only.
            commit_message: The title of the commit.
            token: Access token; by default the one that `hf auth login` stored.

        Returns:
            The address of the commit.
        """
        from alignedfusion.deployment import hub

        return hub.push(self, name, private=private, commit_message=commit_message, token=token)

    def _pooled_dim(self) -> int:
        if hasattr(self.fusion, "pooled_dim"):  # a fusion that pools by itself
            return int(self.fusion.pooled_dim)  # type: ignore[arg-type]
        intermediate = getattr(self.fusion, "intermediate", None)
        return self.tokenizer.dim * (len(self.modalities) + (0 if intermediate is None else len(intermediate)))

    def _is_said(self, codes: Tensor) -> dict[str, Tensor]:
        """Which rows have a report that mentions anything (B,): an empty one is no evidence."""
        return {REPORT: (codes != UNKNOWN).any(1)} if REPORT in self.modalities else {}

    def _fill(
        self,
        tokens: dict[str, Tensor],
        fused: FusionOutput,
        rebuilt: Reconstruction,
        is_unknown: Tensor,
        is_valid: Mapping[str, Tensor] | None,
        is_present: Mapping[str, Tensor] | None,
    ) -> FusionOutput:
        if self.reconstruct == "none":
            return fused
        if self.reconstruct == "two_pass":
            filled = torch.where(is_unknown, rebuilt.tokens, tokens[REPORT])
            again: FusionOutput = self.fusion({**tokens, REPORT: filled}, is_valid=is_valid, is_present=is_present)
            return again
        filled = torch.where(is_unknown, rebuilt.tokens, fused.tokens[REPORT])
        return FusionOutput({**fused.tokens, REPORT: filled}, fused.intermediate)

    def _pool(self, fused: FusionOutput, is_valid: Mapping[str, Tensor], is_present: Mapping[str, Tensor]) -> Tensor:
        if fused.pooled is not None:
            return fused.pooled
        parts = [mean_of_tokens(fused.tokens[m], m, is_valid, is_present) for m in self.modalities]
        return torch.cat([*parts, fused.intermediate.flatten(1)], dim=-1)  # (B, (M + K) D)

    def _loss(
        self, evidence: Tensor, labels: Tensor, rebuilt: Reconstruction | None, codes: Tensor, is_hidden: Tensor
    ) -> Tensor:
        # Each part alone, unweighted: a part that is already right must not silence the others.
        logits = (self.log_prior.float() + evidence).transpose(1, 2)  # (B, C, P)
        loss = F.cross_entropy(logits, labels[:, None].expand(-1, len(self.parts))) * len(self.parts)
        return loss if rebuilt is None else loss + reconstruction_loss(rebuilt.logits, codes, is_hidden)

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return (
            f"classes={self.class_names}, hide_probability={self.hide_probability}, reconstruct={self.reconstruct!r}, "
            f"parts={self.parts}"
        )
