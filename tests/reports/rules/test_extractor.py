"""Reports read by rules: what each cell says, and where in the text it says so."""

import importlib.util
import os
import pickle
import random
import socket
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.reports import Cell, Evidence, Lexicon, RuleExtractor, assertion
from alignedfusion.reports.types import UNMENTIONED, from_json, to_json

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
DATA = Path(os.environ.get("ALIGNEDFUSION_DATA", SHARED / "data"))
LEXICON = Lexicon.parse(
    """
attributes:
  effusion:
    terms: [effusion, (pleural) fluid]
    normal: [pleural spaces are clear, normal chest]
    except: [pericardial effusion, effusion of joy]
  cardiomegaly:
    terms: [cardiomegaly, heart ... (enlarged|large)]
    normal: [heart (size|) (is|) normal, normal (heart|chest)]
  edge:
    terms: [edge]
    values: {smooth: [smooth (edge)], ragged: [ragged (edge), spiculated]}
    negative: no edge
  network:
    terms: [network]
    values: {typical: [typical network], atypical: [atypical network]}
  fever:
    terms: [fever]
    normal: [afebrile]
    history: true
  cancer:
    terms: [cancer, melanoma]
  age: {unit: years, numbers: [<number> year(s) old, aged <number>], between: [0, 120]}
  size: {unit: mm, numbers: [<number> mm], times: {10: [<number> cm], 0.001: [<number> micron]}, between: [0.5, 300]}
"""
)
EXTRACTOR = RuleExtractor(LEXICON)


def cell(text, name):
    return EXTRACTOR.extract(text)[name]


def said(text):
    """Values of all that is mentioned."""
    return {name: each.value for name, each in EXTRACTOR.extract(text).items() if each != UNMENTIONED}


def words(text, name):
    """Target, sentence and cue as words."""
    evidence = cell(text, name).evidence
    return [None if span is None else text[slice(*span)] for span in (evidence.target, evidence.sentence, evidence.cue)]


def assert_valid(text, row):
    """Every span is a stretch of the text; target and cue stand in or around their sentence."""
    for each in row.values():
        if each == UNMENTIONED:
            continue
        assert each.value is not None
        assert each.state in ("positive", "negative", "uncertain")
        spans = [span for span in (each.evidence.target, each.evidence.sentence, each.evidence.cue) if span]
        assert all(0 <= start < end <= len(text) for start, end in spans)
        (first, last) = each.evidence.sentence
        assert all(first <= start and end <= last for start, end in spans)


