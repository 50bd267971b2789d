"""The language of terms: what each construct matches, and that an index misses nothing."""

import contextlib
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.reports.rules.lexicon import Lexicon, shipped
from alignedfusion.reports.rules.term_index import Match, TermIndex, longest
from alignedfusion.reports.rules.terms import compile_term


def found(source, text):
    """The longest stretches of the text that a term matches."""
    return [text[match.start : match.end] for match in longest(TermIndex([(compile_term(source), None)]).find(text))]


CONSTRUCTS = [
    # words
    ("pleural effusion", "A pleural effusion.", ["pleural effusion"]),
    ("pleural effusion", "A PLEURAL Effusion.", ["PLEURAL Effusion"]),
    ("Pleural Effusion", "a pleural effusion", ["pleural effusion"]),
    ("pleural effusion", "pleural-effusion", ["pleural-effusion"]),
    ("pleural effusion", "pleural/effusion", ["pleural/effusion"]),
    ("pleural effusion", "pleural\u2013effusion", ["pleural\u2013effusion"]),
    ("pleural effusion", "pleural\n   effusion", ["pleural\n   effusion"]),
    ("pleural effusion", "pleural" + 7 * " " + "effusion", []),
    ("pleural effusion", "pleuraleffusion", []),
    ("pleural effusion", "pleural, effusion", []),
    ("pleural effusion", "pleural or effusion", []),
    ("  pleural   effusion ", "pleural effusion", ["pleural effusion"]),
    ("mass", "amass mass massive", ["mass"]),
    ("no", "no now non", ["no"]),
    ("port-a-cath", "port a cath, port-a-cath", ["port a cath", "port-a-cath"]),
    ("w/o", "w/o contrast", ["w/o"]),
    ("can't", "We can't tell.", ["can't"]),
    ("œdème", "Un ŒDÈME.", ["ŒDÈME"]),
    ("lésion", "Des lésions.", ["lésions"]),
    # the last word in plural
    ("effusion", "effusion effusions", ["effusion", "effusions"]),
    ("mass", "masses", ["masses"]),
    ("opacity", "opacity opacities", ["opacity", "opacities"]),
    ("rib fracture", "rib fractures, ribs fracture", ["rib fractures"]),
    ("rib", "rib ribs", ["rib"]),  # short words are cues more often than findings: no plural
    ("(nodule)s", "nodules", ["nodules"]),
    # any ending
    ("cardio*", "cardiomegaly, cardiology, cardi", ["cardiomegaly", "cardiology"]),
    ("cardio*", "cardio", ["cardio"]),
    ("atelecta* change", "atelectatic changes", ["atelectatic changes"]),
    ("pneu*", "pneu" + 30 * "a", ["pneu" + 30 * "a"]),
    ("pneu*", "pneu" + 31 * "a", []),
    # one of several
    ("(left|right) lung", "left lung, right lungs, lung", ["left lung", "right lungs"]),
    ("lung (base|apex)", "lung base, lung apex, lung", ["lung base", "lung apex"]),
    ("(lung base|apex) scar", "lung base scar, apex scar", ["lung base scar", "apex scar"]),
    ("(calcified (node|nodule)|granuloma)", "calcified nodule, granuloma", ["calcified nodule", "granuloma"]),
    ("(node|nodes seen) here", "nodes seen here", ["nodes seen here"]),
    ("possib(le|ly)", "possible possibly possib", ["possible", "possibly"]),
    ("hemi(thorax|diaphragms)", "hemithorax hemidiaphragms hemi", ["hemithorax", "hemidiaphragms"]),
    # one of several, or none
    ("(left|right|) lung", "left lung", ["left lung"]),
    ("(left|right|) lung", "a lung", ["lung"]),
    ("lung (is|are|) clear", "lung clear, lung is clear", ["lung clear", "lung is clear"]),
    ("lung clear (today|)", "lung clear today", ["lung clear today"]),
    ("lung clear (today|)", "lung clear.", ["lung clear"]),
    # with or without
    ("(small) effusion", "Small effusion", ["Small effusion"]),
    ("(small) effusion", "An effusion", ["effusion"]),
    ("effusion (of blood)", "effusion of blood", ["effusion of blood"]),
    ("effusion (of blood)", "effusion of", ["effusion"]),
    ("year(s) old", "year old, years old", ["year old", "years old"]),
    ("(a) (b) cough", "cough", ["cough"]),
    ("(dry) (bad) cough", "dry bad cough", ["dry bad cough"]),
    # gaps
    ("heart ... enlarged", "heart enlarged", ["heart enlarged"]),
    ("heart ... enlarged", "heart is enlarged", ["heart is enlarged"]),
    ("heart ... enlarged", "heart is now rather much enlarged", ["heart is now rather much enlarged"]),
    ("heart ... enlarged", "heart is now rather very much enlarged", []),
    ("heart ... enlarged", "heart, perhaps also enlarged", ["heart, perhaps also enlarged"]),
    ("heart ... enlarged", "heart, aorta and hila enlarged", ["heart, aorta and hila enlarged"]),
    ("heart ... enlarged", "heart is small, spleen enlarged", []),
    ("heart ... enlarged", "heart small but spleen enlarged", []),
    ("heart ... enlarged", "heart: enlarged", ["heart: enlarged"]),
    ("heart ... enlarged", "heart normal. Spleen enlarged", []),
    ("heart ... enlarged", "heart normal; spleen enlarged", []),
    ("heart ... enlarged", "heart\nis\nenlarged", ["heart\nis\nenlarged"]),
    # numbers
    ("<number> mm", "8 mm", ["8 mm"]),
    ("<number> mm", "8mm and 8-mm", ["8mm", "8-mm"]),
    ("<number> mm", "8.25 mm, 0,5 mm", ["8.25 mm", "0,5 mm"]),
    ("<number> mm", "a8 mm", []),
    ("crp (of|) <number>", "CRP of 12.5", ["CRP of 12.5"]),
    ("crp (of|) <number>", "crp 12", ["crp 12"]),
    ("crp (of|) <number>", "crp 12345678", []),  # no measurement
    ("crp (of|) <number>", "crp 12,500 and crp 7.5 x 10", ["crp 12,500", "crp 7.5"]),
    ("<number> mm", "12 x 10 mm", ["12 x 10 mm"]),
    ("<number> mm", "12 mm x 10 mm x 8 mm", ["12 mm x 10 mm x 8 mm"]),
    ("<number> mm", "4x3mm, 12 by 10 mm", ["4x3mm", "12 by 10 mm"]),
    ("<number> mm", "3.1 (AP) x 4.2 (TR) x 2.8 (CC) mm", ["3.1 (AP) x 4.2 (TR) x 2.8 (CC) mm"]),
    # the last word of a last group in plural
    ("(papule|plaque)", "papules, plaque", ["papules", "plaque"]),
    ("renal (cyst|(small) biopsy)", "renal cysts, renal biopsies", ["renal cysts", "renal biopsies"]),
    ("(cyst|mass) seen", "cysts seen", []),
    ("millimet(er|re)", "millimeters millimetres", ["millimeters", "millimetres"]),
    ("kidney", "kidneys, kidnies", ["kidneys"]),
    ("grade (type|) (1|i)", "Grade I, grade 1, grade type i, grade II", ["Grade I", "grade 1", "grade type i"]),
    ("kidney ... small", "kidneys are small", ["kidneys are small"]),
    ("<number> °c", "38.4 °C and 38°C", ["38.4 °C", "38°C"]),
    ("<number>?c", "38?c", ["38?c"]),
    ("<number> year(s) old", "63-year-old", ["63-year-old"]),
    ("t2 lesion", "T2 lesions", ["T2 lesions"]),
    ("2nd rib", "2nd rib", ["2nd rib"]),
]


