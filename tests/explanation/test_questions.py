import math

import pytest
import torch
from torch import nn

from alignedfusion import UNKNOWN, Attribute, AttributeSchema
from alignedfusion.attributes import REPORT
from alignedfusion.datasets import phantom
from alignedfusion.explanation import next_questions
from alignedfusion.explanation.questions import information
from alignedfusion.presets import standard


def test_information_by_hand():
    values = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    certain = torch.eye(2)
    half = torch.full((2, 2), 0.5)
    predictions = torch.stack([certain, certain, certain, half])
    quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    torch.testing.assert_close(information(values, predictions), torch.tensor([1.0, quarter, 0.0, 0.0]))


@pytest.mark.parametrize("modalities", [("image", REPORT), ("clinical", "dermoscopy", REPORT)])
def test_every_answer_is_the_prediction_with_that_value(modalities, schema, build, batch):
    image, codes, _ = batch(schema)
    codes[0], codes[1] = UNKNOWN, torch.tensor([2, 1, 4])
    model = build(schema, modalities=modalities).eval()
    images = {m: image + i for i, m in enumerate(model.image_modalities)}
    is_present = {model.image_modalities[0]: torch.arange(7) != 3}
    asked = next_questions(model, images, codes, is_present=is_present, batch_size=3)

    out = model(images, codes, is_present=is_present)
    now = out.logits.softmax(-1)
    torch.testing.assert_close(asked.probabilities, now)
    assert torch.equal(asked.is_open, codes == UNKNOWN)
    for row in range(7):
        for attribute, number in enumerate(schema.num_values):
            assert not asked.values[row, attribute, number:].any()
            if codes[row, attribute] != UNKNOWN:
                assert asked.values[row, attribute].tolist() == [v == codes[row, attribute] for v in range(5)]
                torch.testing.assert_close(asked.predictions[row, attribute], now[row].expand(5, -1))
                continue
            torch.testing.assert_close(asked.values[row, attribute], out.reconstruction[row, attribute].softmax(-1))
            for value in range(number):
                answered = codes.clone()
                answered[row, attribute] = value
                expected = model(images, answered, is_present=is_present).logits[row].softmax(-1)
                torch.testing.assert_close(asked.predictions[row, attribute, value], expected, atol=1e-5, rtol=1e-4)


def test_bits_are_bounded_and_order_puts_the_open_attributes_first(schema, build, batch):
    image, codes, _ = batch(schema)
    asked = next_questions(build(schema), image, codes)
    entropy = torch.special.entr(asked.values).sum(-1) / math.log(2)
    assert (asked.bits >= 0).all()
    assert (asked.bits <= entropy + 1e-5).all()  # no answer informs about the class more than about itself
    assert not asked.bits[~asked.is_open].any()
    assert torch.equal(asked.order.sort(1).values, torch.arange(3).expand(7, -1))
    for row in range(7):
        ranked = asked.order[row]
        count = int(asked.is_open[row].sum())
        assert asked.is_open[row, ranked[:count]].all()
        assert (asked.bits[row, ranked[:count]].diff() <= 0).all()


def test_a_case_without_a_report_is_asked_as_one_with_an_empty_report(schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema)
    absent = next_questions(model, image, codes, is_present={REPORT: torch.zeros(7, dtype=torch.bool)})
    empty = next_questions(model, image, torch.full_like(codes, UNKNOWN))
    is_value = torch.arange(5) < torch.tensor(schema.num_values)[:, None]
    torch.testing.assert_close(absent.predictions[:, is_value], empty.predictions[:, is_value])
    torch.testing.assert_close(absent.values, empty.values)
    torch.testing.assert_close(absent.bits, empty.bits, atol=1e-5, rtol=1e-4)
    assert absent.is_open.all()


def test_a_model_that_cannot_be_asked_is_refused(schema, build, batch):
    image, codes, _ = batch(schema)
    with pytest.raises(ValueError, match="one of several classes, and the model's task is 'multilabel': use"):
        next_questions(build(schema, task="multilabel"), image, codes)
    with pytest.raises(ValueError, match="this model has no reconstructor"):
        next_questions(build(schema, fill=None), image, codes)
    with pytest.raises(TypeError, match="must be an AlignedFusionClassifier, got Linear"):
        next_questions(nn.Linear(2, 3), image, codes)


@pytest.fixture(scope="module")
def twice():
    """A model of the phantom's attributes, in which a tenth one repeats the growth; and its schema."""
    schema = AttributeSchema([*phantom.SCHEMA, Attribute("change", values=("stable", "growing"))])
    made = phantom.make(1000, seed=1, image_size=4)
    codes = torch.cat([made.codes, made.codes[:, 4:5]], dim=1)
    torch.manual_seed(0)
    model = standard(schema, phantom.CLASS_NAMES, images=(), dim=64)
    model.hiding.p = 0.5
    model.set_class_counts(made.labels.bincount())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=200)
    for _ in range(10):
        for rows in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            model(None, codes[rows], made.labels[rows]).loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval(), schema


def test_values_that_others_imply_gain_nothing(twice):
    model, schema = twice
    codes = torch.full((2, len(schema)), UNKNOWN)
    codes[:, 4] = torch.tensor([0, 1])
    before = next_questions(model, None, torch.full_like(codes, UNKNOWN)).bits[0]
    after = next_questions(model, None, codes)
    assert before[9] > 0.05
    assert after.bits[:, 9].max() < before[9] / 10
    assert after.order[:, 8].tolist() == [9, 9]  # the last of the open ones


def test_bits_agree_with_the_exact_information(twice):
    model, schema = twice
    empty = torch.full((1, 9), UNKNOWN)
    exact = torch.zeros(9)
    for attribute, number in enumerate(phantom.SCHEMA.num_values):
        codes = empty.repeat(number, 1)
        codes[:, attribute] = torch.arange(number)
        joint = phantom.likelihood(codes) / 4  # (V, C)
        exact[attribute] = information(joint.sum(1), joint / joint.sum(1, keepdim=True))
    bits = next_questions(model, None, torch.full((1, len(schema)), UNKNOWN)).bits[0, :9]
    assert exact.argmax() == bits.argmax()
    assert float(torch.corrcoef(torch.stack([exact, bits]))[0, 1]) > 0.9