def test_a_row_by_hand():
    text = "FINDINGS: No effusion. Heart is possibly enlarged."
    row = EXTRACTOR.extract(text)
    assert tuple(row) == EXTRACTOR.names == LEXICON.names
    assert row["effusion"] == Cell("negative", "negative", Evidence((13, 21), (10, 22), (10, 12)))
    assert row["cardiomegaly"] == Cell("uncertain", "uncertain", Evidence((23, 49), (23, 50), (32, 40)))
    assert {name for name, each in row.items() if each == UNMENTIONED} == {*EXTRACTOR.names} - {
        "effusion",
        "cardiomegaly",
    }
    assert from_json(to_json(row), EXTRACTOR.names) == row


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Of several mentions the one that says most counts.
        ("No effusion. Effusion.", {"effusion": "positive"}),
        ("Effusion. No effusion.", {"effusion": "positive"}),
        ("No effusion. Possible effusion.", {"effusion": "uncertain"}),
        ("Possible effusion. No effusion.", {"effusion": "uncertain"}),
        ("Possible effusion. Effusion. No effusion.", {"effusion": "positive"}),
        ("No effusion on the left, but effusion on the right.", {"effusion": "positive"}),
        ("Pleural spaces are clear. Small effusion.", {"effusion": "positive"}),
        # Statements of normality.
        ("Heart size is normal.", {"cardiomegaly": "negative"}),
        ("Normal chest.", {"effusion": "negative", "cardiomegaly": "negative"}),
        ("The heart is not normal.", {}),
        ("Heart size is possibly normal.", {}),
        ("The heart is not enlarged.", {"cardiomegaly": "negative"}),
        ("No evidence that the heart is enlarged.", {"cardiomegaly": "negative"}),
        ("He is afebrile.", {"fever": "negative"}),
        # Exceptions.
        ("Pericardial effusion.", {}),
        ("No pericardial effusion.", {}),
        ("Pericardial effusion. No pleural effusion.", {"effusion": "negative"}),
        ("Pericardial and pleural effusion.", {"effusion": "positive"}),
        ("An effusion of joy.", {}),
        # Values.
        ("Smooth edge.", {"edge": "smooth"}),
        ("The edge is ragged.", {"edge": "ragged"}),
        ("Spiculated.", {"edge": "ragged"}),
        ("Possibly ragged.", {"edge": "ragged"}),
        ("Not ragged.", {}),  # which it is instead is not said
        ("No edge.", {"edge": "no edge"}),
        ("An edge.", {}),  # named, but none of its values
        ("Not ragged. Smooth.", {"edge": "smooth"}),
        ("Atypical network.", {"network": "atypical"}),
        ("No network.", {}),
        # Numbers.
        ("63 years old.", {"age": "63"}),
        ("A 63-year-old.", {"age": "63"}),
        ("Aged 63.", {"age": "63"}),
        ("Aged 121. Aged 12.", {"age": "12"}),
        ("Aged 121.", {}),
        ("Aged 120.", {"age": "120"}),
        ("12 mm", {"size": "12"}),
        ("1.2 cm", {"size": "12"}),
        ("1,2 cm", {"size": "12"}),
        ("0.35cm", {"size": "3.5"}),
        ("800 micron", {"size": "0.8"}),
        ("0.4 mm", {}),
        ("31 cm", {}),
        ("3 mm, then 4 mm", {"size": "3"}),
        ("A diameter of 5.", {}),
        # The past, and relatives.
        ("History of cancer.", {}),
        ("HISTORY: Cancer.", {}),
        ("Indication: effusion.", {}),
        ("Indication: effusion.\nFINDINGS: No effusion.", {"effusion": "negative"}),
        ("Indication: rule out effusion. Findings: Effusion.", {"effusion": "positive"}),
        ("COMPARISON: Effusion in May.\nNo effusion.", {"effusion": "negative"}),
        ("History of fever.", {"fever": "positive"}),
        ("HISTORY: fever, no cancer.", {"fever": "positive"}),
        ("HISTORY: 63 years old.", {"age": "63"}),
        ("Family history: melanoma, fever.", {}),
        ("His mother had melanoma.", {}),
        ("Family history of fever.", {}),
        ("Family history: aged 63.", {}),
        ("Previously diagnosed with cancer. Cancer has returned.", {"cancer": "positive"}),
        # Nothing to read.
        ("", {}),
        ("   \n", {}),
        ("Nothing of note.", {}),
        ("EFFUSION: FINDINGS: EFFUSION", {"effusion": "positive"}),
    ],
)
def test_a_report_fills_the_cells_that_it_speaks_of(text, expected):
    assert said(text) == expected
    assert_valid(text, EXTRACTOR.extract(text))


def test_a_value_in_doubt_keeps_its_value_and_shows_its_state():
    assert cell("Possibly ragged edge.", "edge").state == "uncertain"
    assert cell("Possibly ragged. Smooth.", "edge").value == "smooth"
    assert cell("Ragged. Smooth.", "edge").value == "ragged"  # among equals the first


def test_evidence_shows_the_words():
    text = "Heart is fine.\nFINDINGS: 1. There is no pleural effusion, and the edge is ragged (1.5 cm)."
    assert words(text, "effusion") == [
        "effusion",
        "There is no pleural effusion, and the edge is ragged (1.5 cm).",
        "no",
    ]
    assert words(text, "edge")[0] == "ragged"
    assert words(text, "size")[0] == "1.5 cm"
    assert words("Edema. Heart size is normal.", "cardiomegaly") == [
        "Heart size is normal",
        "Heart size is normal.",
        None,
    ]
    assert words("Effusion is not seen.", "effusion")[2] == "is not seen"
    assert words("No effusion. Small effusion!", "effusion") == ["effusion", "Small effusion!", None]


