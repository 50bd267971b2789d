"""Frequent phrases, by hand."""

import pytest

from alignedfusion.reports.rules import phrases
from alignedfusion.reports.rules.phrases import frequent_phrases


def test_phrases_by_hand():
    reports = ["Small pleural effusion.", "No pleural effusions.", "The heart is normal.", "Ground-glass opacities."]
    assert frequent_phrases(reports, progress=False) == {
        "pleural effusion": 0.5,  # and neither of its words, which never stand alone
        "heart": 0.25,
        "ground glass opacity": 0.25,
    }


def test_what_relatives_have_is_no_phrase_of_the_patient():
    assert frequent_phrases(["FAMILY HISTORY: melanoma.\nIMPRESSION: naevus."], progress=False) == {"naevus": 1.0}


def test_many_reports_are_looked_at_in_equal_distances(monkeypatch):
    monkeypatch.setattr(phrases, "MAX_REPORTS", 4)
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "iota", "kappa")
    assert frequent_phrases(words, progress=False) == pytest.approx(dict.fromkeys(("alpha", "delta", "theta"), 1 / 3))


def test_no_reports_hold_no_phrases():
    assert frequent_phrases([], progress=False) == {}
