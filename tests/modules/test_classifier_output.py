import copy
import pickle

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from torch.distributed.utils import _apply_to_tensors
from torch.utils import _pytree

from alignedfusion.modules.outputs import ClassifierOutput

NAMES = ["loss", "logits", "contributions"]


@pytest.fixture
def out():
    return ClassifierOutput(
        loss=torch.tensor(2.0), logits=torch.ones(3, 5), reconstruction=None, contributions=torch.zeros(3)
    )


def test_fields_are_read_by_attribute_key_and_position(out):
    assert out.logits is out["logits"] is out[1]
    assert out[1:] == (out.logits, out.contributions)
    assert out.reconstruction is None
    assert out.intermediate is None
    assert list(out) == NAMES
    assert len(out) == 3
    with pytest.raises(KeyError, match="reconstruction"):
        out["reconstruction"]
    with pytest.raises(IndexError, match="out of range"):
        out[3]


def test_a_changed_field_is_changed_by_attribute_key_and_position(out):
    out.loss = torch.tensor(3.0)
    assert out["loss"].item() == out[0].item() == 3.0
    out["loss"] = torch.tensor(5.0)
    assert out.loss.item() == 5.0
    out.loss = None
    assert list(out) == ["logits", "contributions"]
    assert out.loss is None


def test_a_misspelt_field_is_refused(out):
    message = (
        r"ClassifierOutput has no field 'logit'; it has \['loss', 'logits', 'reconstruction', 'intermediate', 'con"
    )
    for act in (lambda: out.logit, lambda: setattr(out, "logit", None), lambda: ClassifierOutput(logit=None)):
        with pytest.raises(AttributeError, match=message):
            act()


@pytest.mark.parametrize(
    "travel",
    [
        lambda out: pickle.loads(pickle.dumps(out)),
        copy.deepcopy,
        copy.copy,
        lambda out: _pytree.tree_map(torch.clone, out),
        lambda out: _pytree.tree_unflatten(
            _pytree.tree_leaves(out), _pytree.treespec_loads(_pytree.treespec_dumps(_pytree.tree_structure(out)))
        ),
        lambda out: _apply_to_tensors(torch.clone, out),  # DistributedDataParallel and FSDP, mixed precision
        convert_outputs_to_fp32(lambda out: out),  # accelerate, mixed precision
        lambda out: type(out)((name, out[name]) for name in out),  # DataParallel, which gathers on GPUs only
    ],
)
def test_it_is_rebuilt_by_libraries_that_flatten_it(travel, out):
    again = travel(out)
    assert type(again) is ClassifierOutput
    assert list(again) == NAMES
    assert all(torch.equal(again[name], out[name]) for name in NAMES)
    assert again.intermediate is None


def test_gradients_pass_a_compiled_function_that_makes_and_reads_one():
    def double(logits):
        out = ClassifierOutput(logits=2 * logits)
        out.loss = out["logits"].sum() + out[0].sum()
        return out

    torch._dynamo.reset()
    logits = torch.ones(3, requires_grad=True)
    out = torch.compile(double, fullgraph=True, backend="aot_eager")(logits)
    assert type(out) is ClassifierOutput
    assert sorted(out) == ["logits", "loss"]
    out.loss.backward()
    assert torch.equal(logits.grad, torch.full((3,), 4.0))
