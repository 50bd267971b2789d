"""Where sentences begin and end, and which sections they stand in; how long that takes at worst."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.reports.rules.extractor import RuleExtractor
from alignedfusion.reports.rules.lexicon import Lexicon
from alignedfusion.reports.rules.sentences import MAX_SECTION, MAX_SENTENCE, sentences


def split(text):
    """The sentences, each with its section where it has one."""
    return [text[s.start : s.end] if not s.section else (s.section, text[s.start : s.end]) for s in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n \n", []),
        ("No effusion", ["No effusion"]),
        ("No effusion. Heart is normal.", ["No effusion.", "Heart is normal."]),
        ("Is there a nodule? No mass.", ["Is there a nodule?", "No mass."]),
        ("Nodule? No!", ["Nodule? No!"]),  # a form
        ("No effusion . Clear lungs .", ["No effusion .", "Clear lungs ."]),
        ('He said "no pain." He left.', ['He said "no pain."', "He left."]),
        ("Clear lungs.Heart is normal.", ["Clear lungs.", "Heart is normal."]),
        ("Clear lungs ...  Heart is normal.", ["Clear lungs ...", "Heart is normal."]),
        # Not every dot ends a sentence.
        ("A nodule of 1.5 cm. No mass.", ["A nodule of 1.5 cm.", "No mass."]),
        ("Seen by Dr. Doe today. No mass.", ["Seen by Dr. Doe today.", "No mass."]),
        ("Scar vs. nodule, e.g. in the apex.", ["Scar vs. nodule, e.g. in the apex."]),
        ("pH 7.4, t.i.d. dosing", ["pH 7.4, t.i.d.", "dosing"]),
        # Lists.
        ("1. No effusion. 2. Clear lungs.", ["No effusion.", "Clear lungs."]),
        ("1. No effusion.\n2. Clear lungs.", ["No effusion.", "Clear lungs."]),
        ("1) No effusion\n2) Clear lungs", ["No effusion", "Clear lungs"]),
        ("- No effusion\n- Clear lungs", ["No effusion", "Clear lungs"]),
        ("\u2022 No effusion\n\u2022 Clear lungs", ["No effusion", "Clear lungs"]),
        ("IMPRESSION: 1. No effusion. 2. Clear lungs.", ["No effusion.", "Clear lungs."]),
        ("IMPRESSION:\n  1. No effusion.\n  2. Clear lungs.", ["No effusion.", "Clear lungs."]),
        # Lines.
        ("No effusion\nHeart is normal", ["No effusion", "Heart is normal"]),
        ("No effusion or\npneumothorax.", ["No effusion or\npneumothorax."]),
        ("no effusion\n\nclear lungs", ["no effusion", "clear lungs"]),
        ("No effusion\r\n\r\nClear lungs", ["No effusion", "Clear lungs"]),
        # Headers belong to no sentence.
        ("FINDINGS: No effusion.", ["No effusion."]),
        ("Impression:\nNo effusion.", ["No effusion."]),
        ("FINDINGS: IMPRESSION: No effusion.", ["No effusion."]),
        ("Chest findings: Clear. FINAL DIAGNOSIS: Pneumonia.", ["Clear.", "Pneumonia."]),
        ("The findings are: clear lungs.", ["The findings are: clear lungs."]),
        # The past, and relatives.
        ("INDICATION: Cough.\nFINDINGS: Clear.", [("history", "Cough."), "Clear."]),
        ("Indication: Cough. Fever. FINDINGS: Clear.", [("history", "Cough."), ("history", "Fever."), "Clear."]),
        (
            "Clinical history: asthma. Smoker.\nNo effusion.",
            [("history", "asthma."), ("history", "Smoker."), "No effusion."],
        ),
        ("HISTORY OF PRESENT ILLNESS: Cough.", [("history", "Cough.")]),
        (
            "Past medical history:\nAsthma.\nDiabetes.\n\nClear.",
            [("history", "Asthma."), ("history", "Diabetes."), "Clear."],
        ),
        ("COMPARISON: None.\nTECHNIQUE: AP view.\nClear.", [("history", "None."), ("history", "AP view."), "Clear."]),
        ("Family history: lung cancer.\nClear.", [("family", "lung cancer."), "Clear."]),
        ("Family history: melanoma. A raised lesion.", [("family", "melanoma."), "A raised lesion."]),
        ("History: Cough. Fever. No mass.", [("history", "Cough."), "Fever.", "No mass."]),
        (
            "INDICATION: A patient who has had a cough for weeks and\nCOPD.\nNo effusion.",
            [("history", "A patient who has had a cough for weeks and"), ("history", "COPD."), "No effusion."],
        ),
        ("FHx: asthma. PMH: diabetes.", [("family", "asthma."), ("history", "diabetes.")]),
        ("Reason for exam: cough", [("history", "cough")]),
        ("Reason for the examination: cough", [("history", "cough")]),
    ],
)
def test_a_report_is_divided_as_a_reader_would(text, expected):
    assert split(text) == expected


def test_a_section_of_the_past_ends_even_if_nothing_ends_it():
    text = "HISTORY: " + "Cough. " * 2000
    found = sentences(text)
    assert found[0].section == "history"
    assert found[-1].section == ""
    assert max(s.end for s in found if s.section) <= MAX_SECTION + len("HISTORY: ") + len("Cough. ")


def test_what_is_too_long_for_a_sentence_is_divided_between_words():
    text = "effusion, " * 1000
    found = sentences(text)
    assert all(s.end - s.start <= MAX_SENTENCE for s in found)
    assert all(text[s.start : s.end].count("effusion") * len("effusion, ") == s.end - s.start + 1 for s in found)
    assert len(sentences("a" * 10_000)) == 5


WORDS = ["No effusion", "FINDINGS:", "HISTORY:", "Family history:\n", "Dr.", "vs.", "e.g.", "Clear", "1.5", "12"]
SIGNS = ["1.", "2)", "-", "\n", "\n\n", "\r\n", ". ", ".", "?", " ", "\t", "(", '"', "\u2022", ":"]
STRANGE = ["\x00", "\u2028", "\u200f", "\U0001f600", "\ud800", "ß"]
PIECES = st.sampled_from([*WORDS, *SIGNS, *STRANGE])


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60))
def test_sentences_are_disjoint_ordered_and_within_the_text(text):
    found = sentences(text)
    assert all(0 <= s.start < s.end <= len(text) for s in found)
    assert all(first.end <= second.start for first, second in pairwise(found))
    assert all(text[s.start : s.end].strip() == text[s.start : s.end] for s in found)


@given(st.lists(st.sampled_from(["No effusion.", "Heart is normal.", "A 1.5 cm nodule!", "Cough?"]), max_size=9))
def test_plain_sentences_come_back_as_they_were_joined(lines):
    for between in (" ", "\n", "\n\n", "\n- ", "\n1. "):
        assert split(between.lstrip("\n") * (between[-1] == " ") + between.join(lines)) == lines


@given(st.lists(PIECES, max_size=15).map("".join))
def test_a_header_in_front_takes_nothing_away(text):
    plain = "Clear lungs. " + text
    assert split("FINDINGS: " + plain) == split(plain)


LEXICON = Lexicon.parse(
    """
