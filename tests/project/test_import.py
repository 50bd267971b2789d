"""The eleven public names."""

import pytest

import alignedfusion


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
