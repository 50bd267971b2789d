"""What each image patch and each attribute adds to the logits of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignedfusion.attributes import REPORT, UNKNOWN
from alignedfusion.explanation.shapley import choose_coalitions
from alignedfusion.explanation.variants import CaseVariants
from alignedfusion.modules.classifier import AlignedFusionClassifier
from alignedfusion.modules.heads import FUSED
from alignedfusion.modules.images import Images
from alignedfusion.modules.modalities import Masks


@dataclass(frozen=True)
class Contributions:
    """The logits of a batch as a sum. Of numbers they are standardised: times `model.targets.std` they are in the unit.

    By branch: logits = prior + sum of `patches` + sum of `attributes` + `together`. The first two sums are what images and
    report contribute alone; `together` is the contribution of the fused tokens. It is divided in turn: `together` =
    `baseline` + sum of `shares`. So, by input: logits = prior + baseline + sum of `image_totals` + sum of
    `attribute_totals`.

    Attributes:
        logits: (B, C).
        prior: (C,), the weighted logarithm of the class prior.
        patches: (B, N_m, C) for each image modality m: the part of each patch in the branch "image".
        attributes: (B, A, C), the part of each attribute in the branch "report": its Shapley value. Zero if unmentioned.
        together: (B, C), the branch "fused".
        shares: (B, A + M, C), the Shapley value of each attribute, then of each of the model's M `image_modalities`, in
            `together`. Zero if unmentioned or absent.
        baseline: (B, C), what is left of `together` without any attribute or image. It is the same for all cases with a report.
        error: (B, A + M, C), the standard error of `attributes` + `shares` and, for images, of `shares`; None if all are
            exact.
    """

    logits: Tensor
    prior: Tensor
    patches: dict[str, Tensor]
    attributes: Tensor
    together: Tensor
    shares: Tensor
    baseline: Tensor
    error: Tensor | None

    @property
    def attribute_totals(self) -> Tensor:
        """What each attribute adds to the logits, alone and together with the others, (B, A, C)."""
        return self.attributes + self.shares[:, : self.attributes.shape[1]]

    @property
    def image_totals(self) -> dict[str, Tensor]:
        """What each image adds to the logits, alone and together with the report, (B, C) each."""
        shares = self.shares[:, self.attributes.shape[1] :].unbind(1)
        return {m: patches.sum(1) + share for (m, patches), share in zip(self.patches.items(), shares, strict=True)}


@torch.inference_mode()
def contributions(
    model: AlignedFusionClassifier,
    image: Images | None,
    codes: Tensor,
    *,
    is_present: Masks | None = None,
    is_valid: Masks | None = None,
    permutations: int = 64,
    seed: int = 0,
    batch_size: int = 256,
) -> Contributions:
    """How much the prior, each image patch and each attribute add to the logits of each class.

    The branch "image" is a sum over patches, which is returned as it is. The branches "report" and "fused" are divided by
    Shapley values. The players are the mentioned attributes and the present images of a case; an attribute is taken out by
    leaving it unmentioned, an image by marking it absent. A player's value is what it adds to the branch when it joins the
    others, averaged over all orders of joining. Up to ten players, all 2^k coalitions are evaluated and the values are exact;
    beyond, random permutations are, and `error` is the standard error.

    Args:
        model: The classifier; it is left in evaluation mode.
        image: Images or precomputed tokens, as in the model's `forward`. Each image is encoded once.
        codes: int64 (B, A).
        is_present: (B,) per modality that some rows lack.
        is_valid: (B, N) per image modality whose tokens are padded.
        permutations: Number of permutations for cases with more than ten players; even, at least 4.
        seed: Seed of the permutations.
        batch_size: Largest number of rows in one forward pass.

    Returns:
        Tensors on the model's device.

    Raises:
        TypeError: If the model is not an `AlignedFusionClassifier`.
        ValueError: For images, codes or masks that the model refuses, or numbers out of range.
    """
    variants = CaseVariants(model, image, codes, is_present, is_valid, batch_size)
    players = _players(variants)  # (B, A + M)
    shape = (*players.shape, model.num_classes)
    alone, shares, error = (torch.zeros(shape) for _ in range(3))
    branches, baseline = torch.zeros(len(players), len(model.branches), shape[-1]), torch.zeros(shape[0], shape[-1])
    fused, report = model.branches.index(FUSED), model.branches.index(REPORT) if REPORT in model.branches else None

    counts = players.sum(1)
    for count in counts.unique().tolist():
        coalitions = choose_coalitions(count, permutations=permutations, seed=seed)
        rows = coalitions.members.shape[0]
        for cases in (counts == count).nonzero()[:, 0].split(max(1, batch_size // rows)):
            values = _evaluate(variants, players, cases, coalitions.members)  # (n, R, P, C)
            branches[cases], baseline[cases] = values[:, -1], values[:, 0, fused]
            divided = values[:, :, fused] if report is None else values[:, :, fused] + values[:, :, report]
            where = players[cases].nonzero()
            total, deviation = coalitions.shapley_values(divided)
            in_report = 0 * total if report is None else coalitions.shapley_values(values[:, :, report])[0]
            for result, part in ((alone, in_report), (shares, total - in_report), (error, deviation)):
                result[cases[where[:, 0]], where[:, 1]] = part.flatten(0, 1).float()

    device = model.log_prior.device
    return Contributions(
        logits=(model.weighted_prior.cpu() + branches.sum(1)).to(device),
        prior=model.weighted_prior,
        patches=_patches(variants),
        attributes=alone[:, : codes.shape[1]].to(device),
        together=branches[:, fused].to(device),
        shares=shares.to(device),
        baseline=baseline.to(device),
        error=error.to(device) if error.any() else None,
    )


def _players(variants: CaseVariants) -> Tensor:
    """Which attributes, then images, take part in each case, (B, A + M)."""
    model = variants.model
    mentioned = (variants.codes != UNKNOWN) & (REPORT in model.modalities)
    images = [variants.is_present[m][:, None] for m in model.image_modalities]
    return torch.cat([mentioned, *images], dim=1).cpu()


def _evaluate(variants: CaseVariants, players: Tensor, cases: Tensor, members: Tensor) -> Tensor:
    """The contributions of the branches (n, R, P, C) for each coalition of the players of n cases, on the CPU."""
    rows, count = members.shape
    kept = torch.zeros(len(cases), rows, players.shape[1], dtype=torch.bool)
    index = players[cases].nonzero()[:, 1].view(len(cases), 1, count).expand(-1, rows, -1)
    kept = kept.scatter(2, index, members.expand(len(cases), -1, -1)).flatten(0, 1)  # (n R, A + M)

    device, attributes = variants.codes.device, variants.codes.shape[1]
    kept, row = kept.to(device), cases.repeat_interleave(rows).to(device)
    codes = variants.codes[row]
    if REPORT in variants.model.modalities:
        codes = codes.masked_fill(~kept[:, :attributes], UNKNOWN)
    is_present = dict(zip(variants.model.image_modalities, kept[:, attributes:].unbind(1), strict=True))
    values = variants.outputs("contributions", row, codes, is_present)
    return values.float().cpu().unflatten(0, (len(cases), rows))


def _patches(variants: CaseVariants) -> dict[str, Tensor]:
    batches = [
        variants.model.patch_contributions(
            {m: tokens[rows] for m, tokens in variants.image.items()},
            variants.codes[rows],
            is_present={m: mask[rows] for m, mask in variants.is_present.items()},
            is_valid={m: mask[rows] for m, mask in variants.is_valid.items()},
        )
        for rows in torch.arange(len(variants.codes)).split(variants.batch_size)
    ]
    return {m: torch.cat([batch[m] for batch in batches]) for m in variants.model.image_modalities}
