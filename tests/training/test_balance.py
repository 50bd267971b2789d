import numpy as np
import pytest
import torch
from torch import nn

from alignedfusion.baselines import JointSelfAttention
from alignedfusion.datasets.cases import TensorCases, WeightedCases
from alignedfusion.evaluation import compute_metrics
from alignedfusion.evaluation.inference import decide, predict
from alignedfusion.modules.tasks import Multilabel
from alignedfusion.training import TrainingSettings, fit
from alignedfusion.training.balance import count_classes, restore_prior, set_prior
from alignedfusion.training.decision import EXPONENTS, choose_decision, choose_exponent


@pytest.fixture
def cases(schema):
    """97 cases of three classes of 17, with 70, 20 and 7 cases; the first attribute shows the class in most of them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([70, 20, 7]))
    codes = torch.stack([torch.randint(n, (97,), generator=generator) for n in schema.num_values], dim=1)
    shows = torch.rand(97, generator=generator) < 0.6
    codes[shows, 0] = labels[shows]
    return TensorCases(torch.randn(97, 5, 13, generator=generator), codes, labels)


def test_the_decision_divides_by_a_power_of_the_prior_by_hand(schema, build):
    model = build(schema)
    model.log_prior.copy_(torch.tensor([0.64, 0.04] + [0.32 / 15] * 15).log())
    logits = torch.tensor([0.5, 0.3] + [0.2 / 15] * 15).log()
    assert int(model.decide(logits)) == 0
    model.prior_exponent = 0.25  # .5 / .894 = .56 against .3 / .447 = .67
    assert int(model.decide(logits)) == 1
    assert torch.equal(model.decide(logits.expand(2, 3, 17)), torch.ones(2, 3, dtype=torch.int64))


def test_the_exponent_is_saved_with_the_model(schema, build, tmp_path):
    model = build(schema)
    assert model.to_dict()["prior_exponent"] == 0.0
    model.prior_exponent = 0.65
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).prior_exponent == 0.65
    settings = model.to_dict()
    del settings["prior_exponent"]  # saved before it existed
    assert type(model).from_dict(settings).prior_exponent == 0.0


def test_weights_multiply_the_loss_of_the_class_by_hand(schema, build, batch):
    model = build(schema, fill=None).eval()
    image, codes, labels = batch(schema)
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 0.0, 3.0, 0.5])
    output = model(image, codes, labels, weights=weights)
    alone = [model(image[i : i + 1], codes[i : i + 1], labels[i : i + 1]).loss.item() for i in range(7)]
    assert output.loss.item() == pytest.approx(np.dot(weights.tolist(), alone) / 7, rel=1e-5)
    assert model(image, codes, labels, weights=torch.ones(7)).loss == model(image, codes, labels).loss


@pytest.mark.parametrize("balance", ["class_weights", "logit_adjustment"])
def test_help_for_rare_classes_keeps_calibrated_probabilities(balance, schema, build, cases, tmp_path):
    models = {}
    for name in ("none", balance):
        models[name] = build(schema)
        settings = TrainingSettings(epochs=12, batch_size=16, learning_rate=3e-3, balance=name)
        fit(models[name], cases, cases, tmp_path / name, settings, progress=False)
    default, helped = models["none"], models[balance]
    assert torch.equal(default.log_prior, helped.log_prior)  # the class shares of the training cases
    assert (default.prior_exponent, helped.prior_exponent in EXPONENTS[1:]) == (0.0, True)
    found, recall, is_rare = {}, {}, cases.labels.numpy() == 2
    for name, model in models.items():
        probabilities = predict(model, cases, [cases.codes], progress=False)[0]
        predicted = decide(model, probabilities)
        found[name] = compute_metrics(probabilities, cases.labels.numpy(), predicted=predicted)
        recall[name] = (predicted[is_rare] == 2).mean()
        assert probabilities[:, 0].mean() == pytest.approx(70 / 97, abs=0.1)
    assert recall[balance] >= recall["none"]
    if balance == "logit_adjustment":  # trained in the same way
        assert found[balance]["cross_entropy"] == pytest.approx(found["none"]["cross_entropy"], rel=1e-4)


def test_class_weights_give_every_class_the_same_total_and_a_mean_of_one(schema, build, cases):
    model = build(schema)
    counts = count_classes(model, cases, None, "class_weights")
    assert counts[:3].tolist() == [70, 20, 7]
    weighted = set_prior(model, cases, counts, "class_weights")
    totals = torch.bincount(cases.labels, weighted.weights)
    assert totals.tolist() == pytest.approx([97 / 3] * 3)
    assert weighted[75]["weights"] == weighted.weights[75]
    assert [case["weights"] for case in weighted.__getitems__([0, 96])] == [weighted.weights[0], weighted.weights[96]]
    assert model.log_prior[:3].exp().tolist() == pytest.approx([(97 / 3 + 1) / (97 + 17)] * 3)
    restore_prior(model, counts, "class_weights")
    assert model.log_prior[:3].exp().tolist() == pytest.approx([71 / 114, 21 / 114, 8 / 114])
    assert model.prior_exponent == 1.0  # without validation cases the decision disregards the class shares


def test_class_weights_multiply_given_weights(schema, build, cases):
    given = torch.ones(97)
    given[cases.labels == 2] = 10.0
    model = build(schema)
    weighted_cases = WeightedCases(cases, given)
    counts = count_classes(model, weighted_cases, None, "class_weights")
    assert counts[:3].tolist() == [70, 20, 70]
    weighted = set_prior(model, weighted_cases, counts, "class_weights")
    assert torch.bincount(cases.labels, weighted.weights).tolist() == pytest.approx([160 / 3] * 3)


def test_the_prior_is_used_without_unimodal_heads_too(schema, build, cases, tmp_path):
    model = build(schema, unimodal_heads=False)
    fit(model, cases, None, tmp_path, TrainingSettings(epochs=1, balance="logit_adjustment"), progress=False)
    assert model.log_prior[0] > model.log_prior[1] > model.log_prior[2]


def test_the_chosen_exponent_has_the_best_expected_macro_f1():
    """Two classes: the rare one is predicted from a probability of 0.3 on, which is the best threshold by enumeration."""
    rng = torch.Generator().manual_seed(1)
    rare = torch.rand(400, generator=rng) ** 6
    log_probabilities = torch.stack([1 - rare, rare], dim=1).clamp(min=1e-9).log()
    log_prior = torch.tensor([0.86, 0.14]).log()
    exponent = choose_exponent(log_probabilities, log_prior)

    def expected(threshold):
        is_rare = rare > threshold
        scores = []
        for p, chosen in ((rare, is_rare), (1 - rare, ~is_rare)):
            scores.append(2 * p[chosen].sum() / (p.sum() + chosen.sum()))
        return float(sum(scores) / 2)

    threshold = 1 / (1 + (0.86 / 0.14) ** exponent)
    thresholds = [1 / (1 + (0.86 / 0.14) ** other) for other in EXPONENTS]
    assert expected(threshold) == pytest.approx(max(map(expected, thresholds)))
    assert 0 < exponent < 1


def test_equal_class_shares_leave_the_most_probable_class():
    log_probabilities = torch.randn(50, 4).log_softmax(-1)
    assert choose_exponent(log_probabilities, torch.full((4,), 0.25).log()) == 0.0


def test_a_decision_changes_nothing_else(schema, build, cases):
    model = build(schema)
    model.set_class_counts([70, 20, 7] + [0] * 14)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choose_decision(model, cases, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert 0 <= model.prior_exponent <= 1


def test_mistakes_are_refused(schema, build, cases, tmp_path):
    with pytest.raises(ValueError, match=r"balance must be one of \['none', 'class_weights', .*\], got 'weights'"):
        TrainingSettings(balance="weights")
    with pytest.raises(ValueError, match="balance='class_weights' takes an AlignedFusionClassifier, got Linear"):
        fit(nn.Linear(2, 2), cases, None, tmp_path, TrainingSettings(balance="class_weights"))
    with pytest.raises(ValueError, match=r"weights must hold one number per case \(97\), got 3"):
        WeightedCases(cases, torch.ones(3))
    with pytest.raises(ValueError, match="weights must be finite numbers of at least 0, and not all of them 0"):
        WeightedCases(cases, torch.full((97,), -1.0))
    model = build(schema, fusion=JointSelfAttention(38, num_heads=2), unimodal_heads=False)
    with pytest.raises(ValueError, match="class_counts set the prior of a model with unimodal heads"):
        fit(model, cases, None, tmp_path, class_counts=torch.ones(17), progress=False)


def test_the_exponent_of_several_labels_is_the_best_threshold_of_a_rare_one():
    rare = torch.rand(400, generator=torch.Generator().manual_seed(1)) ** 6
    log_odds = torch.tensor([0.14 / 0.86]).log()
    exponent = choose_exponent(rare[:, None].logit(), log_odds, Multilabel(("mass",)))

    def expected(exponent):
        chosen = rare > 1 / (1 + (0.86 / 0.14) ** exponent)
        return float(2 * rare[chosen].sum() / (rare.sum() + chosen.sum()))

    assert expected(exponent) == pytest.approx(max(map(expected, EXPONENTS)))
    assert 0 < exponent < 1


def test_logit_adjustment_chooses_the_decision_of_several_labels(schema, build, cases, tmp_path):
    labels = torch.nn.functional.one_hot(cases.labels, 17)
    labels[::5] = -1
    several = TensorCases(cases.image, cases.codes, labels)
    model = build(schema, task="multilabel")
    settings = TrainingSettings(epochs=4, batch_size=16, learning_rate=3e-3, balance="logit_adjustment")
    fit(model, several, several, tmp_path, settings, progress=False)
    assert model.prior_exponent in EXPONENTS[1:]
    probabilities = predict(model, several, [several.codes], progress=False)[0]
    odds = np.exp(np.log(probabilities / (1 - probabilities)) - model.prior_exponent * model.log_prior.numpy())
    assert np.array_equal(decide(model, probabilities), odds > 1)
