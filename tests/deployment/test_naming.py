import numpy as np
import pytest
import torch

from alignedfusion import AlignedFusionClassifier, AttributeTokenizer, IntermediateTokenFusion, MaskedTokenReconstructor
from alignedfusion.deployment.naming import name_output, prediction_cells, prediction_columns


@pytest.fixture
def make(schema):
    def make(task, names):
        return AlignedFusionClassifier(
            torch.nn.Identity(),
            AttributeTokenizer(schema, 38),
            IntermediateTokenFusion(38, num_heads=2),
            MaskedTokenReconstructor(38),
            len(names),
            class_names=names,
            task=task,
        ).eval()

    return make


CODES = np.array([[0, 1, -1], [-1, -1, -1]])


def test_labels_are_named_in_one_text_and_chosen_at_a_half(make):
    model = make("multilabel", ("oedema", "effusion"))
    outputs = np.array([[0.7, 0.51], [0.2, 0.5]])
    assert prediction_columns(model) == ["predicted", "p(oedema)", "p(effusion)"]
    assert prediction_cells(model, outputs, CODES) == [["oedema; effusion", 0.7, 0.51], ["", 0.2, 0.5]]


def test_help_for_rare_labels_lowers_their_threshold(make):
    model = make("multilabel", ("oedema", "effusion"))
    model.set_prior(torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1]]))  # log odds with one more of each: log 4/2, log 2/4
    model.prior_exponent = 1.0
    assert prediction_columns(model)[:2] == ["predicted", "most_probable"]
    rows = prediction_cells(model, np.array([[0.6, 0.4], [0.7, 0.3]]), CODES)
    assert [row[:2] for row in rows] == [["effusion", "oedema"], ["oedema", "oedema"]]


def test_numbers_are_in_their_unit_with_six_digits_of_their_spread(make):
    model = make("regression", ("age", "size", "dose"))
    model.targets.std.copy_(torch.tensor([12.0, 0.002, 3.0]))
    assert prediction_columns(model) == ["predicted(age)", "predicted(size)", "predicted(dose)"]
    outputs = np.array([[63.456789, 0.0123456789, 1000012.3456789]])  # doses differ in their last digits only
    assert prediction_cells(model, outputs, CODES[:1]) == [[63.4568, 0.01234568, 1000012.34568]]


def test_classes_have_their_name_and_their_probability(make):
    model = make("multiclass", ("nevus", "melanoma"))
    rows = prediction_cells(model, np.array([[0.25, 0.75], [0.9, 0.1]]), CODES)
    assert rows == [["melanoma", 0.25, 0.75], ["nevus", 0.9, 0.1]]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("multiclass", {"predicted": "a", "classes": {"a": 0.7311, "b": 0.2689}}),
        ("multilabel", {"predicted": ["a"], "labels": {"a": 0.7311, "b": 0.5}}),
        ("regression", {"predicted": {"a": 1.0, "b": 0.0}}),
    ],
)
def test_one_case_as_json(make, schema, task, expected):
    model = make(task, ("a", "b"))
    reconstruction = torch.zeros(1, 3, 5)
    found = name_output(
        model, torch.tensor([[0, -1, 3]]), {"logits": torch.tensor([[1.0, 0.0]]), "reconstruction": reconstruction}
    )
    assert found == {**expected, "attributes": {"ulceration": {"absent": 0.2, "present": 0.2}}}


def test_numbers_are_standardised_only_inside(make):
    model = make("regression", ("age",))
    model.set_prior(torch.tensor([[40.0], [60.0], [float("nan")]]))
    found = name_output(model, torch.zeros(1, 3, dtype=torch.int64), {"logits": torch.tensor([[1.5]])})
    assert found == {"predicted": {"age": 65.0}, "attributes": {}}
