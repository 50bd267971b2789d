"""Lexicons: those shipped read reports of their field, and a mistake in one's own is named with its line."""

import re
import socket
import time
from textwrap import dedent

import pytest
import yaml

from alignedfusion.reports import Lexicon, RuleExtractor
from alignedfusion.reports.rules.lexicon import KEYS, shipped

FINDINGS_OF_THE_BAR = """cardiomegaly pleural_effusion pneumothorax consolidation pulmonary_edema atelectasis opacity nodule
    granuloma emphysema fracture pneumonia hiatal_hernia scoliosis"""


def parse(text):
    return Lexicon.parse(dedent(text), source="mine.yaml")


def shown(lexicon, text):
    """What a report mentions, as {attribute: value} or, where that is another, (value, state)."""
    row = RuleExtractor(lexicon).extract(text)
    assert list(row) == list(RuleExtractor(lexicon).names)
    return {
        name: cell.value if cell.value == cell.state else (cell.value, cell.state)
        for name, cell in row.items()
        if cell.value is not None or cell.state is not None
    }


# Those shipped


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_lexicon_survives_the_way_to_yaml_and_back(name):
    lexicon = Lexicon.load(name)
    again = Lexicon.parse(lexicon.to_yaml())
    assert again.attributes == lexicon.attributes
    assert again.to_yaml() == lexicon.to_yaml()


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_lexicon_gives_a_schema(name):
    lexicon = Lexicon.load(name)
    schema = lexicon.schema()
    assert schema.names == lexicon.names
    for attribute, ours in zip(schema.attributes, lexicon.attributes, strict=True):
        assert attribute.kind == ("numeric" if ours.is_numeric else "categorical")
        if not ours.is_numeric:
            assert attribute.values == ours.candidates()
            assert len(attribute.values) >= 2
            assert {value for value, _ in ours.values} <= set(attribute.values)


def test_six_fields_are_shipped_and_chest_xray_has_the_findings_that_are_scored():
    assert shipped() == ["chest_ct", "chest_xray", "dermoscopy", "kidney_ct", "mammography", "skin_lesion"]
    assert set(FINDINGS_OF_THE_BAR.split()) <= set(Lexicon.load("chest_xray").names)


CHEST = """\
INDICATION: 63-year-old man with fever and productive cough. History of diabetes. Rule out pneumonia.
COMPARISON: None.
FINDINGS: The heart is mildly enlarged. No pleural effusion or pneumothorax. There is a patchy opacity in the right
lower lobe, which may represent pneumonia. Bibasilar atelectasis. The aorta is tortuous. No acute bony abnormality.
A calcified granuloma is seen in the left apex. Pulmonary vascularity is normal.
IMPRESSION:
1. Right lower lobe opacity, possible pneumonia.
2. Mild cardiomegaly without edema.
Temperature of 38.4, SpO2 of 91%. CRP 120 mg/L. WBC of 14.2.
"""
DERMOSCOPY = """\
CLINICAL INFORMATION: 54 year old woman, lesion on the left thigh, 7 mm.
DERMOSCOPY: Atypical pigment network. Irregular streaks at the periphery. No blue-whitish veil.
Irregular dots and globules. Regression structures are absent. Dotted vessels.
The lesion is palpable. Homogeneous pigmentation.
"""
SKIN = """\
HISTORY: A 71 year old man, a farmer, with a growing lesion on the nose of 1.2 cm. It itches and bled twice. It does not hurt.
He is a non-smoker and drinks alcohol on weekends. Previous basal cell carcinoma. Family history of melanoma.
Fitzpatrick skin type II. No piped water at home.
EXAMINATION: A nodular, ulcerated lesion.
"""
KIDNEY = """\
CLINICAL HISTORY: 58 year old woman with hematuria and left flank pain. Creatinine of 1.1 mg/dL.
FINDINGS: There is a 4.5 cm heterogeneously enhancing exophytic mass in the upper pole of the left kidney with central
necrosis. No calcification. No macroscopic fat. The renal vein is patent. Perinephric fat is preserved. Simple cyst in the
right kidney, Bosniak II. No hydronephrosis or renal stones. No lymphadenopathy. Possible liver metastases.
"""