@pytest.mark.parametrize(("source", "text", "expected"), CONSTRUCTS)
def test_a_construct_matches_what_the_table_says(source, text, expected):
    assert found(source, text) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 x 10 mm", 12),
        ("10 x 12 mm", 12),
        ("8 mm by 1.5 cm", 8),  # the millimeters of another term: see "cm" below
        ("6 mm x 0.7 cm x 5 mm", 7),
        ("1,250 mm", 1250),
        ("12 000 mm", 12000),
        ("1,25 mm", 1.25),
        ("1,250.5 mm", 1250.5),
    ],
)
def test_a_number_is_the_largest_extent_in_the_unit_of_the_term(text, number):
    assert next(m.number for m in TermIndex([(compile_term("<number> mm"), None)]).find(text)) == number


def test_extents_in_two_units_are_compared():
    (match, *_) = TermIndex([(compile_term("<number> cm"), None)]).find("8 mm by 1.5 cm")
    assert match.number == 1.5
    (match, *_) = TermIndex([(compile_term("<number> cm"), None)]).find("18 mm by 1.5 cm")
    assert match.number == 1.8


LISTS = [
    ("pleural effusion", "pleural or pericardial effusion", True),
    ("pleural effusion", "pleural and/or pericardial effusions", True),
    ("renal stone", "renal, ureteral, or bladder stones", True),
    ("renal stone", "renal/ureteral stone", True),
    ("pleural effusion", "pleural and the effusion", False),
    ("pleural effusion", "pleural, effusion", False),
    ("pleural effusion", "pleural thickening and effusion", False),
    ("<number> mm", "8 and then mm", False),
]