def test_a_match_ends_with_its_sentence():
    assert EXTRACTOR.extract("The heart is\nenlarged.")["cardiomegaly"].value == "positive"  # a wrapped line
    assert EXTRACTOR.extract("The heart is\n\nenlarged.")["cardiomegaly"].value is None


def test_a_header_is_no_mention():
    extractor = RuleExtractor(Lexicon.parse("attributes: {impression: {terms: [impression]}}"))
    assert extractor.extract("IMPRESSION: 1. Clear.")["impression"] == UNMENTIONED
    assert extractor.extract("IMPRESSION: A false impression.")["impression"].value == "positive"


def test_what_is_not_text_is_refused():
    for wrong in (None, 3, b"No effusion.", ["No effusion."]):
        with pytest.raises(TypeError, match=f"a report must be a str, got {type(wrong).__name__}"):
            EXTRACTOR.extract(wrong)


def test_a_lexicon_may_be_named():
    assert RuleExtractor("kidney_ct").names == Lexicon.load("kidney_ct").names
    with pytest.raises(FileNotFoundError, match="there is no lexicon 'none'"):
        RuleExtractor("none")


def test_an_extractor_can_be_sent_to_another_process():
    text = "No effusion. Heart is enlarged. Ragged edge of 1.5 cm, 63 years old."
    again = pickle.loads(pickle.dumps(EXTRACTOR))
    assert again.names == EXTRACTOR.names
    assert again.extract(text) == EXTRACTOR.extract(text)


