"""Shared fixtures. Sizes are distinct primes wherever they can be, so that no two shapes agree by accident."""

import pytest
import torch
from hypothesis import settings

from alignedfusion import (
    AlignedFusionClassifier,
    Attribute,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.attributes import REPORT

settings.register_profile("alignedfusion", deadline=None, max_examples=30, derandomize=True, database=None)
settings.load_profile("alignedfusion")
torch.set_num_threads(1)


# The tests of each of these files share something expensive: a Ray cluster, trainings in two processes, exported models.
TOGETHER = {
    "tests/commands/test_examples.py",
    "tests/datasets/test_token_cache.py",
    "tests/deployment/test_export.py",
    "tests/pages/test_browser.py",
    "tests/tables/test_cluster.py",
    "tests/training/test_distributed.py",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, each file of TOGETHER runs in one process, and each other test where there is room."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def schema():
    """A = 3 attributes, V = 10 values, at most 5 of one attribute."""
    return AttributeSchema(
        [
            Attribute("elevation", values=("flat", "palpable", "nodular")),
            Attribute("ulceration", values=("absent", "present")),
            Attribute("age", kind="numeric", units="years", edges=(30.0, 45.0, 60.0, 75.0)),
        ]
    )


@pytest.fixture(scope="session")
def build():
    """Builds a small model on precomputed image tokens: D = 38, F = 13, C = 17, no dropout."""

    def build(
        schema,
        *,
        fusion=None,
        visual=None,
        tokenizer=None,
        fill="once",
        modalities=("image", REPORT),
        depth=2,
        **settings,
    ):
        torch.manual_seed(0)
        return AlignedFusionClassifier(
            VisualTokenizer(None, 38, num_features=13) if visual is None else visual,
            AttributeTokenizer(schema, 38) if tokenizer is None else tokenizer,
            IntermediateTokenFusion(38, modalities=modalities, depth=depth, num_heads=2) if fusion is None else fusion,
            None if fill is None else MaskedTokenReconstructor(38, fill=fill),
            17,
            **{"dropout": 0.0, **settings},
        )

    return build


@pytest.fixture(scope="session")
def batch():
    """B = 7 cases with N = 11 image tokens each, some cells unmentioned."""

    def batch(schema, rows=7, patches=11):
        generator = torch.Generator().manual_seed(1)
        image = torch.randn(rows, patches, 13, generator=generator)
        limits = torch.tensor(schema.num_values)
        codes = (torch.rand(rows, len(schema), generator=generator) * (limits + 1)).long() - 1
        labels = torch.randint(17, (rows,), generator=generator)
        return image, codes, labels

    return batch


@pytest.fixture(scope="session")
def same():
    """Whether two outputs are bit for bit the same in all that does not know the right answer."""

    def same(first, second):
        fields = ("logits", "reconstruction", "intermediate", "contributions")
        return all(torch.equal(first[field], second[field]) for field in fields)

    return same


@pytest.fixture(scope="session")
def assert_trainable():
    """Finite outputs, and a finite gradient for every parameter: what DistributedDataParallel needs."""

    def assert_trainable(model, out):
        assert all(out[field].isfinite().all() for field in ("loss", "logits", "intermediate"))
        assert out.reconstruction is None or not out.reconstruction.isnan().any()
        out.loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()] == []

    return assert_trainable