def test_a_chest_x_ray_report():
    assert shown("chest_xray", CHEST) == {
        "cardiomegaly": "positive",
        "pleural_effusion": "negative",
        "pneumothorax": "negative",
        "pneumonia": "uncertain",  # what was asked for does not count, what was found does
        "opacity": "positive",
        "atelectasis": "positive",
        "pulmonary_edema": "negative",
        "vascular_congestion": "negative",
        "granuloma": "positive",
        "fracture": "negative",
        "degenerative_spine": "negative",
        "tortuous_aorta": "positive",
        "fever": "positive",
        "cough": "positive",
        "productive_cough": "positive",
        "diabetes": "positive",
        "sex": ("male", "positive"),
        "age": ("63", "positive"),
        "temperature": ("38.4", "positive"),
        "oxygen_saturation": ("91", "positive"),
        "crp": ("120", "positive"),
        "leukocyte_count": ("14.2", "positive"),
    }


def test_a_dermoscopy_report():
    assert shown("dermoscopy", DERMOSCOPY) == {
        "pigment_network": ("atypical", "positive"),
        "streaks": ("irregular", "positive"),
        "pigmentation": ("diffuse regular", "positive"),
        "regression_structures": ("absent", "negative"),
        "dots_and_globules": ("irregular", "positive"),
        "blue_whitish_veil": ("absent", "negative"),
        "vascular_structures": ("dotted", "positive"),
        "elevation": ("palpable", "positive"),
        "location": ("lower limbs", "positive"),
        "sex": ("female", "positive"),
        "age": ("54", "positive"),
        "diameter": ("7", "positive"),
    }
    assert shown("dermoscopy", "A pigment network and streaks. Blue-white veil.") == {
        "blue_whitish_veil": ("present", "positive")  # the others are named without a value
    }


def test_a_note_on_a_skin_lesion():
    assert shown("skin_lesion", SKIN) == {
        "itch": "positive",
        "grew": "positive",
        "hurt": "negative",
        "bleed": "positive",
        "elevation": "positive",
        "ulceration": "positive",
        "smoke": "negative",
        "drink": "positive",
        "sun_exposure": "positive",
        "skin_cancer_history": "positive",
        "piped_water": "negative",
        "fitzpatrick": ("2", "positive"),
        "region": ("nose", "positive"),
        "sex": ("male", "positive"),
        "age": ("71", "positive"),
        "diameter": ("12", "positive"),
    }


def test_a_kidney_ct_report():
    assert shown("kidney_ct", KIDNEY) == {
        "renal_mass": "positive",
        "renal_cyst": "positive",
        "bosniak": ("II", "positive"),
        "kidney_stone": "negative",
        "hydronephrosis": "negative",
        "enhancement": ("heterogeneous", "positive"),
        "growth": ("exophytic", "positive"),
        "side": ("left", "positive"),
        "pole": ("upper", "positive"),
        "necrosis": "positive",
        "calcification": "negative",
        "fat": "negative",
        "vein_thrombus": "negative",
        "perinephric_stranding": "negative",
        "lymphadenopathy": "negative",
        "metastasis": "uncertain",
        "hematuria": "positive",
        "flank_pain": "positive",
        "sex": ("female", "positive"),
        "age": ("58", "positive"),
        "size": ("45", "positive"),
        "creatinine": ("1.1", "positive"),
    }


@pytest.mark.parametrize("name", shipped())
def test_a_report_about_something_else_mentions_nothing(name):
    assert shown(name, "The invoice was paid in full.") == {}


# One's own


