import sys
from pathlib import Path

import pytest
import torch

from alignedfusion import (
    AlignedFusionClassifier,
    Attribute,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.modules.outputs import ClassifierOutput

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
completions = pytest.importorskip("completions")

SCHEMA = AttributeSchema([Attribute(name, values=("x", "y", "z")) for name in "abcd"])
IMAGE = {"image": torch.arange(60.0).reshape(5, 3, 4).sin()}
CODES = torch.tensor([[0, 1, 2, 0], [-1, 1, -1, 0], [-1, -1, -1, -1], [2, 2, 2, 2], [1, -1, 0, 0]])


def build(reconstructor=MaskedTokenReconstructor, kind=AlignedFusionClassifier, **named):
    torch.manual_seed(0)
    fusion = IntermediateTokenFusion(8, modalities=("image", "report"), num_heads=2)
    return kind(
        VisualTokenizer(None, 8, num_features=4),
        AttributeTokenizer(SCHEMA, 8),
        fusion,
        reconstructor(8),
        num_classes=2,
        dropout=0.0,
        **named,
    )


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_weight_multiplies_the_reconstruction_term_alone(weight):
    labels = torch.tensor([0, 1, 0, 1, 0])
    losses = []
    for factor in (1.0, 0.0, weight):
        model = build(kind=completions.WeightedReconstruction, weight=factor)
        torch.manual_seed(1)
        losses.append(model(IMAGE, CODES, labels).loss)
    whole, without, weighted = losses
    assert whole > without
    torch.testing.assert_close(weighted, without + weight * (whole - without))
    plain = build()
    torch.manual_seed(1)  # the same cells are hidden
    torch.testing.assert_close(plain(IMAGE, CODES, labels).loss, whole)


def test_without_reconstruction_the_rest_is_the_same():
    labels = torch.tensor([0, 1, 0, 1, 0])
    model, without = build(), build(kind=completions.without_reconstruction)
    with_zero = build(kind=completions.WeightedReconstruction, weight=0.0)
    rest = {name: w for name, w in model.state_dict().items() if not name.startswith("reconstructor")}
    assert all(torch.equal(w, rest.pop(name)) for name, w in without.state_dict().items())
    assert not rest
    with_zero.reconstructor.fill = "none"
    for each in (with_zero, without):
        torch.manual_seed(1)
        each.found = each(IMAGE, CODES, labels)
    assert without.found.reconstruction is None
    torch.testing.assert_close(without.found.loss, with_zero.found.loss)


def test_detached_reconstruction_trains_its_own_weights_alone():
    for kind, reaches in ((MaskedTokenReconstructor, True), (completions.DetachedReconstructor, False)):
        model = build(kind)
        model(IMAGE, CODES, is_hidden=CODES >= 0).reconstruction.flatten(1)[:, 0].sum().backward()
        assert model.reconstructor.query[1].weight.grad.abs().sum() > 0
        tokenizer = [parameter.grad for parameter in model.tokenizer.parameters()]
        assert any(grad is not None and grad.abs().sum() > 0 for grad in tokenizer) == reaches


def test_complete_reports_are_predicted_as_by_the_model():
    model = build().eval()
    full = CODES.clamp(min=0)
    for draws in (0, 3):
        found = completions.Completed(model, model, draws)(IMAGE, full).logits
        torch.testing.assert_close(found.log_softmax(-1), model(IMAGE, full).logits.log_softmax(-1))


class Chain(torch.nn.Module):
    """a is 0 or 1 with equal probability, every other attribute equals a mentioned or drawn one, and so does the class."""

    def forward(self, image, codes, **masks):
        known = codes.max(1).values
        p = torch.where(known[:, None] >= 0, torch.nn.functional.one_hot(known.clamp(min=0), 2).float(), 0.5)
        reconstruction = p.clamp(min=1e-9).log()[:, None].expand(-1, codes.shape[1], -1)
        return ClassifierOutput(logits=p.clamp(min=1e-9).log(), reconstruction=reconstruction)


def test_drawn_values_fit_each_other_and_what_is_mentioned():
    codes = torch.tensor([[-1, -1, -1]] * 400 + [[-1, 1, -1]])
    model = Chain()
    completed = completions.Completed(model, model, draws=4)
    generator = torch.Generator().manual_seed(0)
    drawn = completed._draw({"image": torch.zeros(401, 1, 1)}, codes, {}, generator)
    assert (drawn == drawn[:, :1]).all()
    assert drawn[-1].tolist() == [1, 1, 1]
    assert drawn[:-1].float().mean() == pytest.approx(0.5, abs=0.1)
    # Each draw is sure of a class; their mean is one of 0, 1/4, 1/2, 3/4, 1.
    shares = completed({"image": torch.zeros(401, 1, 1)}, codes).logits.softmax(-1)[:, 0]
    assert set(shares.mul(4).round(decimals=4).tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert shares[-1] == pytest.approx(0.0, abs=1e-6)
