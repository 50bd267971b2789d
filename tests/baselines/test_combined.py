import numpy as np
import pytest
import torch
from torch import nn

from alignedfusion import Attribute, AttributeSchema
from alignedfusion.baselines import ImageAndTableBoosting, JointSelfAttention, NaiveBayes, SecondStageSVM, TwoExperts
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation import predict
from alignedfusion.modules.outputs import ClassifierOutput

COLOURS = AttributeSchema([Attribute("colour", values=range(3)), Attribute("noise", values=range(5))])


class ImageModel(nn.Module):
    """A model whose logits are its image, and that records its inputs."""

    visual = None

    def __init__(self):
        super().__init__()
        self.register_buffer("device", torch.zeros(1))
        self.calls = []

    def forward(self, image, codes, **masks):
        self.calls.append((image, codes, masks))
        return ClassifierOutput(logits=image)


class ConstantModel(ImageModel):
    """A model with fixed logits, which has no image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, image, codes, **masks):
        super().forward(image, codes, **masks)
        return ClassifierOutput(logits=self.logits)


def test_two_experts_multiply_their_probabilities_by_hand():
    image = torch.tensor([[0.5, 0.25, 0.25]]).log() + 5.0  # logits need not be normalised
    model = TwoExperts(ImageModel(), ConstantModel(torch.tensor([[0.2, 0.6, 0.2]]).log() - 3.0))
    logits = model(image, torch.zeros(1, 2, dtype=torch.int64)).logits
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.1, 0.15, 0.05]]))
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([[1 / 3, 1 / 2, 1 / 6]]))


def test_the_prior_is_counted_once_by_hand():
    image = torch.tensor([[0.5, 0.25, 0.25]]).log()
    counts = torch.tensor([59, 29, 9])  # with one more of each, 0.6, 0.3 and 0.1
    model = TwoExperts(ImageModel(), ConstantModel(torch.tensor([[0.2, 0.6, 0.2]]).log()), class_counts=counts)
    logits = model(image, torch.zeros(1, 2, dtype=torch.int64)).logits
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.1 / 0.6, 0.15 / 0.3, 0.05 / 0.1]]))
    # An expert that returns the prior adds nothing.
    silent = TwoExperts(ImageModel(), ConstantModel(torch.tensor([[0.6, 0.3, 0.1]]).log()), class_counts=counts)
    torch.testing.assert_close(silent(image, torch.zeros(1, 2, dtype=torch.int64)).logits, image)


def test_images_and_their_masks_go_to_the_image_model_alone():
    image, codes = torch.randn(7, 3), torch.zeros(7, 2, dtype=torch.int64)
    model = TwoExperts(ImageModel(), ConstantModel(torch.zeros(7, 3)))
    is_present = {"image": torch.arange(7) < 5}
    model(image, codes, is_present=is_present)
    (passed_image, _, masks), (no_image, passed_codes, others) = (
        model.image_model.calls[0],
        model.attribute_model.calls[0],
    )
    assert torch.equal(passed_image, image)
    assert masks == {"is_present": is_present}
    assert no_image is None
    assert torch.equal(passed_codes, codes)
    assert others == {}


def test_a_trained_classifier_and_a_table_are_two_experts(schema, build, batch):
    image, codes, labels = batch(schema)
    cases = TensorCases(image, codes, labels)
    fusion = JointSelfAttention(38, modalities=("image",), num_heads=2)
    sees, knows = build(schema, fusion=fusion, unimodal_heads=False), NaiveBayes(schema, 17).fit(cases)
    model = TwoExperts(sees, knows)
    assert model.visuals == sees.visuals
    found, first, second = (predict(each, cases, [codes], progress=False)[0] for each in (model, sees, knows))
    product = first * second
    np.testing.assert_allclose(found, product / product.sum(1, keepdims=True), atol=1e-6)


def make_cases(labels, *, image, colour, seed, classes=3):
    """Cases whose image model is right by a small margin or random, and whose colour is the class or random."""
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    guess = torch.randn(count, classes, generator=generator)
    logits = 0.5 * nn.functional.one_hot(labels, classes) if image else guess
    shade = labels if colour else torch.randint(3, (count,), generator=generator)
    noise = torch.randint(5, (count,), generator=generator)
    return TensorCases(logits, torch.stack([shade, noise], dim=1), labels)


def draw(count, seed, classes=3):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def accuracy(model, cases, weight=None):
    if weight is not None:
        model.weight = weight
    return (model(cases.image, cases.codes).logits.argmax(1) == cases.labels).double().mean().item()


def in_tenths(weight):
    return any(weight == pytest.approx(tenth / 10) for tenth in range(11))


def test_the_svm_has_no_weight_if_only_the_image_model_is_right():
    # In training both are random, so the SVM fits noise; in validation the image model is always right.
    train = make_cases(draw(83, 1), image=False, colour=False, seed=3)
    valid = make_cases(draw(61, 2), image=True, colour=False, seed=4)
    model = SecondStageSVM(ImageModel(), COLOURS).fit(train, valid)
    assert in_tenths(model.weight)
    assert model.weight > 0.5
    assert accuracy(model, valid) == 1.0
    assert accuracy(model, valid, weight=0.0) < 0.7


def test_the_svm_has_weight_if_the_metadata_decide():
    train = make_cases(draw(83, 1), image=False, colour=True, seed=3)
    valid = make_cases(draw(61, 2), image=False, colour=True, seed=4)
    model = SecondStageSVM(ImageModel(), COLOURS).fit(train, valid)
    assert in_tenths(model.weight)
    assert model.weight < 0.5
    assert accuracy(model, valid) == 1.0
    assert accuracy(model, valid, weight=1.0) < 0.5


def test_no_other_weight_is_better_on_the_validation_cases():
    train = make_cases(draw(83, 1), image=False, colour=True, seed=3)
    valid = make_cases(draw(61, 2), image=False, colour=True, seed=4)
    # Some colours are wrong, so that neither is always right.
    valid.codes[::3, 0] = (valid.codes[::3, 0] + 1) % 3
    model = SecondStageSVM(ImageModel(), COLOURS).fit(train, valid)
    chosen, best = model.weight, accuracy(model, valid)
    every = [accuracy(model, valid, weight=tenth / 10) for tenth in range(11)]
    assert best == max(every) > min(every)
    assert round(chosen * 10) == every.index(best)


@pytest.mark.parametrize("classes", [2, 3])
def test_results_are_probabilities_over_all_classes(classes):
    train = make_cases(draw(83, 1, classes), image=False, colour=True, seed=3, classes=classes)
    valid = make_cases(draw(61, 2, classes), image=False, colour=True, seed=4, classes=classes)
    model = SecondStageSVM(ImageModel(), COLOURS).fit(train, valid)
    for weight in (0.0, 0.3, 1.0):
        model.weight = weight
        logits = model(valid.image, valid.codes).logits
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.exp().sum(1), torch.ones(61))
    torch.testing.assert_close(logits.exp(), valid.image.softmax(-1))
    model.weight = 0.0
    assert accuracy(model, valid) == 1.0


def test_a_class_without_training_cases_is_predicted_by_the_image_model_only():
    train = make_cases(draw(83, 1) * 2, image=False, colour=False, seed=3, classes=5)  # classes 0, 2 and 4
    model = SecondStageSVM(ImageModel(), COLOURS).fit(train, train)
    model.weight = 0.3
    found = model(train.image, train.codes).logits
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp()[:, [1, 3]], 0.3 * train.image.softmax(-1)[:, [1, 3]])


def test_the_second_stage_is_called_like_a_model_and_leaves_the_first_as_it_is(schema, build, batch):
    image, codes, labels = batch(schema, rows=53)
    cases = TensorCases(image, codes, labels % 3)
    fusion = JointSelfAttention(38, modalities=("image",), num_heads=2)
    first = build(schema, fusion=fusion, unimodal_heads=False)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    model = SecondStageSVM(first, schema).fit(cases, cases)
    assert model.visuals == first.visuals
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    found = predict(model, cases, [codes, torch.full_like(codes, -1)], progress=False)
    assert found.shape == (2, 53, 17)
    np.testing.assert_allclose(found.sum(2), 1, atol=1e-6)


def test_trees_on_image_and_table_use_both_and_handle_what_is_missing():
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(240) % 4
    # The image separates the classes {0, 1} and {2, 3}, the colour the even classes and the odd ones.
    tokens = torch.randn(240, 5, 7, generator=generator) + 4.0 * (labels // 2)[:, None, None]
    codes = torch.stack([labels % 2, torch.randint(5, (240,), generator=generator)], dim=1)
    cases = TensorCases({"image": tokens}, codes, labels)
    model = ImageAndTableBoosting(COLOURS, 5, components=3).fit(cases)
    found = predict(model, cases, [codes, torch.full_like(codes, -1)], progress=False)
    assert (found[0].argmax(1) == labels.numpy()).mean() > 0.99
    assert (found[1].argmax(1) // 2 == (labels // 2).numpy()).all()  # without attributes the image is left
    assert found[:, :, 4].max() < 1e-6  # a class without a training case
    absent = {"image": torch.zeros(240, dtype=torch.bool)}
    without = model({"image": tokens}, codes, is_present=absent).logits
    assert torch.equal(without, model({"image": torch.randn(240, 5, 7)}, codes, is_present=absent).logits)
    silent = model({"image": tokens}, codes, is_present={"report": absent["image"]}).logits.softmax(-1)
    np.testing.assert_allclose(silent, found[1], atol=1e-6)
    with pytest.raises(ValueError, match=r"image 'image' must be tokens \(n, N, F\), got \(240, 35\)"):
        ImageAndTableBoosting(COLOURS, 4).fit(TensorCases({"image": tokens.flatten(1)}, codes, labels))


def test_models_of_another_task_than_classes_are_refused(schema, build):
    model = build(schema, task="multilabel")
    with pytest.raises(
        ValueError, match="combines the probabilities of classes, and a model has the task 'multilabel'"
    ):
        TwoExperts(ImageModel(), model)
    with pytest.raises(ValueError, match="a model has the task 'multilabel'"):
        SecondStageSVM(model, schema)