def test_every_key_in_one_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        dedent(
            """
            about: Everything that a lexicon can say.
            shared:
              clear: &clear [lungs (are|) clear, chest is clear]
            attributes:
              effusion:
                terms: [effusion]
                normal: [*clear, pleura is normal]
                except: [pericardial effusion]
                negative: absent
                positive: present
              edge:
                terms: edge
                values: {smooth: smooth, ragged: [ragged, spiculated]}
                negative: none
                positive: unclear
                history: true
              size:
                numbers: <number> mm
                times: {10: <number> cm, 0.001: [<number> micron]}
                unit: mm
                between: [0.5, 99]
                edges: [2, 20]
            """
        )
    )
    lexicon = Lexicon.load(file)
    used = {key for entry in yaml.safe_load(file.read_text())["attributes"].values() for key in entry}
    assert used == set(KEYS)
    assert lexicon.names == ("effusion", "edge", "size")
    effusion, edge, size = lexicon.attributes
    assert [term.source for term in effusion.normal] == ["lungs (are|) clear", "chest is clear", "pleura is normal"]
    assert effusion.candidates() == ("present", "absent", "uncertain")
    assert edge.candidates() == ("smooth", "ragged", "unclear", "none")
    assert edge.history
    assert not effusion.history
    assert size.candidates() == ()
    assert [(term.source, factor) for term, factor in size.numbers] == [
        ("<number> mm", 1.0),
        ("<number> cm", 10.0),
        ("<number> micron", 0.001),
    ]
    assert (size.unit, size.between, size.edges) == ("mm", (0.5, 99.0), (2.0, 20.0))
    schema = lexicon.schema()
    assert [attribute.kind for attribute in schema.attributes] == ["categorical", "categorical", "numeric"]
    assert schema.attributes[2].units == "mm"
    assert Lexicon.parse(lexicon.to_yaml()).attributes == lexicon.attributes


def test_what_yaml_takes_for_something_else_stays_a_word():
    lexicon = parse(
        """
        attributes:
          answer: {values: {yes: [yes, on], no: [no, off], 1: 1, 2.50: [2.50], null: [null]}}
          true: {terms: [true, yes]}
          7: {terms: [1e3, 0x10, 2001-01-01]}
        """
    )
    assert lexicon.names == ("answer", "true", "7")
    assert lexicon.attributes[0].candidates() == ("yes", "no", "1", "2.50", "null")
    assert [term.source for term in lexicon.attributes[2].terms] == ["1e3", "0x10", "2001-01-01"]
    assert shown(lexicon, "Answer: on.") == {"answer": ("yes", "positive")}
    assert Lexicon.parse(lexicon.to_yaml()).attributes == lexicon.attributes


def test_all_numbers_may_be_in_another_unit():
    lexicon = parse("attributes:\n  size: {numbers: [], times: {10: [<number> cm]}, between: [0, inf]}")
    assert shown(lexicon, "A lesion of 1.5 cm.") == {"size": ("15", "positive")}
    assert Lexicon.parse(lexicon.to_yaml()).attributes == lexicon.attributes


def test_a_subset_keeps_the_order_that_was_asked_for():
    lexicon = Lexicon.load("chest_xray").subset(["nodule", "cardiomegaly"])
    assert lexicon.names == ("nodule", "cardiomegaly")
    with pytest.raises(ValueError, match="the lexicon has no attribute 'nodul'; did you mean 'nodule'"):
        Lexicon.load("chest_xray").subset(["nodul"])
    with pytest.raises(ValueError, match="the lexicon has no attribute 'zz'; known: nodule, cardiomegaly"):
        lexicon.subset(["zz"])


def test_a_name_that_is_none_is_answered_with_those_there_are(tmp_path):
    for name in ("chest", str(tmp_path / "none.yaml"), str(tmp_path)):
        with pytest.raises(
            FileNotFoundError, match=f"there is no lexicon {re.escape(repr(name))}.*chest_ct, chest_xray, dermo"
        ):
            Lexicon.load(name)


