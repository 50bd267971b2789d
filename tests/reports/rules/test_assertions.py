"""Is what a report names there, denied or in doubt? Sentences of our own, of kinds that every clinician writes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.reports import assertion
from alignedfusion.reports.rules.assertions import find_cues, judge, speaks_of

# What stands in [brackets] is said to be there, in {braces} is denied, in <angles> is in doubt.
SENTENCES = [
    # Plain mentions.
    "[Pneumothorax].",
    "There is a small left [pleural effusion].",
    "Moderate [cardiomegaly] is again seen.",
    "The [nodule] in the right apex has not changed.",
    "[Effusion] has increased since yesterday.",
    "Findings are consistent with [pneumonia].",
    "Known [emphysema].",
    # A denial in front.
    "No {pneumothorax}.",
    "No evidence of {pneumothorax}.",
    "There is no {pleural effusion}.",
    "Lungs are without {consolidation}.",
    "No definite {fracture} is seen.",
    "No new {consolidation}.",
    "No radiographic evidence of {tuberculosis}.",
    "Patient denies {chest pain}.",
    "He denied any {fever}.",
    "Denies any history of {seizures}.",
    "Negative for {fracture}.",
    "Absence of {edema}.",
    "The absence of any {edema} is reassuring.",
    "There is no longer any {effusion}.",
    "The scan fails to show any {metastasis}.",
    "The heart is not {enlarged}.",
    "Nothing to suggest {malignancy}.",
    "Not consistent with {pneumonia}.",
    "Never had {asthma}.",
    "Neither {effusion} nor {pneumothorax} is seen.",
    "Patient has not had {fever}.",
    "She does not have {diabetes}.",
    "Lack of {edema} argues against failure.",
    "No mediastinal or hilar {adenopathy}.",
    "No large {effusion}.",
    "No suspicious {mass}.",
    # Lists.
    "No focal {consolidation}, {effusion}, or {pneumothorax}.",
    "No {consolidation}, {effusion} or {pneumothorax} is identified.",
    "No {effusion} or {pneumothorax}.",
    "No {pneumothorax} and no {effusion}.",
    "No {fever}, {chills}, or {night sweats}.",
    "Denies {fever}, {cough}, {nausea} and {vomiting}.",
    "Without evidence of {edema}, {consolidation}, {effusion} or other {abnormality}.",
    "No {fever}/{chills}.",
    "[Cough], [fever] and [dyspnea] for three days.",
    # Clear, free and resolved.
    "Lungs are clear of {infiltrate}.",
    "The lungs are clear of focal {consolidation} and {effusion}.",
    "The pleural spaces are free of {fluid}.",
    "The {effusion} has resolved.",
    "Previously seen {pneumonia} has completely resolved.",
    "Interval resolution of the right {effusion}.",
    "Resolved {pneumonia}.",
    "The {infiltrates} have cleared.",
    "{Edema} has resolved, but a small [effusion] remains.",
    "[Edema] is resolving.",
    # A denial behind.
    "{Pneumothorax} is not seen.",
    "{Pleural effusion} is absent.",
    "{Fracture} not identified.",
    "{Pneumothorax}: none.",
    "{Effusion}: absent.",
    "{Effusion}: negative.",
    "Left {effusion}, resolved.",
    "Known [effusion] with resolved {pneumothorax}.",
    "[Opacity] suspected to be <pneumonia>.",
    "{Pneumonia} (ruled out).",
    "{Nausea}: no.",
    "{Edema} absent in both legs.",
    "{Embolism} ruled out by computed tomography.",
    "{Chest pain}: denied.",
    "{Pulmonary embolism} was ruled out.",
    "{Pulmonary embolism} has been excluded.",
    "{Effusion} is no longer seen.",
    "{Effusions} and {infiltrates} are not seen.",
    "{Fever} was denied.",
    "{Malignancy} is unlikely.",
    "{Lymphadenopathy} is not present.",
    "{Pneumonia} is not evident.",
    # Conjunctions.
    "No {effusion}, but there is [cardiomegaly].",
    "No {pneumothorax}; small left [effusion].",
    "No {pneumothorax}, however [atelectasis] is present.",
    "There is [atelectasis] without {effusion}.",
    "Small [effusion] but no {pneumothorax}.",
    "[Cardiomegaly] with no {edema}.",
    "Although there is no {pneumothorax}, there is a large [effusion].",
    "No {fever} except for a [temperature] of 38 once.",
    "No {consolidation}. [Effusion] on the left.",
    "[Fracture] of the rib, no {pneumothorax}.",
    "No {effusion} and the [heart] is large.",
    "Denies {cough} yet reports [dyspnea].",
    "{Pneumonia} is not seen, [cardiomegaly] is.",
    "No {pneumothorax} and there is mild [edema].",
    "Apart from a [granuloma], no {abnormality}.",
    # Words that look like a denial and are none.
    "No change in [effusion].",
    "No significant change in the [nodule].",
    "No interval change in right [pneumothorax].",
    "No increase in the size of the [mass].",
    "[Effusion] not significantly changed.",
    "Not only [effusion] but also [edema].",
    "The [nodule] has not increased in size.",
    "Without significant change in the left [effusion].",
    "No {pneumothorax} following biopsy of a [nodule].",
    "There is no focal {consolidation} to suggest {pneumonia}.",
    "{Pneumonia} less likely.",
    "[Edema] has not resolved.",
    "The {mass} seen previously is no longer visible.",
    "No sonographic evidence of {cholecystitis}.",
    "There is a right [effusion] and no left {effusion}.",
    "Lungs: no {consolidation}. Heart: [enlarged].",
    "Interval development of [edema].",
    "Gram negative [pneumonia].",
    "There is no doubt that this is [cancer].",
    "No further increase of [edema].",
    # Hedges.
    "Possible <pneumonia>.",
    "Possibly <atelectasis>.",
    "Probable <scarring>.",
    "Likely <atelectasis>.",
    "This may represent <pneumonia>.",
    "Could be <scarring>.",
    "Suspicious for <malignancy>.",
    "Concerning for <metastasis>.",
    "Suspected <fracture>.",
    "Findings suggest <edema>.",
    "Suggestive of <emphysema>.",
    "Questionable <nodule> in the left apex.",
    "Presumed <granuloma>.",
    "[Opacity], possibly <pneumonia>.",
    "[Opacities] which may represent <atelectasis> or <pneumonia>.",
    "<Atelectasis> versus <pneumonia>.",
    "? <fracture>",
    "<Pneumonia> is possible.",
    "<Pneumonia> is suspected.",
    "<Fracture> is not excluded.",
    "Cannot exclude <pneumonia>.",
    "Cannot rule out <fracture>.",
    "<Pneumonia> cannot be excluded.",
    "A small <pneumothorax> cannot be entirely excluded.",
    "Superimposed <infection> could not be ruled out.",
    "Difficult to exclude <infiltrate>.",
    "Rule out <pneumonia>.",
    "R/o <pneumothorax>.",
    "Evaluate for <effusion>.",
    "Concern for <aspiration>.",
    "Differential includes <infection> and <edema>.",
    "Unclear if <mass> or vessel.",
    "Raises the possibility of <malignancy>.",
    "Probable <scar>, no {mass}.",
    "<Pneumonia> should be considered.",
    "Perhaps <scarring>.",
    "This is likely <atelectasis>.",
    "There is possible <atelectasis> at the left base.",
    "There is a possible <fracture>.",
    "There is suspected <pneumonia>.",
    "The heart is possibly <enlarged>.",
    "<Pneumonia> is likely.",
    "<Pneumonia> is suspected in the right lower lobe.",
    "<Effusion> is likely given the blunted angle.",
    "In the appropriate setting this could represent <pneumonia>.",
    # Capitals and headers.
    "NO {PNEUMOTHORAX}.",
    "THERE IS NO EVIDENCE OF {PNEUMOTHORAX} OR {EFFUSION}.",
    "POSSIBLE <PNEUMONIA>. NO {EFFUSION}. MILD [CARDIOMEGALY].",
    "IMPRESSION: No {pneumothorax}.",
    "IMPRESSION:\n1. No {pneumothorax}.\n2. Small [effusion].\n3. Possible <pneumonia>.",
    "FINDINGS: [Cardiomegaly]. IMPRESSION: No {edema}.",
    "FINDINGS: {Pneumothorax} is not seen.",
    "Impression: [Pneumonia].",
    # Wrapped lines.
    "There is no\n{effusion} or\n{pneumothorax}.",
    # Several answers in one sentence.
    "[Cardiomegaly] with possible <edema> and no {effusion}.",
    "No {effusion}, possible <pneumonia>.",
    "Small [effusion], no {pneumothorax}, and possible <pneumonia>.",
    "The heart is [enlarged] without evidence of {edema}; <pneumonia> cannot be excluded.",
    "Mild [edema]; no {effusion} or {pneumothorax}; <pneumonia> is possible.",
    "No {pneumothorax} after removal of the tube, but the [effusion] is larger.",
    "Interval resolution of {edema} with persistent [cardiomegaly].",
    "The patient reports [cough] and [dyspnea] but denies {fever}.",
    "She has [nausea] without {vomiting}.",
    "He presents with [fever], without {cough} or {dyspnea}.",
    "Stable [cardiomegaly], no acute {disease}.",
    # Other fields.
    "No {blue-whitish veil}, no {regression structures}.",
    "An atypical [pigment network] without {streaks}.",
    "The lesion does not {itch} and never {bled}.",
    "No {hydronephrosis} and no {stones} on the right.",
    "A simple [cyst] in the left kidney; no solid {mass}.",
    "Renal vein without {thrombus}.",
    # Across sentences nothing reaches.
    "No. [Effusion] was seen.",
    "[Effusion]. None of the others.",
    "Possible <mass>. [Effusion].",
]
MARKED = re.compile(r"\[(.*?)\]|\{(.*?)\}|<(.*?)>", re.DOTALL)
ANSWERS = ("positive", "negative", "uncertain")


def unmarked(marked):
    """The sentence without its marks, and (start, end, answer) for each of them."""
    text, targets, last = "", [], 0
    for match in MARKED.finditer(marked):
        text += marked[last : match.start()]
        kind = match.lastindex - 1
        targets.append((len(text), len(text) + len(match[kind + 1]), ANSWERS[kind]))
        text += match[kind + 1]
        last = match.end()
    return text + marked[last:], targets


def answers(text, targets):
    return [(text[start:end], assertion(text, start, end)) for start, end, _ in targets]


@pytest.mark.parametrize("marked", SENTENCES)
def test_a_sentence_says_what_a_reader_takes_from_it(marked):
    text, targets = unmarked(marked)
    assert targets
    assert answers(text, targets) == [(text[start:end], answer) for start, end, answer in targets]


@pytest.mark.parametrize("marked", SENTENCES)
def test_headers_and_neighbours_change_no_answer(marked):
    text, targets = unmarked(marked)
    for front in ("FINDINGS: ", "IMPRESSION:\n", "The spine is straight. ", "No scoliosis is seen. ", "1. "):
        shifted = [(start + len(front), end + len(front), answer) for start, end, answer in targets]
        assert answers(front + text, shifted) == answers(text, targets), front
    for behind in (" Degenerative changes.", "\nNo scoliosis.", "\n2. Possible scoliosis."):
        assert answers(text + behind, targets) == answers(text, targets), behind


@pytest.mark.parametrize("marked", SENTENCES)
def test_capitals_change_no_answer(marked):
    text, targets = unmarked(marked)
    for each in (text.replace("\n", " ").upper(), text.lower()):  # a line that begins with a capital begins anew
        assert [assertion(each, start, end) for start, end, _ in targets] == [answer for *_, answer in targets]


def test_there_are_enough_sentences_of_each_answer():
    given_answers = [answer for marked in SENTENCES for *_, answer in unmarked(marked)[1]]
    assert len(set(SENTENCES)) == len(SENTENCES) >= 80
    assert min(given_answers.count(answer) for answer in ANSWERS) >= 40


@pytest.mark.parametrize(("start", "end"), [(0, 0), (3, 3), (5, 2), (-1, 4), (0, 13), (12, 13), (99, 100)])
def test_a_span_must_be_a_stretch_of_the_text(start, end):
    with pytest.raises(ValueError, match=f"the span {start} to {end} is not within the text, which has 12 characters"):
        assertion("No effusion.", start, end)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_has_no_span(text):
    with pytest.raises(ValueError, match="is not within the text"):
        assertion(text, 0, 2)


def test_what_stands_in_no_sentence_is_a_mention():
    assert assertion("FINDINGS: no mass", 0, 8) == "positive"  # a header
    assert assertion("   \n", 1, 2) == "positive"


def cue_of(text, word):
    start = text.index(word)
    state, cue = judge(text, find_cues(text, 0, len(text)), (start, start + len(word)))
    return state, cue and text[slice(*cue)]


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("There is no evidence of edema", "edema", ("negative", "no evidence of")),
        ("Edema is not seen", "Edema", ("negative", "is not seen")),
        ("No edema is possible", "edema", ("uncertain", "is possible")),  # what stands behind corrects
        ("No possible edema", "edema", ("negative", "No")),
        ("No fever, possible edema", "edema", ("uncertain", "possible")),  # the nearest counts
        ("No fever, possible edema", "fever", ("negative", "No")),
        ("Mild edema", "edema", ("positive", None)),
        ("? edema", "edema", ("uncertain", "?")),
        # A phrase that denies no finding does deny itself, where a lexicon asks for it.
        ("There is no significant growth", "growth", ("negative", "no significant")),
        ("No change in size", "change in size", ("negative", "No")),
        ("No change of the edema", "edema", ("positive", None)),
    ],
)
def test_the_deciding_cue_is_handed_out(text, word, expected):
    assert cue_of(text, word) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("history of asthma", "history"),
        ("past medical history significant for asthma", "history"),
        ("s/p treatment, then asthma", ""),
        ("status post asthma", "history"),
        ("family history of asthma", "family"),
        ("her mother had asthma", "family"),
        ("his brother died of asthma", "family"),
        ("history of cancer but now asthma", ""),
        ("asthma, history of cancer", ""),
        ("asthma", ""),
    ],
)
def test_whose_finding_it_is_and_when(text, expected):
    start = text.index("asthma")
    assert speaks_of(text, find_cues(text, 0, len(text)), (start, start + 6)) == expected


WORDS = [
    "No",
    "possible",
    "effusion",
    "is",
    "not",
    "seen",
    ",",
    "but",
    ";",
    "or",
    "and",
    "edema",
    ".",
    "\n",
    "cannot",
    "be",
]


@given(
    st.lists(st.sampled_from([*WORDS, "excluded", "?", "history of", "absent", "resolved"]), min_size=1, max_size=15)
)
def test_cues_are_ordered_within_the_sentence_and_the_answer_is_one_of_three(words):
    text = " ".join(words)
    cues = find_cues(text, 0, len(text))
    assert [cue.start for cue in cues] == sorted(cue.start for cue in cues)
    assert all(0 <= cue.start < cue.end <= len(text) for cue in cues)
    for match in re.finditer(r"\w+", text):
        assert assertion(text, *match.span()) in ANSWERS
        state, cue = judge(text, cues, match.span())
        assert (cue is None) == (state == "positive")