@pytest.mark.parametrize(("source", "text", "expected"), LISTS)
def test_the_items_of_a_list_may_split_a_term(source, text, expected):
    assert bool(TermIndex([(compile_term(source, lists=True), None)]).find(text)) is expected
    assert not TermIndex([(compile_term(source), None)]).find(text)


def test_a_term_that_would_take_exponential_time_is_refused():
    with pytest.raises(ValueError, match=r"has 4 gaps \('\.\.\.'\); at most 3"):
        compile_term(" ... ".join("abcde"))
    with pytest.raises(ValueError, match="has 9 optional parts; at most 8"):
        compile_term(" ".join(["(a)"] * 9) + " end")
    with pytest.raises(ValueError, match="has 5004 characters; at most 600"):
        compile_term("(a) " * 1250 + "long")


@pytest.mark.parametrize(
    ("source", "text"),
    [(" ... ".join(["aa"] * 4) + " end", "aa "), ("(a) " * 8 + "end", "a "), ("bb bb bb bb end", "bb, bb and bb ")],
)
def test_the_largest_terms_are_searched_in_linear_time(source, text):
    index = TermIndex([(compile_term(source, lists=True), None)])
    start = time.process_time()
    index.find(text * 5000)
    assert time.process_time() - start < 3


def test_numbers_are_handed_out():
    index = TermIndex([(compile_term("<number> cm"), "cm"), (compile_term("age <number>"), "age")])
    assert [(m.tag, m.number) for m in index.find("Age 63, lesion of 1,5 cm, 2.25cm.")] == [
        ("age", 63.0),
        ("cm", 1.5),
        ("cm", 2.25),
    ]
    assert index.find("A lesion.") == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "something in it must be there always"),
        ("   ", "something in it must be there always"),
        ("(small)", "something in it must be there always"),
        ("(a|b|)", "something in it must be there always"),
        ("(left|right", "'(' is not closed by ')'"),
        ("(left (upper) lung", "'(' is not closed by ')'"),
        ("left) lung", "')' closes what was not opened"),
        ("left | right", "'|' closes what was not opened"),
        ("* lung", "'*' must follow the beginning of a word"),
        ("lung *", "'*' must follow the beginning of a word"),
        ("lu*", "at least three letters must stand before '*'"),
        ("°*", "at least three letters must stand before '*'"),
        ("...", "'...' needs a word on both sides"),
        ("heart ...", "'...' needs a word on both sides"),
        ("... heart", "'...' needs a word on both sides"),
        ("heart ... ...", "'...' needs a word on both sides"),
        ("° north", "must begin with a letter, a digit or <number>"),
        ("(°) north", "must begin with a letter, a digit or <number>"),
        ("<number> x <number> mm", "<number> can stand in it once"),
        ("(<number> mm|size <number>)", "<number> can stand in it once"),
        ("no(rmal)", "at least three letters of a word must stand before '('"),
        ("(a|b)cd", "at least three letters of a word must stand before '('"),
    ],
)
def test_a_malformed_term_is_refused(source, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        compile_term(source)
    assert repr(source) in str(caught.value)


WORDS = st.sampled_from(
    ["heart", "lung", "enlarged", "x-ray", "effusion", "mass", "left", "no", "of", "12", "t2", "ödem"]
)
PLAIN = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
AROUND = st.text("abc ,.;:\n()", max_size=12).map(lambda text: f" {text} ")


@given(PLAIN, AROUND, AROUND)
def test_a_term_finds_itself_in_any_text_around_it(source, before, behind):
    text = before + source + behind
    for each in (text, text.upper(), text.title(), text.swapcase()):
        spans = [(m.start, m.end) for m in TermIndex([(compile_term(source), None)]).find(each)]
        assert (len(before), len(before) + len(source)) in spans


def _terms():
    """Terms of any shape; malformed ones are left out by the caller."""
    atom = st.recursive(
        st.sampled_from(["heart", "lung", "opacity", "card*", "<number>", "no", "is", "mm"]),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})")
            | st.lists(inner, min_size=1, max_size=2).map(lambda parts: f"({'|'.join(parts)}|)")
            | st.lists(inner, min_size=2, max_size=3).map(" ".join)
            | st.lists(inner, min_size=2, max_size=2).map(" ... ".join)
        ),
        max_leaves=5,
    )
    return st.lists(atom, min_size=1, max_size=3).map(" ".join)


