"""What `contributions` must do: add up, rank the attributes that decide a class first, and find the patches that matter."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor

from alignedfusion import (
    UNKNOWN,
    AlignedFusionClassifier,
    Attribute,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.datasets import phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.explanation import contributions
from alignedfusion.presets import standard
from alignedfusion.training import TrainingSettings, fit

DIM, FEATURES = 16, 13


def largest_error(models: int) -> float:
    """The largest difference between a logit and the sum of its contributions, over random models and cases."""
    draw = random.Random(0)
    errors = []
    for number in range(models):
        torch.manual_seed(number)
        schema = AttributeSchema(
            [
                Attribute(f"a{i}", values=tuple("vwxyz"[: draw.randint(1, 5)]))
                for i in range(draw.choice((1, 3, 5, 7, 12)))
            ]
        )
        images = ("first", "second", "third")[: draw.randint(1, 3)]
        fill = draw.choice(("once", "two_pass", "none", None))
        model = AlignedFusionClassifier(
            VisualTokenizer(None, DIM, num_features=FEATURES),
            AttributeTokenizer(schema, DIM),
            IntermediateTokenFusion(DIM, modalities=(*images, "report"), depth=draw.randint(1, 3), num_heads=2),
            None if fill is None else MaskedTokenReconstructor(DIM, fill=fill),
            num_classes=draw.randint(2, 11),
            unimodal_heads=draw.random() < 0.7,
        ).eval()
        model.branch_weights.copy_(2 * torch.rand_like(model.branch_weights))
        model.set_class_counts(torch.arange(1, model.num_classes + 1))
        model.prior_weight.fill_(draw.uniform(0.5, 1.5))
        cases = 3
        image = {m: torch.randn(cases, draw.randint(1, 9), FEATURES) for m in images}
        codes = torch.stack([torch.randint(-1, values, (cases,)) for values in schema.num_values], dim=1)
        is_present = {m: torch.rand(cases) < 0.7 for m in (*images, "report")}
        is_valid = {m: torch.rand(stream.shape[:2]) < 0.8 for m, stream in image.items()}
        masks = {"is_present": is_present, "is_valid": is_valid}
        found = contributions(model, image, codes, permutations=8, **masks)
        logits = model(image, codes, **masks).logits
        by_branch = sum(patches.sum(1) for patches in found.patches.values()) + found.attributes.sum(1) + found.together
        by_input = found.baseline + sum(found.image_totals.values()) + found.attribute_totals.sum(1)
        errors += [float((found.prior + part - logits).abs().max()) for part in (by_branch, by_input)]
    return max(errors)


def decisive_attributes(scratch: Path, seed: int) -> dict[str, float]:
    """How often an attribute that decides the class of a phantom case ranks first among the attributes.

    An attribute decides the class if the exactly most probable class given all attributes is another one without it. The model
    reads attributes only, as the exact probabilities do. Attributes are ranked by what they add to the predicted class, less
    what they add to the second.
    """
    made = [phantom.make(n, seed=11 + i, image_size=4) for i, n in enumerate((2000, 500, 2000))]
    train, valid, test = (TensorCases(torch.zeros(len(m.codes), 0), m.codes, m.labels) for m in made)
    torch.manual_seed(seed)
    model = standard(phantom.SCHEMA, phantom.CLASS_NAMES, images=(), dim=64)
    settings = TrainingSettings(epochs=15, batch_size=64, seed=seed)
    fit(model, train, valid, scratch / f"checkpoints-attributes-{seed}", settings, progress=False)

    codes = test.codes
    exact = phantom.likelihood(codes).argmax(1)
    decides = torch.zeros_like(codes, dtype=torch.bool)
    for attribute in range(codes.shape[1]):
        without = codes.clone()
        without[:, attribute] = UNKNOWN
        decides[:, attribute] = phantom.likelihood(without).argmax(1) != exact
    is_decided = decides.any(1)
    codes, exact, decides = codes[is_decided], exact[is_decided], decides[is_decided]
    found = contributions(model, None, codes)
    first, second = found.logits.topk(2).indices.unbind(1)
    rows = torch.arange(len(codes))
    totals = found.attribute_totals
    is_hit = decides[rows, (totals[rows, :, first] - totals[rows, :, second]).argmax(1)]
    agrees = first == exact
    return {
        "of": len(is_decided),
        "cases": len(codes),
        "hits": float(is_hit.float().mean()),
        "cases_agreed": int(agrees.sum()),
        "hits_agreed": float(is_hit[agrees].float().mean()),
        "by_chance": float(decides.float().mean()),
    }


@torch.inference_mode()
def deletion(model: AlignedFusionClassifier, cases: TensorCases, seed: int) -> dict[str, Tensor]:
    """Probability (n, 17) of the predicted class while patches are deleted in 16 steps: by rank, and at random."""
    rows, predicted = torch.arange(len(cases)), model(cases.image, cases.codes).logits.argmax(1)
    patches = model.patch_contributions(cases.image, cases.codes)  # those of `contributions`, without the attributes
    added = torch.cat([part[rows, :, predicted] for part in patches.values()], dim=1)  # (n, all patches)
    generator = torch.Generator().manual_seed(seed)
    curves = {}
    for name, score in (("ranked", added), ("random", torch.rand(added.shape, generator=generator))):
        place = score.argsort(1, descending=True).argsort(1)
        curve = []
        for step in range(17):
            kept = place >= round(added.shape[1] * step / 16)
            parts = kept.split([stream.shape[1] for stream in cases.image.values()], dim=1)
            is_valid = dict(zip(cases.image, parts, strict=True))
            probabilities = model(cases.image, cases.codes, is_valid=is_valid).logits.softmax(-1)
            curve.append(probabilities[rows, predicted])
        curves[name] = torch.stack(curve, dim=1)
    return curves