def test_no_connection_is_opened(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    row = RuleExtractor("chest_xray").extract("No effusion. Heart size is normal.")
    assert row["cardiomegaly"].value == "negative"


# What must hold for every report

SENTENCES = {
    "effusion": [
        "No effusion.",
        "Small effusion.",
        "Possible effusion.",
        "Pleural spaces are clear.",
        "Effusion is not seen.",
    ],
    "cardiomegaly": [
        "The heart is enlarged.",
        "Heart size is normal.",
        "No cardiomegaly.",
        "Cardiomegaly cannot be excluded.",
    ],
    "edge": ["Smooth edge.", "Possibly ragged.", "No edge.", "The edge is spiculated."],
    "fever": ["History of fever.", "Afebrile.", "Fever!"],
    "age": ["A 63-year-old.", "Aged 7."],
    "size": ["It has 12 mm.", "A lesion of 1.5 cm."],
}
REPORTS = st.fixed_dictionaries({}, optional={name: st.sampled_from(each) for name, each in SENTENCES.items()})


@given(REPORTS, st.sampled_from([" ", "\n", "\n\n", "\n- "]), st.randoms(use_true_random=False))
def test_a_cell_depends_on_no_sentence_about_something_else(report, between, order):
    alone = {name: cell(text, name) for name, text in report.items()}
    names = [*report]
    order.shuffle(names)
    text = between.join(report[name] for name in names)
    row = EXTRACTOR.extract(text)
    assert_valid(text, row)
    for name in EXTRACTOR.names:
        one = alone.get(name, UNMENTIONED)
        assert (row[name].value, row[name].state) == (one.value, one.state)
        if one.evidence is not None:
            assert text[slice(*row[name].evidence.target)] == report[name][slice(*one.evidence.target)]


@given(REPORTS, st.sampled_from(["FINDINGS: ", "Impression:\n", "IMPRESSION: 1. ", "\n\nFINAL REPORT: "]))
def test_headers_change_no_cell(report, header):
    plain = " ".join(report.values())
    with_header = header + plain
    before, after = EXTRACTOR.extract(plain), EXTRACTOR.extract(with_header)
    for name in EXTRACTOR.names:
        assert (before[name].value, before[name].state) == (after[name].value, after[name].state)
        if before[name].evidence is not None:
            start, end = before[name].evidence.target
            assert after[name].evidence.target == (start + len(header), end + len(header))


@given(REPORTS)
def test_the_state_of_a_finding_is_its_assertion(report):
    text = " ".join(report.values())
    each = cell(text, "effusion")
    if each != UNMENTIONED and "clear" not in text[slice(*each.evidence.target)]:
        assert assertion(text, *each.evidence.target) == each.state


MANGLED = [
    "\x00", "\ufeff", "\u200f", "\u202e", "\u2028", "\ud800", "\udfff", "\U0001f600", "\U0001f468\u200d\u2695\ufe0f",
    "שלום", "مرحبا", "no", "effusion", "No effusion. ", "heart", "enlarged", "\r", "\t", "\x0b", "\x1b[31m", "e\u0301" * 5,
    "\u0660\u0661 mm", "12 mm", "²", "½ cm", "1.", "- ", "HISTORY:", "Family history:\n", "<number>", "(", "*", "...", "%s",
    "\\", "'", '"', "\x7f", "\u0131", "İ", "ß", "ﬁ", "\n", "\n\n", ". ", "63 years old", "٦٣ years old", "\u00a0", "\u2013",
]  # fmt: skip


def test_ten_thousand_mangled_texts_are_read_in_bounded_time():
    random_of = random.Random(0)
    chest = RuleExtractor("chest_xray")
    started = time.process_time()
    for number in range(10_000):
        kind = number % 4
        if kind == 0:
            text = "".join(random_of.choices(MANGLED, k=random_of.randrange(30)))
        elif kind == 1:
            text = "".join(chr(random_of.randrange(0x110000)) for _ in range(random_of.randrange(60)))
        else:  # a report with characters lost, doubled and exchanged
            letters = [
                *"No effusion or pneumothorax. Heart is enlarged; possible edema, 63 years old.\n1. 12 mm nodule."
            ]
            for _ in range(random_of.randrange(1, 25)):
                letters[random_of.randrange(len(letters))] = random_of.choice(["", "  ", *MANGLED, *letters])
            text = "".join(letters)
        extractor = EXTRACTOR if number % 8 < 6 else chest
        assert_valid(text, extractor.extract(text))
    assert time.process_time() - started < 60


@pytest.mark.parametrize("piece", [*MANGLED[:12], "No effusion or heart enlarged, ", "a\u0301"], ids=ascii)
def test_a_megabyte_of_anything_is_read_in_bounded_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    assert_valid(text, EXTRACTOR.extract(text))
    assert time.process_time() - started < 10


# Real reports


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the gold's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(
    not (DATA / "indiana_reports" / "reports.csv").is_file() or not (SHARED / "checks" / "indiana_eval.py").is_file(),
    reason="ALIGNEDFUSION_DATA names no folder with the Indiana reports, or their gold is not there",
)
def test_the_fourteen_findings_of_the_indiana_reports():
    gold = _module(SHARED / "checks" / "indiana_eval.py")
    extractor = RuleExtractor("chest_xray")
    columns = {
        **{finding: (finding.replace(" ", "_"),) for finding in gold.FINDINGS},
        "airspace disease or consolidation": ("consolidation",),
        "lung opacity (any)": ("opacity", "consolidation", "pneumonia"),
    }

    def extract(text, findings):
        row = extractor.extract(text)
        answers = {}
        for finding in findings:
            cells = [row[name] for name in columns[finding] if row[name].state]
            for state in ("positive", "uncertain", "negative"):
                if best := [each for each in cells if each.state == state]:
                    answers[finding] = (state, *best[0].evidence.target)
                    break
        return answers

    scores = {}
    for headers in (False, True):
        rows = gold.load(str(DATA / "indiana_reports" / "reports.csv"), headers)
        scores[headers] = gold.evaluate(extract, rows, "dev")
        assert scores[headers]["n"] > 1000
        assert scores[headers]["evidence_ok"] == 1
        assert scores[headers]["micro"]["f1"] >= 0.90
        assert scores[headers]["macro_f1"] >= 0.86
        assert scores[headers]["per"]["cardiomegaly"]["unmentioned"] < 0.15
    assert scores[False]["micro"]["f1"] - scores[True]["micro"]["f1"] <= 0.01
    assert scores[False]["macro_f1"] - scores[True]["macro_f1"] <= 0.01


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