def compiled(sources):
    terms = []
    for source in sources:
        with contextlib.suppress(ValueError):
            terms.append(compile_term(source))
    return terms


def brute_force(terms, text):
    """Every term at every word."""
    return {
        (m.start(), m.end(), number)
        for number, term in enumerate(terms)
        for word in re.finditer(r"[^\W_]+", text)
        if (m := term.match(text, word.start(), len(text)))
    }


TEXTS = st.lists(
    st.sampled_from(
        ["heart", "Heart", "lungs", "lung", "opacities", "cardiac", "7", "8.5", "no", "is", "mm", ",", "."]
    ),
    max_size=20,
).map(" ".join)


@given(st.lists(_terms(), max_size=4), TEXTS)
def test_the_index_finds_what_a_search_at_every_word_finds(sources, text):
    terms = compiled(sources)
    matches = TermIndex((term, number) for number, term in enumerate(terms)).find(text)
    assert {(m.start, m.end, m.tag) for m in matches} == brute_force(terms, text)
    assert matches == sorted(matches, key=lambda m: (m.start, -m.end))


@pytest.mark.parametrize("name", shipped())
def test_no_shipped_term_is_missed_by_its_keys(name):
    terms = [
        term
        for each in Lexicon.load(name).attributes
        for group in (each.terms, each.normal, each.exceptions, *(t for _, t in each.values))
        for term in group
    ]
    # Every term's own words, its first alternatives, and its last ones.
    plain = (re.sub(r"[*()|]|<number>|\.\.\.", " ", term.source) for term in terms)
    text = ". ".join(plain) + " 12 mm. 1.5 cm. Heart size is not enlarged. Lungs are clear bilaterally."
    matches = TermIndex((term, number) for number, term in enumerate(terms)).find(text)
    assert {(m.start, m.end, m.tag) for m in matches} == brute_force(terms, text)
    assert len(matches) > len(terms) / 2


def test_a_search_stays_within_its_bounds():
    index = TermIndex([(compile_term("lung"), "lung"), (compile_term("lung base"), "base")])
    text = "lung, lung base, lung"
    assert [m.tag for m in index.find(text)] == ["lung", "base", "lung", "lung"]
    assert [(m.start, m.tag) for m in index.find(text, 6, 15)] == [(6, "base"), (6, "lung")]
    assert [(m.start, m.end, m.tag) for m in index.find(text, 6, 12)] == [(6, 10, "lung")]


def test_of_matches_within_each_other_the_longest_stay():
    sources = ("calcified nodule", "nodule", "calcified", "nodule in lung", "lung")
    index = TermIndex((compile_term(source), source) for source in sources)
    kept = longest(index.find("A calcified nodule in lung."))
    assert [match.tag for match in kept] == ["calcified nodule", "nodule in lung"]
    twins = [Match(2, 5, "a"), Match(2, 5, "b"), Match(3, 5, "c")]
    assert [match.tag for match in longest(twins)] == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=9))
def test_no_kept_match_lies_within_another(spans):
    matches = sorted((Match(start, start + size, None) for start, size in spans), key=lambda m: (m.start, -m.end))
    kept = longest(matches)
    assert all(first.start <= second.start and first.end <= second.end for first, second in pairwise(kept))
    assert all(any(k.start <= m.start and m.end <= k.end for k in kept) for m in matches)
