import pytest
import torch

from alignedfusion import VisualTokenizer
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.training import find_checkpoints, fit, parameter_groups


@pytest.fixture
def cases(schema):
    """Cases whose class is their first attribute: 3 classes of 17."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(n, (53,), generator=generator) for n in schema.num_values], dim=1)
    return TensorCases(torch.randn(53, 11, 13, generator=generator), codes, codes[:, 0].clone())


SETTINGS = {"batch_size": 16, "learning_rate": 3e-3, "progress": False}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_learns_and_leaves_no_checkpoints(schema, build, cases, tmp_path):
    model = build(schema, hide_probability=0.1)
    log = fit(model, cases, None, tmp_path, epochs=12, **SETTINGS)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        assert (model.eval()(cases.image, cases.codes).logits.argmax(1) == cases.labels).float().mean() > 0.9
    assert list(tmp_path.iterdir()) == []


def test_the_best_epoch_is_kept(schema, build, cases, tmp_path):
    model = build(schema)
    # Validation labels that no training case has: every step makes them less likely, so the first epoch is the best.
    valid = TensorCases(cases.image, cases.codes, cases.labels + 5)
    log = fit(model, cases, valid, tmp_path, epochs=3, **SETTINGS)
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert losses[0] == min(losses) < max(losses)
    with torch.no_grad():
        assert model.eval()(cases.image, cases.codes, cases.labels + 5).loss == pytest.approx(losses[0], rel=1e-4)
    assert find_checkpoints(tmp_path) == []


class Interrupted(TensorCases):
    """Raises Ctrl-C's exception when a case has been read so many times."""

    left = 53 * 2 + 20

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(schema, build, cases, tmp_path):
    whole = build(schema)
    fit(whole, cases, cases, tmp_path / "whole", epochs=4, **SETTINGS)

    halted = build(schema)
    broken = Interrupted(cases.image, cases.codes, cases.labels)
    with pytest.raises(KeyboardInterrupt):
        fit(halted, broken, cases, tmp_path / "halted", epochs=4, **SETTINGS)
    assert len(find_checkpoints(tmp_path / "halted")) == 1

    again = build(schema)
    log = fit(again, cases, cases, tmp_path / "halted", epochs=4, **SETTINGS)
    assert [entry["epoch"] for entry in log if "eval_loss" in entry] == [1, 2, 3, 4]
    expected = state(whole)
    assert all(torch.equal(value, expected[name]) for name, value in state(again).items())


def test_equal_seeds_train_equal_models(schema, build, cases, tmp_path):
    models = []
    for seed in (0, 0, 1):
        models.append(build(schema))
        fit(models[-1], cases, None, tmp_path, epochs=1, seed=seed, **SETTINGS)
    first, same, other = (state(model)["head.2.weight"] for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_rows_without_an_image_train(schema, build, cases, tmp_path):
    class Gappy(TensorCases):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "is_present": {"image": torch.tensor(index % 2 == 0)}}

    gappy = Gappy(cases.image, cases.codes, cases.labels)
    log = fit(build(schema), gappy, gappy, tmp_path, epochs=1, **SETTINGS)
    assert log[0]["loss"] > 0


def test_a_backbone_learns_slowly_and_vectors_do_not_decay(schema, build):
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32)
    model = build(schema, visual=visual)
    groups = parameter_groups(model, 1e-3, 0.05)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(1 for _ in model.parameters())
    assert found[id(visual.backbone.blocks[0].mlp.fc1.weight)] == (1e-4, 0.05)
    assert found[id(visual.backbone.norm.weight)] == (1e-4, 0.0)
    assert found[id(visual.project.weight)] == (1e-3, 0.05)
    assert found[id(model.fusion.intermediate)] == (1e-3, 0.0)
    assert found[id(model.tokenizer.value_vectors)] == (1e-3, 0.0)


def test_a_frozen_backbone_is_in_no_group(schema, build):
    visual = VisualTokenizer("test_vit", 38, pretrained=False, frozen=True, image_size=32)
    groups = parameter_groups(build(schema, visual=visual), 1e-3, 0.05)
    trained = {id(p) for group in groups for p in group["params"]}
    assert not trained & {id(p) for p in visual.backbone.parameters()}
