import pytest
import torch

from alignedfusion import UNKNOWN
from alignedfusion.baselines import WholeReportTokenizer
from alignedfusion.modules.masking import HideAttributes


class Encoder:
    """Replaces ClinicalBERT, and records its prompts."""

    def __init__(self):
        self.encoded = []
        self.generator = torch.Generator().manual_seed(0)

    def encode(self, prompts):
        self.encoded.extend(prompts)
        return torch.randn(len(prompts), 23, generator=self.generator)


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def tokenizer(schema, encoder):
    tokenizer = WholeReportTokenizer(schema, 38, encoder)
    encoder.encoded.clear()  # the prompt that determines the encoder's width
    return tokenizer


def test_the_text_of_a_report_has_the_prompts_of_mentioned_attributes_by_hand(tokenizer):
    expected = "The elevation is palpable. The ulceration is absent. The age is 45 to 60 years."
    assert tokenizer.text((1, 0, 2)) == expected
    assert tokenizer.text((1, UNKNOWN, 2)) == "The elevation is palpable. The age is 45 to 60 years."
    assert tokenizer.text((UNKNOWN, 1, UNKNOWN)) == "The ulceration is present."
    assert tokenizer.text((UNKNOWN,) * 3) == "Nothing is mentioned."


def test_each_distinct_text_is_encoded_once(tokenizer, encoder):
    codes = torch.tensor([[1, 0, 2], [0, UNKNOWN, UNKNOWN], [1, 0, 2], [UNKNOWN] * 3, [0, UNKNOWN, UNKNOWN]])
    tokens = tokenizer(codes)
    assert encoder.encoded == [tokenizer.text(tuple(codes[row].tolist())) for row in (0, 1, 3)]
    torch.testing.assert_close(tokens[[0, 1]], tokens[[2, 4]])
    assert all((tokens[a] - tokens[b]).abs().max() > 0.1 for a, b in ((0, 1), (0, 3), (1, 3)))

    again = tokenizer(torch.tensor([[UNKNOWN] * 3, [2, 1, 0]]))
    assert encoder.encoded[3:] == ["The elevation is nodular. The ulceration is present. The age is below 30 years."]
    torch.testing.assert_close(again[0], tokens[3])


def test_a_token_is_the_projected_vector_of_its_text(tokenizer):
    tokens = tokenizer(torch.tensor([[1, 0, 2], [UNKNOWN] * 3]))
    assert tokens.shape == (2, 1, 38)
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, 23, generator=generator)  # the vector of the first prompt
    vectors = torch.randn(2, 23, generator=generator)
    normed = (vectors - vectors.mean(1, keepdim=True)) / (vectors.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(tokens[:, 0], normed @ tokenizer.project.weight.T + tokenizer.project.bias)
    assert tokenizer.value_tokens().shape == (0, 38)


@pytest.mark.parametrize("unimodal_heads", [True, False])
def test_a_classifier_with_it_is_trainable(unimodal_heads, tokenizer, schema, build, batch, assert_trainable):
    image, codes, labels = batch(schema)
    model = build(
        schema, tokenizer=tokenizer, fill=None, unimodal_heads=unimodal_heads, hiding=HideAttributes(0.0, whole=0.1)
    )
    shapes = []
    model.fusion.register_forward_pre_hook(lambda fusion, arguments: shapes.append(arguments[0]["report"].shape))
    out = model(image, codes, labels)
    assert shapes == [(7, 1, 38)]
    assert out.logits.shape == (7, 17)
    assert out.reconstruction is None
    assert not torch.equal(model(image, torch.full_like(codes, UNKNOWN)).logits, out.logits)

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        loss = model(image, codes, labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    optimizer.zero_grad()
    assert_trainable(model, model(image, codes, labels))


def test_hidden_attributes_are_not_in_the_text(tokenizer, encoder, schema, build, batch):
    image, codes, labels = batch(schema)
    model = build(schema, tokenizer=tokenizer, fill=None, hiding=HideAttributes(1.0, whole=0.1))
    model(image, codes, labels)
    assert encoder.encoded == ["Nothing is mentioned."]
    model.eval()(image, codes, is_present={"report": torch.arange(7) < 0})
    assert encoder.encoded == ["Nothing is mentioned."]
    model(image, codes)
    assert len(encoder.encoded) > 3


def test_codes_that_do_not_fit_the_schema_are_refused(tokenizer):
    with pytest.raises(ValueError, match="code 5 in row 0 is out of range for attribute 'age'"):
        tokenizer(torch.tensor([[0, 0, 5]]))