attributes:
  effusion: {terms: [pleural effusion, effusion], normal: [pleura (is|are|) ... clear]}
  heart: {terms: [heart ... (enlarged|large), cardio*]}
  edge: {values: {smooth: [smooth (edge)], ragged: [ragged]}}
  age: {numbers: [<number> year(s) old, aged <number>]}
"""
)
NASTY = {
    "line breaks": "\n",
    "line breaks with blanks": "\n ",
    "blanks": " ",
    "dots": ".",
    "dots apart": ". ",
    "digits": "7",
    "list numbers": "1. ",
    "hyphens": "-",
    "bullets in lines": "\n- ",
    "brackets": "(",
    "closing brackets": ".)",
    "quotes": '."',
    "one long word": "a",
    "commas": ",",
    "headers": "history: ",
    "words of headers": "past clinical ",
    "abbreviations": "vs. ",
    "colons": ":\n",
    "cues": "no ",
    "cues behind": "is not ",
    "questions": "? a",
    "gaps": "heart a ",
    "blanks in a term": "pleural ",
    "numbers": "1,",
    "findings": "no effusion or mass, ",
    "one finding": "effusion ",
    "values": "smooth ragged ",
    "ages": "aged 7 years old ",
}


def seconds(function, text):
    start = time.process_time()
    function(text)
    return time.process_time() - start


@pytest.mark.parametrize("pattern", NASTY.values(), ids=NASTY.keys())
def test_time_grows_with_the_length_and_not_with_its_square(pattern):
    extract = RuleExtractor(LEXICON).extract
    small, large = (pattern * (length // len(pattern)) for length in (60_000, 120_000))
    for _ in range(4):  # a busy machine may disturb one measurement, and hardly four
        first = min(seconds(extract, small) for _ in range(2))
        second = min(seconds(extract, large) for _ in range(2))
        if second < max(3 * first, 0.05):
            return
    pytest.fail(f"{first:.2f} s for {len(small)} characters, {second:.2f} s for {len(large)}")


@pytest.mark.parametrize("pattern", NASTY.values(), ids=NASTY.keys())
def test_a_megabyte_is_read_in_seconds(pattern):
    assert seconds(RuleExtractor(LEXICON).extract, pattern * (1_000_000 // len(pattern))) < 10
