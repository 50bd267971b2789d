import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.modules.outputs import ClassifierOutput
from alignedfusion.modules.tasks import Multiclass, Multilabel, Regression
from alignedfusion.presets import standard
from alignedfusion.training import TrainingSettings, fit
from alignedfusion.training.calibration import SLOPE_SPREAD, SPREAD, calibrate, fit_weights

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Shares of missing attributes that a model is calibrated for."""


class ContributingModel(nn.Module):
    """A model whose contributions (B, P, C) are its images."""

    def __init__(self, schema, initial):
        super().__init__()
        self.schema, self.targets = schema, Multiclass(("a", "b", "c"))
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


# Several labels, numbers


def draw_contributions(rows=97, labels=3):
    """Contributions (versions, n, P, L), the share of attributes of each version, and multilabel labels (n, L)."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(2, (rows, labels), generator=generator)
    contributions = 2.0 * known[:, None] - 1 + 2 * torch.randn(2, rows, 2, labels, generator=generator)
    return contributions, torch.rand(2, rows, generator=generator), known


def assert_same_weights(first, second):
    for weights, expected in zip(first, second, strict=True):
        torch.testing.assert_close(weights, expected, atol=2e-3, rtol=2e-3)


def test_one_label_is_calibrated_like_two_classes():
    contributions, shares, labels = draw_contributions(labels=1)
    log_odds = torch.tensor([-0.7])
    one = fit_weights(contributions, shares, log_odds, labels, Multilabel(("a",)))
    both = torch.cat([torch.zeros_like(contributions), contributions], dim=-1)
    two = fit_weights(both, shares, torch.tensor([0.0, -0.7]).log_softmax(0), labels[:, 0])
    assert_same_weights(one, two)
    assert one[0].abs().max() > 0.1


def test_only_known_labels_are_calibrated_on():
    contributions, shares, labels = draw_contributions()
    partly = labels.clone()
    partly[:, [0, 2]] = -1
    partly[:30, 1] = -1
    prior = torch.zeros(3)
    found = fit_weights(contributions, shares, prior, partly, Multilabel(("a", "b", "c")))
    alone = contributions[:, 30:, :, [1]], shares[:, 30:], prior[:1], labels[30:, [1]], Multilabel(("b",))
    assert_same_weights(found, fit_weights(*alone))


def test_an_unknown_class_takes_no_part():
    cases = draw_cases([2.0, 0.5], rows=60)
    contributions, shares = cases.image[None], torch.rand(1, 60)
    prior = torch.tensor([0.5, 0.3, 0.2]).log()
    unknown = cases.labels.clone()
    unknown[:20] = -1
    found = fit_weights(contributions, shares, prior, unknown)
    assert_same_weights(found, fit_weights(contributions[:, 20:], shares[:, 20:], prior, cases.labels[20:]))


def test_the_branch_of_a_number_gets_the_weight_of_a_least_squares_fit():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 1, generator=generator) * 20 + 50
    task = Regression(("age",))
    task.learn_prior(values, torch.ones(4000))
    standardised = task.deactivate(values)
    noisy = torch.stack([standardised / 2, torch.randn(4000, 1, generator=generator)], dim=1)[None]
    shifts, slopes, _ = fit_weights(noisy, torch.full((1, 4000), 0.5), torch.zeros(1), values, task)
    weights = (shifts + slopes * 0.0).exp()
    assert weights[0].item() == pytest.approx(2.0, rel=0.05)
    assert weights[1].item() < 0.3


@pytest.mark.parametrize("outlier", [1e3, 1e6])
def test_an_outlier_among_the_numbers_leaves_the_weights_finite(outlier):
    contributions = torch.randn(8, 50, 3, 1)
    labels = contributions[0].mean(1)
    labels[:25] = outlier
    shares = torch.linspace(1, 0, 8)[:, None].expand(8, 50)
    for found in fit_weights(contributions, shares, torch.zeros(1), labels, Regression(("age",))):
        assert found.isfinite().all()


WRONG = [
    ("multiclass", torch.full((7,), 3), "label 3 in row 0 is out of range"),
    ("multiclass", torch.zeros(7), "got torch.float32 of shape"),
    ("multilabel", torch.full((7, 3), 5), "label 5 of 'a' in row 0 is out of range"),
    ("regression", torch.zeros(7), r"got shape \(7,\)"),
]


@pytest.mark.parametrize(("task", "labels", "message"), WRONG)
def test_labels_that_do_not_fit_are_refused(task, labels, message, schema, build):
    model = standard(schema, ["a", "b", "c"], backbone=None, num_features=7, dim=64, task=task)
    cases = TensorCases(torch.randn(7, 5, 7), torch.zeros(7, 3, dtype=torch.int64), labels)
    with pytest.raises(ValueError, match=message):
        calibrate(model, cases, progress=False)
    if labels.dtype != torch.int64:
        with pytest.raises(ValueError, match=message):
            fit(model, cases, None, "unused", progress=False)


def test_no_case_is_an_error(schema):
    model = standard(schema, ["a", "b"], backbone=None, num_features=7, dim=64)
    nothing = TensorCases(torch.zeros(0, 5, 7), *torch.zeros(2, 0, 3, dtype=torch.int64).unbind())
    nothing.labels = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="there is no case to predict"):
        calibrate(model, nothing, progress=False)
