import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import alignedfusion

SCRIPT = """
import json, sys
import alignedfusion
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def fresh():
    """The modules that a new interpreter has after `import alignedfusion`."""
    answer = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    return json.loads(answer)


def test_import_is_light(fresh):
    heavy = {"timm", "transformers", "pandas", "matplotlib", "sklearn", "torchvision", "accelerate", "spacy", "openai"}
    assert heavy.isdisjoint(fresh)
    assert "alignedfusion" in fresh


def test_every_public_name_is_there_and_listed():
    assert len(alignedfusion.__all__) == 11
    assert alignedfusion.__all__ == sorted(alignedfusion.__all__, key=lambda name: (not name.isupper(), name))
    for name in alignedfusion.__all__:
        assert getattr(alignedfusion, name) is not None
        assert name in dir(alignedfusion)
    namespace = {}
    exec("from alignedfusion import *", namespace)
    assert set(alignedfusion.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'alignedfusion' has no attribute 'AttributTokenizer'"):
        alignedfusion.AttributTokenizer  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'AttributTokenizer'"):
        exec("from alignedfusion import AttributTokenizer")


@pytest.mark.parametrize("module", sorted(info.name for info in pkgutil.iter_modules(alignedfusion.__path__)))
def test_every_module_can_be_imported_by_itself(module):
    assert importlib.import_module(f"alignedfusion.{module}").__doc__
