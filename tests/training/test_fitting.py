import math
import re

import pytest
import torch
import torch.nn.functional as F

from alignedfusion import VisualTokenizer
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.presets import standard
from alignedfusion.training import TrainingSettings
from alignedfusion.training.fitting import find_checkpoints, fit, parameter_groups


@pytest.fixture
def cases(schema):
    """Cases whose class is their first attribute: 3 classes of 17."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(n, (53,), generator=generator) for n in schema.num_values], dim=1)
    return TensorCases(torch.randn(53, 11, 13, generator=generator), codes, codes[:, 0].clone())


def settings(**changes):
    return TrainingSettings(**{"batch_size": 16, "learning_rate": 3e-3, **changes})


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_fit_learns_and_deletes_its_checkpoints(schema, build, cases, tmp_path):
    model = build(schema, hiding=HideAttributes(0.1, whole=0.0))
    log = fit(model, cases, None, tmp_path, settings(epochs=12), progress=False)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        assert (model.eval()(cases.image, cases.codes).logits.argmax(1) == cases.labels).float().mean() > 0.9
    assert list(tmp_path.iterdir()) == []


def test_the_last_epoch_is_kept_regardless_of_validation(schema, build, cases, tmp_path):
    model = build(schema)
    # Validation labels that no training case has: every step makes them less likely, so the first epoch suits them best.
    valid = TensorCases(cases.image, cases.codes, cases.labels + 5)
    log = fit(model, cases, valid, tmp_path, settings(epochs=3), progress=False)
    found = [entry["eval_cross_entropy"] for entry in log if "eval_loss" in entry]
    assert len(found) == 3
    assert found[0] == min(found) < found[-1]
    model.branch_weights.copy_(model.initial_branch_weights())  # as they were before calibration
    model.branch_slopes.zero_()
    model.prior_weight.fill_(1.0)
    with torch.no_grad():
        logits = model.eval()(cases.image, cases.codes).logits
    assert F.cross_entropy(logits, cases.labels + 5).item() == pytest.approx(found[-1], rel=1e-4)
    assert find_checkpoints(tmp_path) == []


class Interrupted(TensorCases):
    """Raises KeyboardInterrupt after a given number of reads."""

    left = 53 * 2 + 20

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_interrupted_training_gives_the_same_result(schema, build, cases, tmp_path):
    whole = build(schema)
    fit(whole, cases, cases, tmp_path / "whole", settings(epochs=4), progress=False)

    halted = build(schema)
    broken = Interrupted(cases.image, cases.codes, cases.labels)
    with pytest.raises(KeyboardInterrupt):
        fit(halted, broken, cases, tmp_path / "halted", settings(epochs=4), progress=False)
    assert len(find_checkpoints(tmp_path / "halted")) == 1

    again = build(schema)
    log = fit(again, cases, cases, tmp_path / "halted", settings(epochs=4), progress=False)
    assert [entry["epoch"] for entry in log if "eval_loss" in entry] == [1, 2, 3, 4]
    expected = state(whole)
    assert all(torch.equal(value, expected[name]) for name, value in state(again).items())


def test_equal_seeds_train_equal_models(schema, build, cases, tmp_path):
    models = []
    for seed in (0, 0, 1):
        models.append(build(schema))
        fit(models[-1], cases, None, tmp_path, settings(epochs=1, seed=seed), progress=False)
    first, same, other = (state(model)["head.2.weight"] for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_training_sets_the_prior_from_the_class_counts(schema, build, cases, tmp_path):
    model, without = build(schema), build(schema, unimodal_heads=False)
    for each in (model, without):
        fit(each, cases, None, tmp_path, settings(epochs=1), progress=False)
    counts = [cases.labels.tolist().count(c) for c in range(17)]
    assert sum(counts) == 53
    expected = torch.tensor([math.log((n + 1) / (53 + 17)) for n in counts])
    torch.testing.assert_close(model.log_prior, expected)
    assert not without.log_prior.any()  # its single head learns the class shares


def test_rows_without_an_image_train(schema, build, cases, tmp_path):
    class Gappy(TensorCases):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "is_present": {"image": torch.tensor(index % 2 == 0)}}

    gappy = Gappy(cases.image, cases.codes, cases.labels)
    log = fit(build(schema), gappy, gappy, tmp_path, settings(epochs=1), progress=False)
    assert log[0]["loss"] > 0


def rates(model, **changes):
    """Learning rate and weight decay of each parameter by name; every parameter is in one group."""
    groups = parameter_groups(model, TrainingSettings(learning_rate=1.0, weight_decay=0.05, **changes))
    found = [(id(p), (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found)) == sum(1 for _ in model.parameters())
    return {name: dict(found)[id(p)] for name, p in model.named_parameters()}


def test_backbones_have_a_lower_rate_and_vectors_no_decay(schema, build):
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32)
    found = rates(build(schema, visual=visual), image_rate=0.5, backbone_rate=0.25)
    assert found["visual.backbone.blocks.0.mlp.fc1.weight"] == (0.125, 0.05)
    assert found["visual.backbone.norm.weight"] == (0.125, 0.0)
    assert found["visual.project.weight"] == (0.5, 0.05)
    assert found["fusion.intermediate"] == (0.5, 0.0)
    assert found["tokenizer.value_vectors"] == (1.0, 0.0)
    assert {rate for rate, _ in found.values()} == {0.125, 0.5, 1.0}
    assert rates(build(schema, visual=visual))["visual.backbone.norm.weight"] == pytest.approx((0.02, 0.0))


def test_parameters_of_attributes_have_the_full_rate_and_others_the_image_rate(schema, build):
    full, slow = {}, {}
    for name, (rate, _) in rates(build(schema), image_rate=0.5).items():
        {1.0: full, 0.5: slow}[rate][name] = rate
    either = ("fusion.rounds.0.", "fusion.rounds.1.", "unimodal_heads.heads.", "unimodal_heads.first_round_heads.")
    of_attributes = ("tokenizer.", "reconstructor.", *(f"{name}report." for name in either))
    assert all(name.startswith(of_attributes) for name in full)
    of_images = ("visual.", "head.", "fusion.intermediate", *(f"{name}image." for name in either))
    assert all(name.startswith(of_images) for name in slow)
    assert len(full) > 40
    assert len(slow) > 25


def test_without_images_all_parameters_have_the_full_rate(schema, build):
    model = build(schema, fusion=JointSelfAttention(38, modalities=("report",), num_heads=2))
    assert {rate for rate, _ in rates(model, image_rate=0.5).values()} == {1.0}
    images = build(schema, fusion=JointSelfAttention(38, modalities=("image",), num_heads=2))
    assert rates(images, image_rate=0.5)["fusion.blocks.0.qkv.weight"] == (0.5, 0.05)


def test_a_frozen_backbone_is_in_no_group(schema, build):
    visual = VisualTokenizer("test_vit", 38, pretrained=False, tune="none", image_size=32)
    groups = parameter_groups(build(schema, visual=visual))
    trained = {id(p) for group in groups for p in group["params"]}
    assert not trained & {id(p) for p in visual.backbone.parameters()}


# Several labels, numbers


def labelled(cases, task):
    """The same cases with labels that follow from the first attribute, a third of them unknown."""
    is_unknown = torch.rand(53, 17, generator=torch.Generator().manual_seed(0)) < 0.3
    is_value = F.one_hot(cases.codes[:, 0], 17)
    if task == "multilabel":
        return TensorCases(cases.image, cases.codes, is_value.masked_fill(is_unknown, -1))
    values = (30.0 + 5 * is_value).masked_fill(is_unknown, torch.nan)
    return TensorCases(cases.image, cases.codes, values[:, :3])  # the other numbers never change


@pytest.mark.parametrize(("task", "metric"), [("multilabel", "cross_entropy"), ("regression", "mean_absolute_error")])
def test_other_tasks_train_and_are_calibrated(task, metric, schema, build, cases, tmp_path):
    torch.manual_seed(0)
    names = range(17) if task == "multilabel" else ("a", "b", "c")
    model = standard(schema, list(map(str, names)), backbone=None, num_features=13, dim=64, task=task)
    cases = labelled(cases, task)
    log = fit(model, cases, cases, tmp_path, settings(epochs=8), progress=False)
    found = [entry[f"eval_{metric}"] for entry in log if "eval_loss" in entry]
    assert found[-1] < 0.8 * found[0]
    assert not torch.equal(model.branch_weights, model.initial_branch_weights())
    if task == "regression":
        assert model.targets.mean.tolist() == pytest.approx(cases.labels.nanmean(0).tolist())
    else:
        positives, known = (cases.labels == 1).sum(0), (cases.labels >= 0).sum(0)
        assert model.log_prior.tolist() == pytest.approx(((positives + 1) / (known - positives + 1)).log().tolist())


def test_labels_are_read_case_by_case_where_a_dataset_has_no_column_of_them(schema, build, cases, tmp_path):
    class Plain(torch.utils.data.Dataset):
        def __len__(self):
            return 53

        def __getitem__(self, index):
            return labelled(cases, "multilabel")[index]

    models = [build(schema, task="multilabel") for _ in range(2)]
    for number, (model, data) in enumerate(zip(models, (Plain(), labelled(cases, "multilabel")), strict=True)):
        fit(model, data, None, tmp_path / str(number), settings(epochs=1), progress=False)
    assert torch.equal(models[0].log_prior, models[1].log_prior)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("multilabel", {"balance": "class_weights"}, r"'class_weights' does not fit the task 'multilabel'; it takes"),
        ("regression", {"balance": "logit_adjustment"}, r"does not fit the task 'regression'; it takes \['none'\]"),
        ("multilabel", {"sets": "lac"}, "prediction sets are sets of classes, and a model for 'multilabel' has none"),
    ],
)  # fmt: skip
def test_settings_for_classes_are_refused(task, changes, message, schema, build, cases, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(build(schema, task=task), cases, cases, tmp_path, settings(epochs=1, **changes), progress=False)


def test_counts_of_classes_are_refused(schema, build, cases, tmp_path):
    with pytest.raises(ValueError, match="class_counts belong to the task 'multiclass', this model has 'multilabel'"):
        fit(build(schema, task="multilabel"), cases, None, tmp_path, class_counts=torch.ones(17), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"learning_rate": -1e-3}, "learning_rate above 0; got -0.001"),
        ({"learning_rate": 0.0}, "learning_rate above 0; got 0.0"),
        ({"image_rate": float("nan")}, "image_rate must be a finite number of at least 0"),
        ({"coverage": 0.8}, "coverage=0.8 belongs to prediction sets; name their kind with sets"),
    ],
)
def test_settings_that_train_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingSettings(**change)


def test_a_training_that_diverged_is_an_error(schema, batch, build, tmp_path):
    image, codes, labels = batch(schema, rows=20)
    cases = TensorCases(image, codes, labels)
    with pytest.raises(
        ValueError, match="training diverged, and the model's outputs are nan or infinite: lower learning_rate"
    ):
        fit(build(schema), cases, cases, tmp_path, TrainingSettings(epochs=2, learning_rate=1e30), progress=False)
