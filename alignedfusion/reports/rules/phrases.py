"""Frequent phrases of a cohort's reports: what its attributes may be, where nobody has written a lexicon yet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tqdm.auto import tqdm

from alignedfusion.reports.rules.assertions import find_cues
from alignedfusion.reports.rules.sentences import FAMILY, sentences

# Words that frame findings and are none, beside the grammar's own.
_FRAME = frozenset(
    """a an and any are as at be been being both but by can cannot could did do does for from had has have he her his if in into
    is it its may might more most no nor not of on or other our over per she should so some such than that the their there these
    this those through to under up upon was we were which while who will with within without would
    abnormal abnormality abnormalities acute again also apparent appear appearance appears approximately area areas available
    bilateral bilaterally case change changes chronic clear clinical compared comparison consistent contour contours correlation
    day days definite demonstrate demonstrated demonstrates diffuse due early evaluation evidence evident exam examination
    finding findings focal following found frontal grossly history identified image images impression increased interval
    intact large lateral left limits likely located lower marked mid middle mild mildly minimal moderate multiple negative new
    normal noted old otherwise patient patients pa possible present presented presenting previous prior probable process
    prominent questionable related remain remains resolved right seen see severe several show shows showed significant
    significantly similar since size slight slightly small stable status study suggest suggesting suggestive suggests technique
    time today two three one unchanged unremarkable upper view views visible visualized week weeks well year
    years old""".split()  # noqa: SIM905
)
_PHRASE_WORD = re.compile(r"\w+|[^\w\s]+")
MAX_WORDS = 3
"""Words of a phrase."""

MAX_REPORTS = 20_000
"""Reports that are looked at: more tell nothing new about what is frequent, and take memory for every phrase in them."""


def frequent_phrases(reports: Sequence[str], *, progress: bool = True) -> dict[str, float]:
    """Runs of up to three words between framing words, with the share of reports that hold them.

    Of more than `MAX_REPORTS`, as many are taken at equal distances.
    """
    reports = reports[:: -(-len(reports) // MAX_REPORTS)] if reports else reports
    support: Counter[str] = Counter()
    for text in tqdm(reports, desc="selecting", unit="report", disable=not progress):
        seen: set[str] = set()
        for sentence in sentences(text):
            if sentence.section != FAMILY:
                seen |= _runs(text, sentence.start, sentence.end)
        support.update(sorted(seen))  # sets have another order in every run
    kept = {phrase: count for phrase, count in support.items() if count > 1 or len(reports) < 50}
    # "pleural" says nothing that "pleural effusion" does not, if it hardly occurs without it.
    for phrase in sorted(kept, key=lambda phrase: -len(phrase.split())):
        for part in _parts(phrase):
            if part in kept and kept[part] <= 1.25 * kept.get(phrase, 0):
                del kept[part]
    return {phrase: count / len(reports) for phrase, count in kept.items()}


def _runs(text: str, start: int, end: int) -> set[str]:
    runs: set[str] = set()
    words: list[str] = []
    cues = {i for cue in find_cues(text, start, end) for i in range(cue.start, cue.end)}
    for match in _PHRASE_WORD.finditer(text, start, end):
        word = match.group().lower()
        if word == "-" and words:  # "ground-glass"
            continue
        if not word.isalpha() or len(word) < 3 or word in _FRAME or set(word) == {"x"} or match.start() in cues:
            words = []
            continue
        words.append(_singular(word))
        for length in range(1, min(MAX_WORDS, len(words)) + 1):
            runs.add(" ".join(words[-length:]))
    return runs


def _parts(phrase: str) -> list[str]:
    words = phrase.split()
    return [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1) if j - i < len(words)]


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "is", "us")) and len(word) > 4 else word
