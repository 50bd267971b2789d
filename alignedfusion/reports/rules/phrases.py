"""Phrases of a cohort's reports that may be attributes: findings that are asserted or denied, with their variants joined."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from alignedfusion.reports.rules.assertions import find_cues, judge
from alignedfusion.reports.rules.characters import normalize
from alignedfusion.reports.rules.sentences import sentences
from alignedfusion.reports.rules.words import ANATOMY, FRAME, GENERIC, SEVERITY

MAX_WORDS = 3
"""Words of a phrase."""
MAX_REPORTS = 20_000
"""Reports that are read: more of them do not change which phrases are frequent, but take memory for every phrase."""
MIN_FINDING = 0.3
"""Share of a phrase's reports in which it must be denied, doubted, graded or stated to be present."""

_PHRASE_WORD = re.compile(r"\w+|[^\w\s]+")
_PRESENT = re.compile(
    r"\s{1,3}(?:is|are|was|were)?\s?(?:again|also)?\s?(?:seen|noted|present|identified|demonstrated)\b", re.I
)
_NOUN = re.compile(rf"[\s\-]{{1,3}}(?!(?:{'|'.join(sorted(FRAME))}|xxxx)\b)[a-z]{{3,}}", re.I)
_OF_THE = re.compile(r"\b(?:of|in|at|within|on|over|to|along|from)\s+(?:the|both|each)\s+$", re.I)  # a place
_THERE = re.compile(r"\bthere\s+(?:is|are|was|were)\s+(?:again\s+|also\s+)?(?:an?\s+)?(?:[a-z]+(?:ly)?\s+){0,2}$", re.I)


