"""Typographic characters: what they become, and that spans index the original text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.reports import RuleExtractor, assertion
from alignedfusion.reports.rules.characters import normalize


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("didn\u2019t", "didn't"),
        ("5\u20137 \u00d7 4", "5-7 x 4"),
        ("e\ufb00usion in\ufb01ltrate", "effusion infiltrate"),
        ("\uff16\uff0e\uff15 mm", "6.5 mm"),
        ("no\u00a0pleural\u202feffusion", "no pleural effusion"),
        ("pru\u00adri\u200btus", "pruritus"),
        ("\u2610 a \u2611 b", "[ ] a [x] b"),
        ("h\u00e6morrhage", "haemorrhage"),
        ("10\u2079/L, 5 \u00b5m, na\u00efve", "10\u2079/L, 5 \u00b5m, na\u00efve"),  # exponents are no digits
    ],
)
def test_what_characters_become(text, plain):
    assert normalize(text)[0] == plain


@given(st.text(alphabet="ab \ufb00\ufb03\u00ad\u2019\u2610\u00e6\u2026\u00e9\uff11", max_size=30))
def test_every_character_has_its_place(text):
    plain, places = normalize(text)
    if places is None:
        assert len(plain) == len(text)
        return
    assert len(places) == len(plain) + 1
    assert places[-1] == len(text)
    assert list(places) == sorted(places)
    for character, place in zip(plain, places, strict=False):
        assert character in normalize(text[place])[0]


WORDS = [
    "No",
    "e\ufb00usion",
    "in\ufb01ltrate",
    "pleural\u00a0",
    "pneumo\u00adthorax",
    "isn\u2019t",
    "seen",
    "\u2610",
    "Heart",
    "enlarged",
]
EXTRACTOR = RuleExtractor("chest_xray")


@given(
    st.lists(st.sampled_from([*WORDS, ".", ",", "\u2013", "63\u2010year\u2010old", "\u2026"]), max_size=15).map(
        " ".join
    )
)
def test_spans_index_the_original_text(text):
    plain = EXTRACTOR.extract(normalize(text)[0])
    for name, cell in EXTRACTOR.extract(text).items():
        assert (cell.value, cell.state) == (plain[name].value, plain[name].state)
        if cell.evidence is not None:
            for span, same in zip(
                (cell.evidence.target, cell.evidence.sentence, cell.evidence.cue),
                (plain[name].evidence.target, plain[name].evidence.sentence, plain[name].evidence.cue),
                strict=True,
            ):
                if span is not None:
                    assert 0 <= span[0] < span[1] <= len(text)
                    assert normalize(text[slice(*span)])[0] == normalize(text)[0][slice(*same)]


def test_an_assertion_is_asked_with_positions_of_the_original_text():
    text = "\ufb01rst: isn\u2019t an e\ufb00usion, pneumothorax is seen"
    for word, expected in (("e\ufb00usion", "negative"), ("pneumothorax", "negative")):
        start = text.index(word)
        assert assertion(text, start, start + len(word)) == expected
    text = "O\ufb03ce note. No e\ufb00usion. Pneumothorax."
    assert assertion(text, text.index("Pneumo"), len(text) - 1) == "positive"
