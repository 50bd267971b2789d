import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.training import TrainingSettings, fit
from alignedfusion.training.calibration import SLOPE_SPREAD, SPREAD, calibrate

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Shares of missing attributes that a model is calibrated for."""


class ContributingModel(nn.Module):
    """A model whose contributions (B, P, C) are its images."""

    def __init__(self, schema, initial):
        super().__init__()
        self.schema = schema
        self.initial = torch.tensor(initial)
        self.register_buffer("branch_weights", self.initial.clone())
        self.register_buffer("branch_slopes", torch.zeros(len(initial)))
        self.register_buffer("log_prior", torch.tensor([0.5, 0.3, 0.2]).log())
        self.register_buffer("prior_weight", torch.ones(()))

    def initial_branch_weights(self):
        return self.initial.clone()

    def forward(self, image, codes, is_present=None):
        share = (codes >= 0).float().mean(1)[:, None]
        weights = self.branch_weights * (self.branch_slopes * (0.5 - share)).exp()  # (B, P)
        return ClassifierOutput(contributions=image * weights[..., None])


def draw_cases(factors, rows=499):
    """Cases of three classes whose branches are overconfident by the given factors; a negative one is uninformative."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), rows, replacement=True, generator=generator)
    others = labels[torch.randperm(rows, generator=generator)]
    contributions = []
    for factor in factors:
        known = F.one_hot(labels if factor > 0 else others, 3) + torch.randn(rows, 3, generator=generator)
        contributions.append(
            abs(factor) * known
        )  # at 1: the log-likelihood of each class, up to what all have in common
    return TensorCases(torch.stack(contributions, dim=1), torch.zeros(rows, 3, dtype=torch.int64), labels)


def test_the_weight_of_an_overconfident_branch_falls_and_of_a_calibrated_one_rises(schema):
    model = ContributingModel(schema, [2 / 3, 2 / 3])
    calibrate(model, draw_cases([5.0, 1.0]), progress=False)
    assert model.branch_weights[0] == pytest.approx(1 / 5, rel=0.15)
    assert model.branch_weights[1] == pytest.approx(1.0, rel=0.15)


def test_the_weight_of_an_uninformative_branch_does_not_rise(schema):
    model = ContributingModel(schema, [2 / 3, 2 / 3, 1 / 3])
    calibrate(model, draw_cases([1.0, -1.0, -0.5]), progress=False)
    assert model.branch_weights[0] > 2 / 3
    assert model.branch_weights[1] < 0.3
    assert model.branch_weights[2] < 0.3


@pytest.mark.parametrize(("factor", "temperature"), [(5.0, 5.0), (0.5, 0.5), (1.0, 1.0)])
def test_with_one_branch_the_weight_is_one_over_a_temperature(factor, temperature, schema):
    model = ContributingModel(schema, [1.0])
    calibrate(model, draw_cases([factor]), progress=False)
    assert 1 / model.branch_weights.item() == pytest.approx(temperature, rel=0.15)


def test_a_branch_that_is_noise_for_empty_reports_loses_its_weight_there(schema):
    """The second branch knows the class as far as the report is complete, and is noise for an empty one."""

    class Fading(ContributingModel):
        def forward(self, image, codes, is_present=None):
            share = (codes >= 0).float().mean(1)[:, None, None]
            noise = torch.randn(image.shape[0], 1, 3, generator=torch.Generator().manual_seed(5))
            faded = torch.cat([image[:, :1], share * image[:, 1:] + 3 * (1 - share) * noise], dim=1)
            return super().forward(faded, codes)

    model = Fading(schema, [2 / 3, 2 / 3])
    calibrate(model, draw_cases([1.0, 1.0], rows=1999), progress=False)
    full, empty = (model.branch_weights * (model.branch_slopes * half).exp() for half in (-0.5, 0.5))
    assert full[1] > 3 * empty[1]
    assert empty[1] < 0.25
    assert model.branch_slopes[0] == pytest.approx(0.0, abs=0.3)


