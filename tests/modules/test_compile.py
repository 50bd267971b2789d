import pytest
import torch

from alignedfusion.modules.masking import HideAttributes

FIELDS = ("loss", "logits", "reconstruction", "intermediate", "contributions")


@pytest.mark.parametrize("training", [True, False])
def test_compiled_without_a_graph_break_it_agrees(training, schema, build, batch):
    torch._dynamo.reset()
    image, codes, labels = batch(schema)
    is_hidden = torch.arange(21).reshape(7, 3) % 3 == 0 if training else None
    eager, model = build(schema).train(training), build(schema).train(training)
    # Gradients are compared in generated code; in evaluation, the capture is what differs.
    compiled = torch.compile(model, fullgraph=True, backend="inductor" if training else "aot_eager")
    expected, out = (m(image, codes, labels, is_hidden=is_hidden) for m in (eager, compiled))
    for field in FIELDS:
        torch.testing.assert_close(out[field], expected[field], atol=1e-5, rtol=1e-4)
    if training:
        expected.loss.backward()
        out.loss.backward()
        for (name, p), (_, q) in zip(eager.named_parameters(), model.named_parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_random_hiding_and_every_mask_compile(schema, build, batch, assert_trainable):
    torch._dynamo.reset()
    image, codes, labels = batch(schema)
    masks = {
        "is_valid": {"image": torch.arange(11).expand(7, -1) < 5},
        "is_present": {"image": torch.arange(7) < 5, "report": torch.arange(7) > 2},
    }
    model = build(schema, fill="two_pass", hiding=HideAttributes(0.5, whole=0.1, sparse=0.1), dropout=0.5)
    # Only the capture of the graph is tested; code generation would take half a minute.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_trainable(model, compiled(image, codes, labels, **masks))
    model.eval()
    torch.testing.assert_close(compiled(image, codes, **masks).logits, model(image, codes, **masks).logits)


def assert_every_batch_size_works(model, compiled, schema, batch, sizes=(7, 3, 1)):
    """Epochs end with a short batch: any size works in training, and agrees with the model as it is in evaluation."""
    for rows in sizes:
        image, codes, labels = batch(schema, rows=rows)
        model.train()
        model.zero_grad()
        compiled(image, codes, labels).loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        model.eval()
        out, expected = compiled(image, codes, labels), model(image, codes, labels)
        for field in FIELDS:
            torch.testing.assert_close(out[field], expected[field], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dynamic", "sizes"), [(None, (7, 3, 1)), (True, (7, 3))])  # one row has a graph of its own
def test_batch_sizes_may_change(dynamic, sizes, schema, build, batch):
    torch._dynamo.reset()
    model = build(schema, depth=1, hiding=HideAttributes(0.5, whole=0.1, sparse=0.1))
    # Changing shapes are captured with symbols; the generation of code does not affect whether that succeeds.
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=dynamic)
    assert_every_batch_size_works(model, compiled, schema, batch, sizes)


@pytest.mark.slow  # a minute of code generation
def test_batch_sizes_may_change_in_generated_code(schema, build, batch):
    torch._dynamo.reset()
    model = build(schema, fill="two_pass", hiding=HideAttributes(0.5, whole=0.1, sparse=0.1))
    assert_every_batch_size_works(model, torch.compile(model, fullgraph=True, dynamic=True), schema, batch)


LABELS = {
    "multilabel": torch.arange(7 * 17).reshape(7, 17) % 3 - 1,
    "regression": torch.arange(7 * 17)
    .reshape(7, 17)
    .float()
    .fmod(5)
    .sub(1)
    .masked_fill(torch.eye(7, 17).bool(), torch.nan),
}


@pytest.mark.parametrize("task", LABELS)
def test_other_tasks_compile(task, schema, build, batch):
    torch._dynamo.reset()
    image, codes, _ = batch(schema)
    model, labels = build(schema, task=task, depth=1, fill=None, hiding=HideAttributes(0.0)), LABELS[task]
    model.set_prior(labels)
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # capture of the graph
    expected, out = (m(image, codes, labels) for m in (model, compiled))
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close(out.logits, expected.logits, atol=1e-5, rtol=1e-4)
    out.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class Activated(torch.nn.Module):
    """The outputs of a model, as users see them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image, codes):
        return self.model.activate(self.model(image, codes).logits)


@pytest.mark.filterwarnings(
    "ignore:Attempted to insert a get_attr Node", "ignore:Node .* does not reference an nn.Module"
)
@pytest.mark.parametrize("task", LABELS)
def test_other_tasks_are_exported(task, schema, build, batch):
    image, codes, _ = batch(schema)
    model = build(schema, task=task, depth=1).eval()
    model.set_prior(LABELS[task])
    rows = torch.export.Dim("rows", min=1)
    shapes = {"image": {0: rows}, "codes": {0: rows}}
    program = torch.export.export(Activated(model), (image, codes), dynamic_shapes=shapes).module()
    for count in (7, 3):
        expected = model.activate(model(image[:count], codes[:count]).logits)
        torch.testing.assert_close(program(image[:count], codes[:count]), expected, atol=1e-5, rtol=1e-4)