@dataclass
class Phrase:
    """A phrase and how the reports use it.

    Attributes:
        variants: The wordings that count as this phrase, the most frequent one first.
        reports: Numbers of the reports that contain it.
        finding: Numbers of the reports in which it is denied, doubted, graded or stated to be present.
        final: Numbers of the reports in which no further noun follows: "airspace" is part of "airspace disease".
    """

    variants: list[str]
    reports: set[int] = field(default_factory=set)
    finding: set[int] = field(default_factory=set)
    final: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The most frequent wording."""
        return self.variants[0]

    @property
    def is_finding(self) -> bool:
        """Whether the reports use it as a finding, and not as a place or a technique."""
        words = self.name.split()
        is_place = all(word in ANATOMY or word in GENERIC for word in words)
        is_noun = words[-1].endswith(("megaly", "anomaly")) or not words[-1].endswith(("ed", "ly"))
        is_used = min(len(self.finding), len(self.final)) >= MIN_FINDING * len(self.reports)
        return not is_place and is_noun and is_used

    def join(self, other: Phrase) -> None:
        """Count another wording as this phrase."""
        self.variants += other.variants
        self.reports |= other.reports
        self.finding |= other.finding
        self.final |= other.final


def frequent_phrases(reports: Sequence[str], *, progress: bool = True) -> list[Phrase]:
    """Findings of the reports, the most frequent first.

    Of more than `MAX_REPORTS`, as many are taken at equal distances. Sections about the past and about relatives, which
    `extract` does not read either, are left out.
    """
    reports = reports[:: -(-len(reports) // MAX_REPORTS)] if reports else reports
    found: dict[str, Phrase] = {}
    for number, text in enumerate(tqdm(reports, desc="selecting", unit="report", disable=not progress)):
        plain, _ = normalize(text)
        for sentence in sentences(plain):
            if not sentence.section:
                for words, is_finding, is_final in _runs(plain, sentence.start, sentence.end):
                    phrase = found.setdefault(words, Phrase([words]))
                    phrase.reports.add(number)
                    if is_finding:
                        phrase.finding.add(number)
                    if is_final:
                        phrase.final.add(number)
    least = 2 if len(reports) >= 50 else 1
    kept = {words: phrase for words, phrase in found.items() if len(phrase.reports) >= least}
    joined = _joined(kept)
    return sorted((each for each in joined if each.is_finding), key=lambda each: (-len(each.reports), each.name))


def _runs(text: str, start: int, end: int) -> Iterator[tuple[str, bool, bool]]:
    """Runs of up to `MAX_WORDS` words between framing words; whether each is used as a finding, and ends a noun phrase."""
    cues = find_cues(text, start, end)
    covered = {place for cue in cues for place in range(cue.start, cue.end)}
    words: list[tuple[str, int]] = []
    is_graded = False
    for match in _PHRASE_WORD.finditer(text, start, end):
        word = match.group().lower()
        if word == "-" and words:  # "ground-glass"
            continue
        is_frame = not word.isalpha() or len(word) < 3 or word in FRAME or set(word) == {"x"}
        if is_frame or match.start() in covered:
            is_graded = word in SEVERITY or (
                is_graded and word in FRAME and word not in ("the", "and", "with", "of", "in")
            )
            words = []
            continue
        words.append((singular(word), match.start()))
        state = judge(text, cues, (words[0][1], match.end()))[0]
        is_alone = words[0][1] == start and match.end() >= end - 1  # "Cardiomegaly."
        is_stated = (
            is_alone or bool(_PRESENT.match(text, match.end(), end)) or bool(_THERE.search(text, start, words[0][1]))
        )
        for length in range(1, min(MAX_WORDS, len(words)) + 1):
            run = " ".join(word for word, _ in words[-length:])
            is_finding = (state in ("negative", "uncertain") or is_graded or is_stated) and not _OF_THE.search(
                text, start, words[0][1]
            )
            yield run, is_finding, not _NOUN.match(text, match.end(), end)


def _joined(phrases: dict[str, Phrase]) -> list[Phrase]:
    """Join wordings of one finding: "air space disease", "effusion" and "pleural effusion", "basilar opacity" and "opacity"."""
    by_letters: dict[str, Phrase] = {}
    for phrase in sorted(phrases.values(), key=lambda each: -len(each.reports)):
        first = by_letters.setdefault(phrase.name.replace(" ", ""), phrase)
        if first is not phrase:
            first.join(phrase)
    kept = {phrase.name: phrase for phrase in by_letters.values()}
    longer: dict[str, list[Phrase]] = defaultdict(list)
    for phrase in kept.values():
        words = phrase.name.split()
        for start in range(1, len(words)):
            longer[" ".join(words[start:])].append(phrase)
    for head in sorted(kept, key=lambda name: len(name.split())):
        if head not in kept or head in GENERIC:
            continue
        phrase = kept[head]
        size = len(phrase.reports)
        own = [each for each in longer[head] if each.name in kept]
        fullest = max(own, key=lambda each: (len(each.reports), each.name), default=None)
        for other in own:
            modifiers = other.name.removesuffix(head).split()
            is_place = all(word in ANATOMY or word in ("air", "airspace", "alveolar", "lobar") for word in modifiers)
            if is_place or len(other.reports) >= 0.6 * size or (phrase.is_finding and len(head.split()) == 1):
                phrase.join(kept.pop(other.name))
        if fullest is not None and fullest.name not in kept and len(fullest.reports) >= 0.6 * size:
            phrase.variants.sort(key=lambda each: each != fullest.name)  # the fuller wording is the name
    return _without_parts([*kept.values()])


def _without_parts(phrases: list[Phrase]) -> list[Phrase]:
    """Leave out what hardly occurs outside a longer phrase: "air space" beside "air space disease"."""
    within: Counter[str] = Counter()
    for phrase in phrases:
        for variant in phrase.variants:
            words = variant.split()
            for start in range(len(words)):
                for end in range(start + 1, len(words) + 1):
                    part = " ".join(words[start:end])
                    if part not in phrase.variants:
                        within[part] = max(within[part], len(phrase.reports))
    return [phrase for phrase in phrases if within[phrase.name] < 0.8 * len(phrase.reports)]


def singular(word: str) -> str:
    """The singular of an English noun, as far as its ending shows it: "masses", "opacities", "nodules"."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("thoraces"):
        return word[:-4] + "ax"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "is", "us")) and len(word) > 4 else word
