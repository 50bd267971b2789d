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
