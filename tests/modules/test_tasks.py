"""Tasks beside one of several classes: what must hold of their losses, priors and outputs, alone and in a classifier."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion import AlignedFusionClassifier
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.modules.tasks import Multiclass, Multilabel, Regression, build_task
from alignedfusion.presets import standard

NAMES = ("edema", "effusion", "opacity", "nodule", "mass")


def make(schema, task, names=NAMES):
    """A small model on precomputed tokens, in evaluation mode: without dropout and hidden attributes."""
    torch.manual_seed(0)
    return standard(schema, names, backbone=None, num_features=13, dim=64, task=task).eval()


def draw_labels(task, rows=7, seed=0, unknown=0.3):
    """Labels of any task, some of them unknown; -100 is the unknown label that a classifier accepts as a class."""
    generator = torch.Generator().manual_seed(seed)
    is_unknown = torch.rand(rows, len(NAMES), generator=generator) < unknown
    if task == "multiclass":
        return torch.randint(len(NAMES), (rows,), generator=generator).masked_fill(is_unknown[:, 0], -100)
    if task == "multilabel":
        return torch.randint(2, is_unknown.shape, generator=generator).masked_fill(is_unknown, -1)
    return (3 + 2 * torch.randn(is_unknown.shape, generator=generator)).masked_fill(is_unknown, torch.nan)


UNKNOWN = {"multiclass": -100, "multilabel": -1, "regression": torch.nan}


def test_multilabel_by_hand():
    task = Multilabel(("a", "b", "c"))
    logits = torch.tensor([[[math.log(3.0), math.log(3.0), 5.0]]])
    labels = torch.tensor([[1, 0, -1]])
    torch.testing.assert_close(task.losses(logits, labels), torch.tensor([[math.log(4 / 3), math.log(4.0), 0.0]]))
    assert task.loss(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    # Two positives and one negative, and one of each added.
    prior = task.learn_prior(torch.tensor([[1, 0, -1], [1, 0, -1], [0, 0, -1], [-1, 0, -1]]), torch.ones(4))
    torch.testing.assert_close(prior, torch.tensor([3 / 2, 1 / 5, 1.0]).log())
    assert task.decide(torch.tensor([-0.1, 0.0, 0.1])).tolist() == [0, 0, 1]


def test_regression_by_hand():
    task = Regression(("age", "size"))
    labels = torch.tensor([[1.0, 10.0], [3.0, torch.nan], [torch.nan, 14.0], [5.0, 12.0]])
    assert task.learn_prior(labels, torch.ones(4)).tolist() == [0, 0]
    torch.testing.assert_close(task.mean, torch.tensor([3.0, 12.0]))
    torch.testing.assert_close(task.std, torch.tensor([8 / 3, 8 / 3]).sqrt())
    logits = torch.tensor([[[0.0, 1.0]]])
    torch.testing.assert_close(task.losses(logits, labels[1:2]), torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(task.losses(logits, labels[3:4])[0, 1], torch.tensor(0.5))
    torch.testing.assert_close(task.activate(logits)[0, 0], torch.tensor([3.0, 12 + math.sqrt(8 / 3)]))


@pytest.mark.parametrize("task", ["multilabel", "regression", "multiclass"])
def test_outputs_go_back_to_logits(task):
    task = build_task(task, NAMES)
    if task.name == "regression":
        task.learn_prior(draw_labels("regression"), torch.ones(7))
    outputs = task.activate(torch.randn(7, len(NAMES)))
    torch.testing.assert_close(task.activate(task.deactivate(outputs)), outputs)


def test_weights_count_cases_as_often():
    labels, counts = draw_labels("multilabel"), torch.tensor([1, 3, 2, 1, 4, 2, 1])
    repeated = labels.repeat_interleave(counts, 0)
    task = Multilabel(NAMES)
    torch.testing.assert_close(task.learn_prior(labels, counts), task.learn_prior(repeated, torch.ones(14)))
    once, often = Regression(NAMES), Regression(NAMES)
    values = draw_labels("regression")
    once.learn_prior(values, counts)
    often.learn_prior(values.repeat_interleave(counts, 0), torch.ones(14))
    torch.testing.assert_close(once.std, often.std)


# A set of binary models


def test_several_labels_are_a_set_of_binary_models(schema, batch):
    image, codes, _ = batch(schema)
    labels = draw_labels("multilabel", unknown=0.0)
    model = make(schema, "multilabel")
    model.reconstructor = None  # its loss would count once in the model, and once in each binary model
    model.set_prior(labels)
    out = model(image, codes, labels)
    out.loss.backward()
    losses = []
    for label in range(len(NAMES)):
        binary = make(schema, "multilabel", (NAMES[label],))
        binary.reconstructor = None
        binary.load_state_dict(binary_state(model, label))
        alone = binary(image, codes, labels[:, [label]])
        torch.testing.assert_close(alone.logits[:, 0], out.logits[:, label])
        alone.loss.backward()
        losses.append(alone.loss)
        for head in ("head.2", "unimodal_heads.heads.image.2", "unimodal_heads.heads.report.2"):
            whole, own = model.get_submodule(head).weight.grad, binary.get_submodule(head).weight.grad
            torch.testing.assert_close(whole[label], own[0] / len(NAMES), msg=head)
    torch.testing.assert_close(out.loss, torch.stack(losses).mean())


def binary_state(model, label):
    """The state of a model of one label, from that of a model of several."""
    count = len(NAMES)
    return {
        name: value[label : label + 1] if value.ndim and len(value) == count and is_of_labels(name) else value
        for name, value in model.state_dict().items()
    }


def is_of_labels(name):
    return name == "log_prior" or (name.endswith(("2.weight", "2.bias")) and "head" in name)


def test_one_label_is_two_classes(schema, batch):
    image, codes, _ = batch(schema)
    labels = torch.tensor([1, 0, 0, 1, 0, 0, 0])
    one, two = make(schema, "multilabel", ("melanoma",)), make(schema, "multiclass", ("other", "melanoma"))
    state = {
        name: torch.cat([torch.zeros_like(value), value]) if is_of_labels(name) else value
        for name, value in one.state_dict().items()
    }
    two.load_state_dict(state)
    one.set_prior(labels[:, None])
    two.set_prior(labels)
    single, double = one(image, codes, labels[:, None]), two(image, codes, labels)
    torch.testing.assert_close(single.loss, double.loss)
    torch.testing.assert_close(one.activate(single.logits)[:, 0], two.activate(double.logits)[:, 1])
    for exponent in (0.0, 0.6, 1.0):
        one.prior_exponent = two.prior_exponent = exponent
        assert one.decide(single.logits)[:, 0].tolist() == two.decide(double.logits).tolist()


# Unknown labels


@pytest.mark.parametrize("name", ["multiclass", "multilabel", "regression"])
@given(data=st.data())
def test_unknown_rows_are_as_if_they_were_not_there(name, data):
    seed = data.draw(st.integers(0, 10_000))
    drop = torch.tensor(data.draw(st.lists(st.booleans(), min_size=23, max_size=23)))
    labels = draw_labels(name, rows=23, seed=seed)
    unknown = labels.clone()
    unknown[drop] = UNKNOWN[name]
    logits = torch.randn(23, 2, len(NAMES), generator=torch.Generator().manual_seed(seed), requires_grad=True)
    first, second = build_task(name, NAMES), build_task(name, NAMES)
    weights = torch.rand(23, generator=torch.Generator().manual_seed(seed)) + 0.5
    if name != "regression" or (first.is_known(unknown).sum(0) > 1).all():
        priors = first.learn_prior(unknown, weights), second.learn_prior(labels[~drop], weights[~drop])
        torch.testing.assert_close(*priors)
    losses = first.loss(logits, unknown, weights), second.loss(logits[~drop], labels[~drop], weights[~drop])
    torch.testing.assert_close(*losses)
    (gradient,) = torch.autograd.grad(losses[0], logits)
    assert not gradient[drop].any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_an_unknown_label_does_not_change_those_of_its_case(name):
    task, labels, logits = build_task(name, NAMES), draw_labels(name, unknown=0.0), torch.randn(7, 3, len(NAMES))
    unknown = labels.clone()
    unknown[:, 1] = UNKNOWN[name]
    losses = task.losses(logits, unknown)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(losses[:, others], task.losses(logits, labels)[:, others])
    torch.testing.assert_close(task.loss(logits, unknown), losses[:, others].mean())


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_a_batch_of_unknown_labels_has_a_loss_of_zero(name, schema, batch):
    image, codes, _ = batch(schema)
    model = make(schema, name)
    labels = torch.full((7, len(NAMES)), UNKNOWN[name])
    out = model(image, codes, labels)
    assert out.loss.item() == 0.0
    out.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# Numbers


@given(st.floats(0.1, 1000), st.floats(-1000, 1000), st.integers(0, 1000))
def test_the_unit_of_a_number_does_not_matter(factor, shift, seed):
    labels, logits = draw_labels("regression", seed=seed, rows=11, unknown=0.2), torch.randn(11, 1, len(NAMES))
    first, second = Regression(NAMES), Regression(NAMES)
    first.learn_prior(labels, torch.ones(11))
    second.learn_prior(labels * factor + shift, torch.ones(11))
    torch.testing.assert_close(
        second.loss(logits, labels * factor + shift), first.loss(logits, labels), rtol=1e-2, atol=0
    )
    torch.testing.assert_close(second.activate(logits), first.activate(logits) * factor + shift, rtol=1e-4, atol=1e-2)


def test_a_sum_over_attributes_is_learned(schema):
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(-1, n, (256,), generator=generator) for n in schema.num_values], dim=1)
    effects = [torch.randn(n + 1, generator=generator) for n in schema.num_values]
    target = 40 + 10 * sum(effect[column + 1] for effect, column in zip(effects, codes.T, strict=True))
    torch.manual_seed(0)
    model = standard(schema, ("age",), images=(), dim=64, task="regression")
    model.hiding = HideAttributes(0.0)
    model.set_prior(target[:192, None])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(60):
        optimizer.zero_grad()
        model(None, codes[:192], target[:192, None]).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval().decide(model(None, codes[192:]).logits)[:, 0]
    assert (found - target[192:]).square().mean() < 0.05 * target.var()


# In a classifier


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_the_task_is_saved(name, schema, batch, tmp_path):
    image, codes, _ = batch(schema)
    model = make(schema, name)
    model.set_prior(draw_labels(name, rows=50))
    model.save_pretrained(tmp_path)
    loaded = AlignedFusionClassifier.from_pretrained(tmp_path)
    assert (loaded.task, loaded.class_names) == (name, NAMES)
    outputs = [m.activate(m(image, codes).logits) for m in (model, loaded)]
    assert torch.equal(*outputs)


def test_a_model_of_numbers_without_images_predicts_their_mean(schema):
    model = make(schema, "regression")
    model.set_prior(draw_labels("regression", rows=50))
    model.branch_weights.zero_()
    out = model(torch.randn(3, 11, 13), torch.full((3, 3), -1))
    torch.testing.assert_close(model.activate(out.logits), model.targets.mean.expand(3, -1))


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("multilabel", torch.zeros(7, dtype=torch.int64), r"shape \(7, 5\): one column for each of .*got shape \(7,\)"),
        ("multilabel", torch.zeros(7, 5), r"int64, .*got torch.float32: labels.nan_to_num\(-1\).long\(\)"),
        ("multilabel", torch.zeros(7, 5, dtype=torch.bool), r"got torch.bool: labels.long\(\)"),
        ("multilabel", [[0, 1]], r"got list: torch.tensor\(labels\)"),
        ("multilabel", torch.tensor([[0, 0, 0, 2, 0]] * 7), "label 2 of 'nodule' in row 0 is out of range: labels are 0, 1"),
        ("regression", torch.zeros(7, 5, dtype=torch.int64), r"got torch.int64: labels.float\(\)"),
        ("regression", torch.full((7, 5), torch.inf), "label inf of 'edema' in row 0 is out of range: labels are finite"),
        ("multiclass", torch.zeros(7, 5), "labels must be class indices"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_the_task_are_refused(task, labels, message, schema, batch):
    image, codes, _ = batch(schema)
    with pytest.raises(ValueError, match=message):
        make(schema, task)(image, codes, labels)


def test_one_column_of_labels_has_its_fix(schema, batch):
    image, codes, _ = batch(schema)
    with pytest.raises(ValueError, match=r"got shape \(7,\): labels\[:, None\]"):
        make(schema, "multilabel", ("edema",))(image, codes, torch.zeros(7, dtype=torch.int64))


def test_other_errors_name_the_task(schema):
    with pytest.raises(
        ValueError, match=r"task must be one of \['multiclass', 'multilabel', 'regression'\], got 'ranking'"
    ):
        make(schema, "ranking")
    with pytest.raises(
        ValueError, match=r"class counts belong to the task 'multiclass', .*'multilabel': set_prior\(labels\)"
    ):
        make(schema, "multilabel").set_class_counts(range(5))
    with pytest.raises(ValueError, match=r"targets \['opacity'\] have fewer than two different known values"):
        make(schema, "regression").set_prior(draw_labels("regression") * torch.tensor([1.0, 1.0, torch.nan, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"labels must be class indices \(n,\), int64; got torch.float32"):
        make(schema, "multiclass").set_prior(torch.zeros(7))


def test_set_prior_counts_classes_as_set_class_counts_does(schema):
    model, other = make(schema, "multiclass"), make(schema, "multiclass")
    model.set_prior(torch.tensor([0, 1, 1, 4, -1, -100]))
    other.set_class_counts([1, 2, 0, 0, 1])
    torch.testing.assert_close(model.log_prior, other.log_prior)
    assert isinstance(model.targets, Multiclass)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_keep_their_unit_in_half_precision(dtype):
    """The mean is far from zero: bfloat16 would round it by more than the deviation, and float16 ends before it."""
    task = Regression(("dose",))
    task.learn_prior(torch.tensor([[999990.0], [1000010.0]]), torch.ones(2))
    task.to(dtype)
    found = task.activate(torch.tensor([[-1.0], [0.5]], dtype=dtype))
    assert found.tolist() == [[999990.0], [1000005.0]]
    assert task.decide(torch.zeros(1, 1, dtype=dtype)).tolist() == [[1000000.0]]
    losses = task.losses(torch.zeros(1, 1, 1), torch.tensor([[1000010.0]]))
    assert losses.tolist() == [[0.5]]