MISTAKES = [
    ("", "mine.yaml: has no 'attributes'"),
    ("about: Chests.", "mine.yaml: has no 'attributes'"),
    ("attributes:", "mine.yaml, line 1: 'attributes' must hold keys and values"),
    ("attributes: {}", "mine.yaml, line 1: 'attributes' names none"),
    ("attributes: [a, b]", "mine.yaml, line 1: 'attributes' must hold keys and values"),
    ("- a", "mine.yaml, line 1: the file must hold keys and values"),
    ("attributes:\n  a: {terms: [b}", "mine.yaml, line 2: not YAML: "),
    ("attributes:\n  a:\n    terms: [b]\n   values: [c]", "mine.yaml, line 4: not YAML: "),
    ("attributes:\n\ta: {terms: [b]}", "mine.yaml, line 2: not YAML: "),
    ("attributes:\n  a: {terms: [*b]}", "mine.yaml, line 2: not YAML: found undefined alias"),
    ("attributes:\n  a: {terms: [\x00]}", "mine.yaml"),
    ("attribute:\n  a: {terms: [b]}", "mine.yaml, line 2: unknown key 'attribute'; a lexicon has 'attributes'"),
    ("attributes:\n  a: {terms: [b]}\n  a: {terms: [c]}", "mine.yaml, line 3: 'attributes' names 'a' twice"),
    ("attributes:\n  a:\n    terms: [b]\n    terms: [c]", "mine.yaml, line 4: attribute 'a' names 'terms' twice"),
    ("attributes:\n  a:\n    term: [b]", "line 3: attribute 'a' has the unknown key 'term'; did you mean 'terms'?"),
    ("attributes:\n  a:\n    words: [b]", "line 3: attribute 'a' has the unknown key 'words'; known: terms, values,"),
    ("attributes:\n  a: [b]", "line 2: attribute 'a' must hold keys and values"),
    ("attributes:\n  a:", "line 2: attribute 'a' must hold keys and values"),
    ("attributes:\n  a: {}", "line 2: attribute 'a' needs 'terms', 'values' or 'numbers'"),
    ("attributes:\n  a:\n    normal: [b]", "line 3: attribute 'a' needs 'terms', 'values' or 'numbers'"),
    ("attributes:\n  a:\n    terms: []", "line 3: attribute 'a': 'terms' holds no term"),
    ("attributes:\n  a:\n    values: {}", "line 3: attribute 'a': 'values' names none"),
    ("attributes:\n  a:\n    values: {b: []}", "line 3: attribute 'a': 'b' holds no term"),
    ("attributes:\n  a:\n    numbers: []", "line 3: attribute 'a': 'numbers' holds no term"),
    (
        "attributes:\n  a:\n    terms:\n      - b\n      -",
        "line 5: attribute 'a': 'terms' must be a text, not a list or",
    ),
    ("attributes:\n  a:\n    terms: [b]\n    except: []", "line 4: attribute 'a': 'except' holds no term"),
    ("attributes:\n  a:\n    terms: {b: c}", "line 3: attribute 'a': 'terms' must be a text, not a list or nothing"),
    ("attributes:\n  a:\n    terms: [b, '(c']", "line 3: attribute 'a', 'terms': term '(c': '(' is not closed by ')'"),
    (
        "attributes:\n  a:\n    terms:\n    - b\n    - c*",
        "line 5: attribute 'a', 'terms': term 'c*': at least three letters",
    ),
    ("attributes:\n  a:\n    values: [b]", "line 3: attribute 'a', 'values' must hold keys and values"),
    ("attributes:\n  a:\n    values:\n      b: '...'", "line 4: attribute 'a', 'b': term '...': '...' needs a word"),
    ("attributes:\n  a:\n    values:\n      b: c\n      b: d", "line 5: attribute 'a', 'values' names 'b' twice"),
    ("attributes:\n  a:\n    terms: [b]\n    unit: mm", "line 4: attribute 'a': 'unit' belongs to 'numbers'"),
    ("attributes:\n  a:\n    terms: [b]\n    times: {}", "line 4: attribute 'a': 'times' belongs to 'numbers'"),
    ("attributes:\n  a:\n    terms: [b]\n    numbers: [<number>]", "line 3: attribute 'a' has 'numbers' and 'terms'"),
    ("attributes:\n  a:\n    values: {b: c}\n    numbers: [<number>]", "attribute 'a' has 'numbers' and 'values'"),
    ("attributes:\n  a:\n    numbers: [crp]", "line 3: attribute 'a': 'crp' has no <number> in it"),
    (
        "attributes:\n  a:\n    numbers: [<number> mm]\n    times: {10: [cm]}",
        "attribute 'a': 'cm' has no <number> in it",
    ),
    (
        "attributes:\n  a:\n    numbers: [<number> mm]\n    times: {ten: [<number> cm]}",
        "attribute 'a': 'ten' is not a number",
    ),
    ("attributes:\n  a:\n    numbers: [<number> x <number>]", "<number> can stand in it once"),
    (
        "attributes:\n  a:\n    numbers: [<number>]\n    between: [5, 1]",
        "line 4: attribute 'a': between must be [lowest,",
    ),
    (
        "attributes:\n  a:\n    numbers: [<number>]\n    between: [5]",
        "line 4: attribute 'a': between must be [lowest, hi",
    ),
    (
        "attributes:\n  a:\n    numbers: [<number>]\n    between: 5",
        "line 4: attribute 'a': 'between' must be a list of nu",
    ),
    ("attributes:\n  a:\n    numbers: [<number>]\n    between: [a, b]", "line 4: attribute 'a': 'a' is not a number"),
    (
        "attributes:\n  a:\n    numbers: [<number>]\n    between: [nan, 3]",
        "line 4: attribute 'a': 'nan' is not a number",
    ),
    (
        "attributes:\n  a:\n    numbers: [<number>]\n    edges: [3, 1]",
        "line 4: attribute 'a': edges must be finite and grow",
    ),
    ("attributes:\n  a:\n    numbers: [<number>]\n    edges: [inf]", "line 4: attribute 'a': edges must be finite and"),
    ("attributes:\n  a:\n    numbers: [<number>]\n    edges: [1, x]", "line 4: attribute 'a': 'x' is not a number"),
    (
        "attributes:\n  a:\n    terms: [b]\n    history: perhaps",
        "line 4: attribute 'a': history must be true or false, got",
    ),
    ("attributes:\n  a:\n    terms: [b]\n    history: [true]", "line 4: attribute 'a': 'history' must be a text"),
    ("attributes:\n  a:\n    terms: [b]\n    negative: [c]", "line 4: attribute 'a': 'negative' must be a text"),
    ("attributes:\n  a:\n    terms: [b]\n    negative: ''", "line 4: attribute 'a': 'negative' must be a text"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line_and_key(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Lexicon.parse(text, source="mine.yaml")


def test_loading_asks_no_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection was opened"))
    assert [len(Lexicon.load(name).names) >= 10 for name in shipped()] == [True] * 6


def test_a_list_within_itself_is_refused():
    with pytest.raises(ValueError, match=r"lexicon, line 1: attribute 'a': 'terms' has lists within lists"):
        Lexicon.parse("attributes: {a: {terms: &x [*x]}}")


def test_a_file_that_multiplies_its_terms_is_refused():
    levels = ["a: &a [x, y, z]"] + [f"{new}: &{new} [{', '.join(['*' + old] * 40)}]" for old, new in ("ab", "bc", "cd")]
    text = "shared:\n" + "".join(f"  {level}\n" for level in levels) + "attributes:\n  lump: {terms: *d}\n"
    start = time.process_time()
    with pytest.raises(ValueError, match=r"mine\.yaml, line 2: attribute 'lump': the file has more than 20000 terms"):
        Lexicon.parse(text, source="mine.yaml")
    assert time.process_time() - start < 5


def test_a_term_that_is_too_large_is_named_with_its_line():
    gaps = " ... ".join("abcdefghi")
    with pytest.raises(ValueError, match=r"mine\.yaml, line 4: attribute 'lump', 'terms': term .* has 8 gaps"):
        Lexicon.parse(f"attributes:\n  lump:\n    terms:\n      - {gaps}\n", source="mine.yaml")
    with pytest.raises(ValueError, match=r"mine\.yaml, line 3: .* has 12 optional parts"):
        Lexicon.parse(f"attributes:\n  lump:\n    normal: ['{'(a) ' * 12}b']\n    terms: [lump]\n", source="mine.yaml")
    with pytest.raises(ValueError, match=r"mine\.yaml: .*nested too deeply"):
        Lexicon.parse("[" * 20_000, source="mine.yaml")
