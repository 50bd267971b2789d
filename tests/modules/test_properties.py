"""Invariants of the whole model with missing inputs: random schemas, shapes, masks and precisions."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignedfusion import UNKNOWN, Attribute, AttributeSchema

BOOLEANS = st.sampled_from([True, False])


@dataclass
class Case:
    """A random schema, and a batch with missing cells, images and reports."""

    schema: AttributeSchema
    image: Tensor
    codes: Tensor
    labels: Tensor
    masks: dict

    def forward(self, model, *, image=None, codes=None, rows=slice(None)):
        masks = {
            kind: mask[rows] if kind == "is_hidden" else {m: each[rows] for m, each in mask.items()}
            for kind, mask in self.masks.items()
        }
        image, codes = self.image if image is None else image, self.codes if codes is None else codes
        return model(image[rows], codes[rows], self.labels[rows], **masks)


@st.composite
def cases(draw):
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rows, patches = draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def pattern(*shape):
        count = torch.Size(shape).numel()
        return torch.tensor(draw(st.lists(BOOLEANS, min_size=count, max_size=count))).reshape(shape)

    codes = [[draw(st.integers(UNKNOWN, n - 1)) for n in counts] for _ in range(rows)]
    torch.manual_seed(draw(st.integers(0, 99)))
    return Case(
        AttributeSchema(Attribute(f"attribute {i}", values=range(n)) for i, n in enumerate(counts)),
        torch.randn(rows, patches, 13),
        torch.tensor(codes),
        torch.randint(17, (rows,)),
        {
            "is_valid": {"image": pattern(rows, patches)} if draw(BOOLEANS) else {},
            "is_present": {m: pattern(rows) for m in ("image", "report") if draw(BOOLEANS)},
            "is_hidden": pattern(rows, len(counts)),
        },
    )


@pytest.mark.parametrize("reconstruct", ["once", "two_pass", "none"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@settings(max_examples=10)
@given(case=cases())
def test_any_pattern_gives_finite_outputs_and_gradients(precision, reconstruct, build, case, assert_trainable):
    model = build(case.schema, fill=reconstruct)
    model = model.to(torch.bfloat16) if precision == "bfloat16" else model
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        out = case.forward(model)
    assert_trainable(model, out)


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
@pytest.mark.parametrize("reconstruct", ["once", "two_pass", "none"])
@given(case=cases(), shift=st.integers(1, 4))
def test_what_is_hidden_padded_or_absent_changes_nothing(reconstruct, build, case, shift, same):
    model = build(case.schema, fill=reconstruct)
    counts = torch.tensor(case.schema.num_values)
    is_secret = case.masks["is_hidden"] & (case.codes != UNKNOWN)
    image = case.image.clone()
    for m, is_present in case.masks["is_present"].items():
        if m == "report":
            is_secret |= ~is_present[:, None]
        else:
            image[~is_present] = torch.nan
    if case.masks["is_valid"]:
        image[~case.masks["is_valid"]["image"]] = torch.inf
    others = torch.where(is_secret, (case.codes + shift) % counts, case.codes)
    # A hidden cell that becomes unmentioned leaves the loss, but the input stays the same.
    gone = case.codes.masked_fill(is_secret, UNKNOWN)
    expected = case.forward(model)
    assert same(case.forward(model, image=image), expected)
    assert same(case.forward(model, codes=others), expected)
    assert same(case.forward(model, codes=gone), expected)


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
@given(case=cases(), data=st.data())
def test_rows_do_not_affect_each_other(build, case, data):
    model, row = build(case.schema), data.draw(st.integers(0, len(case.codes) - 1))
    together, alone = case.forward(model), case.forward(model, rows=slice(row, row + 1))
    for field in ("logits", "reconstruction", "intermediate"):
        torch.testing.assert_close(alone[field][0], together[field][row], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.* is False everywhere")
@given(case=cases(), data=st.data())
def test_permuted_attributes_are_permuted_and_nothing_else(build, case, data):
    order = list(data.draw(st.permutations(range(len(case.schema)))))
    model = build(case.schema)
    other = build(AttributeSchema(case.schema.attributes[i] for i in order))
    state = {name: value for name, value in model.state_dict().items() if "extra_state" not in name}
    blocks = state["tokenizer.value_vectors"].split(case.schema.num_values)
    state["tokenizer.value_vectors"] = torch.cat([blocks[i] for i in order])
    state["tokenizer.identity"] = state["tokenizer.identity"][order]
    other.load_state_dict(state, strict=False)

    out = case.forward(model)
    case.masks["is_hidden"] = case.masks["is_hidden"][:, order]
    permuted = case.forward(other, codes=case.codes[:, order])
    torch.testing.assert_close(permuted.logits, out.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(permuted.loss, out.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(permuted.reconstruction, out.reconstruction[:, order], atol=1e-5, rtol=1e-5)
