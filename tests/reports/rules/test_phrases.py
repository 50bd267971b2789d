"""Frequent phrases, by hand."""

import pytest

from alignedfusion.reports.rules import phrases
from alignedfusion.reports.rules.phrases import frequent_phrases, singular


def counts(reports):
    return {phrase.name: len(phrase.reports) for phrase in frequent_phrases(reports, progress=False)}


def test_phrases_by_hand():
    reports = ["Small pleural effusion.", "No pleural effusions.", "The heart is normal.", "Ground-glass opacities."]
    assert counts(reports) == {"pleural effusion": 2, "ground glass opacity": 1}  # a place is no finding


def test_adjectives_places_and_techniques_are_no_findings():
    reports = [
        "Frontal and lateral views were obtained.",
        "No active disease.",
        "Osseous abnormality.",
        "The left lobe.",
    ]
    assert counts(reports) == {"osseous abnormality": 1}


def test_a_word_that_is_never_denied_graded_or_stated_is_no_finding():
    assert counts(["The carotids of the patient were compared with those of last year."] * 3) == {}
    assert counts(["No stenosis of the carotids."] * 3) == {"stenosis": 3}


def test_what_relatives_have_is_no_phrase_of_the_patient():
    assert counts(["FAMILY HISTORY: melanoma.\nIMPRESSION: naevus."]) == {"naevus": 1}
    assert counts(["INDICATION: Cough.\nIMPRESSION: naevus."]) == {"naevus": 1}  # `extract` does not read it either


def test_many_reports_are_looked_at_in_equal_distances(monkeypatch):
    monkeypatch.setattr(phrases, "MAX_REPORTS", 4)
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "iota", "kappa")
    assert counts(words) == dict.fromkeys(("alpha", "delta", "theta"), 1)


def test_no_reports_hold_no_phrases():
    assert frequent_phrases([], progress=False) == []


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("masses", "mass"),
        ("opacities", "opacity"),
        ("nodules", "nodule"),
        ("pneumothoraces", "pneumothorax"),
        ("boxes", "box"),
        ("diagnosis", "diagnosis"),
        ("mass", "mass"),
        ("hiatus", "hiatus"),
    ],
)
def test_singulars(plural, expected):
    assert singular(plural) == expected