def test_few_cases_move_the_weights_less_than_many(schema):
    few, many = ContributingModel(schema, [1.0]), ContributingModel(schema, [1.0])
    calibrate(few, draw_cases([5.0], rows=5), progress=False)
    calibrate(many, draw_cases([5.0]), progress=False)
    assert many.branch_weights < few.branch_weights < 1.0


@pytest.fixture
def cases(schema, batch):
    image, codes, labels = batch(schema, rows=53)
    return TensorCases(image, codes, labels)


@pytest.fixture(params=[True, False])
def model(request, schema, build):
    model = build(schema, unimodal_heads=request.param).eval()
    model.set_class_counts(range(17))
    for head in [model.head, *(model.unimodal_heads.heads.values() if request.param else ())]:
        nn.init.normal_(head[2].weight, std=0.3)  # so that the contributions are not zero
    return model


@torch.no_grad()
def objective(model, cases, weights, slopes, prior_weight):
    """Negative log posterior of the weights, computed from the model's logits with these weights."""
    model.branch_weights.copy_(weights)
    model.prior_weight.copy_(prior_weight)
    model.branch_slopes.copy_(slopes)
    fit = 0.0
    for rate in RATES:
        logits = model(cases.image, drop_attributes(cases.codes, rate, model.schema)).logits.double()
        fit -= logits.log_softmax(-1)[torch.arange(53), cases.labels].sum().item() / len(RATES)
    pairs = zip(weights.tolist(), model.initial_branch_weights().tolist(), slopes.tolist(), strict=True)
    shifts = [math.log(weight / start) + slope / 2 for weight, start, slope in pairs]  # for an empty report
    shifts.append(math.log(prior_weight))
    prior = sum(shift**2 for shift in shifts) / SPREAD**2 + slopes.square().sum().item() / SLOPE_SPREAD**2
    return fit + prior / 2


def test_the_weights_found_are_the_most_probable(model, cases):
    calibrate(model, cases, progress=False)
    found, slopes, prior = model.branch_weights.clone(), model.branch_slopes.clone(), model.prior_weight.clone()
    least = objective(model, cases, found, slopes, prior)
    assert (
        least < objective(model, cases, model.initial_branch_weights(), torch.zeros_like(slopes), torch.ones(())) - 0.1
    )
    for factor in (0.99, 1.01):
        assert objective(model, cases, found, slopes, factor * prior) >= least
    for part in range(len(found)):
        for shift in (-0.01, 0.01):
            moved = shift * (torch.arange(len(found)) == part)
            assert objective(model, cases, found * moved.exp(), slopes, prior) > least
            assert objective(model, cases, found, slopes + moved, prior) > least


def test_calibration_changes_only_the_weights_and_is_idempotent(model, cases):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibrate(model.train(), cases, progress=False)
    assert not model.training
    once = model.branch_weights.clone()
    for weights in (once, torch.full_like(once, 7.0)):  # it starts from the initial weights, not from the current ones
        model.branch_weights.copy_(weights)
        with torch.no_grad():
            calibrate(model, cases, progress=False)
        torch.testing.assert_close(model.branch_weights, once, rtol=1e-4, atol=0)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == [
        "branch_weights",
        "branch_slopes",
        "prior_weight",
    ]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("unimodal_heads", [True, False])
def test_training_calibrates_on_validation_cases_if_there_are_any(unimodal_heads, schema, build, cases, tmp_path):
    for valid in (cases, None):
        model = build(schema, unimodal_heads=unimodal_heads)
        fit(model, cases, valid, tmp_path, TrainingSettings(epochs=1, batch_size=16), progress=False)
        assert torch.equal(model.branch_weights, model.initial_branch_weights()) == (valid is None)
        found = model.branch_weights.clone()
        calibrate(model, cases, progress=False)
        assert torch.allclose(found, model.branch_weights, rtol=1e-4) == (valid is not None)
