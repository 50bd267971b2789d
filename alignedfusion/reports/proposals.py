"""Attributes proposed from reports alone: findings, measurements, codes, and places with what is stated about them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from alignedfusion.reports.rules.characters import normalize
from alignedfusion.reports.rules.lexicon import LexiconAttribute
from alignedfusion.reports.rules.phrases import MAX_REPORTS, frequent_phrases, singular
from alignedfusion.reports.rules.sentences import sentences
from alignedfusion.reports.rules.terms import compile_term
from alignedfusion.reports.rules.words import ANATOMY, FRAME

MAX_VARIANTS = 6
"""Wordings of a finding that are written into the lexicon."""
MAX_CODES = 12
"""Different codes after a word, such as "BI-RADS 2"; with more of them it is a measurement."""

_NORMAL = ("normal", "unremarkable", "clear", "intact", "sharp", "patent", "within normal limits")
_ABNORMAL = (
    "abnormal",
    "enlarged",
    "prominent",
    "increased",
    "dilated",
    "widened",
    "thickened",
    "displaced",
    "deformed",
)
_PREDICATE = re.compile(
    r"(?P<subject>(?:[a-z]+\s){0,2}[a-z]{4,})\s?(?:\s(?:is|are|appears?|remains?)|:)\s(?:[a-z]+ly\s|again\s|also\s|now\s){0,2}"
    r"(?P<predicate>within normal limits|[a-z]{4,})\b",
    re.IGNORECASE,
)
_NO_PREDICATE = frozenset(
    """seen noted present identified again also there with without visualized demonstrated found shown located evident unchanged
    stable consistent compatible suspected likely possible given likewise limited visible similar partially otherwise
    suggested recommended being free inflated expanded aerated""".split()  # noqa: SIM905
)
_CODE = re.compile(
    r"\b(?P<word>(?:[A-Za-z]{2,}-)?[A-Za-z]{3,}(?:\s(?!category|type|class|grade)[A-Za-z]{3,})?)(?:[\s:]{1,2}(?:category|type|class|grade|is|of))?[\s:]{1,3}"
    r"(?P<code>\d{1,2}[a-c]?|[IVX]{1,4}|(?<=type\s)[A-Da-d]|(?<=category\s)[A-Da-d]|(?<=density\s)[A-Da-d])"
    r"(?![\w/%:x]|[.,-]\d|\s?(?:x|by)\s?\d|\s(?:mm|cm|mg|ml|year|month|week|day|hour|o'clock|to)\b)",
)
_AMOUNT = re.compile(
    r"\b(?P<word>[A-Za-z]{2,}(?:\s[a-z]{4,})?)\s(?:of\s|was\s|is\s|:\s)?(?P<number>\d{1,5}(?:\.\d+)?)\s?(?P<unit>mg/dl|mg/l|g/dl|g/l|%|mmhg|mmol/l|bpm|kg)",
    re.IGNORECASE,
)
_LENGTH = re.compile(r"\d\s?-?(?:mm|cm)\b", re.IGNORECASE)
_AGE = re.compile(r"\b\d{1,3}[\s-](?:year|yo\b|y/o\b|yr)", re.IGNORECASE)


def propose(reports: Sequence[str], *, min_share: float, progress: bool = True) -> list[LexiconAttribute]:
    """Attributes of a field that has no lexicon yet, for a person to strike out and edit.

    Args:
        reports: TRAINING reports.
        min_share: Share of the reports that must contain a phrase.
        progress: Show a progress bar.
    """
    findings = [
        _finding(phrase.name, phrase.variants)
        for phrase in frequent_phrases(reports, progress=progress)
        if len(phrase.reports) >= min_share * min(len(reports), MAX_REPORTS)
    ]
    reports = reports[:: -(-len(reports) // MAX_REPORTS)] if reports else reports
    texts = [_current(text) for text in reports]
    least = max(2.0, min_share * len(texts))
    others = [*_measurements(texts, least), *_codes(texts, least), *_places(texts, least)]
    named: dict[str, LexiconAttribute] = {}
    for attribute in [*findings, *others]:
        named.setdefault(attribute.name, attribute)
    return [*named.values()]


def _current(text: str) -> str:
    """The text without sections that `extract` does not read."""
    plain, _ = normalize(text)
    return "\n".join(plain[each.start : each.end] for each in sentences(plain) if not each.section)


def _finding(name: str, variants: Iterable[str]) -> LexiconAttribute:
    terms = [*dict.fromkeys(variants)]
    # "basilar opacity" is found by "opacity" already
    shortest = [
        term for term in terms if not any(term != other and f" {term}".endswith(f" {other}") for other in terms)
    ]
    kept = [*dict.fromkeys([name, *shortest])][:MAX_VARIANTS]
    return LexiconAttribute(name.replace(" ", "_"), terms=tuple(compile_term(term, lists=True) for term in kept))


def _numeric(name: str, unit: str, terms: Sequence[str], times: Sequence[str] = ()) -> LexiconAttribute:
    numbers = [(compile_term(term), 1.0) for term in terms] + [(compile_term(term), 10.0) for term in times]
    return LexiconAttribute(name, numbers=tuple(numbers), unit=unit)


def _measurements(texts: Sequence[str], least: float) -> list[LexiconAttribute]:
    """Sizes, ages, and words in front of a number with a unit."""
    found = []
    if sum(bool(_LENGTH.search(text)) for text in texts) >= least:
        found.append(_numeric("size", "mm", ["<number> mm"], ["<number> cm"]))
    if sum(bool(_AGE.search(text)) for text in texts) >= least:
        found.append(_numeric("age", "years", ["<number> year(s) old", "<number> yo", "<number> y/o"]))
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        seen = {(match["word"].lower(), match["unit"]) for match in _AMOUNT.finditer(text)}
        for word, unit in seen:
            units[word][unit] += 1
    for word, counts in sorted(units.items()):
        if counts.total() >= least and not {*word.split()} & FRAME:
            found.append(
                _numeric(word.replace(" ", "_"), counts.most_common(1)[0][0], [f"{word} (of|was|is|) <number>"])
            )
    return found


def _codes(texts: Sequence[str], least: float) -> list[LexiconAttribute]:
    """Words that a code follows, with the codes as values: a category with its numbers, a density with its letters."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        seen = {(match["word"].lower().replace("-", " "), match["code"].lower()) for match in _CODE.finditer(text)}
        for word, code in seen:
            counts[word][code] += 1
    found = []
    for word, codes in sorted(counts.items(), key=lambda each: (-each[1].total(), each[0])):
        kept = sorted(code for code, count in codes.items() if count >= 2)
        words = word.split()
        is_name = not any(part in FRAME or part in ("lead", "lot") for part in words)
        if codes.total() < least or not 2 <= len(kept) <= MAX_CODES or not is_name:
            continue
        values = tuple((code, (compile_term(f"{word} (category|type|class|grade|is|of|) {code}"),)) for code in kept)
        found.append(LexiconAttribute(word.replace(" ", "_"), values=values, negative=None, positive=None))
    return found


def _places(texts: Sequence[str], least: float) -> list[LexiconAttribute]:
    """Places and what is stated about them: "heart: normal, enlarged", "lungs: clear, hyperinflated"."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        seen = set()
        for match in _PREDICATE.finditer(text):
            words = [singular(word) for word in match["subject"].lower().split()]
            words = words[max((i + 1 for i, word in enumerate(words) if word in FRAME and word != "size"), default=0) :]
            predicate = match["predicate"].lower()
            is_masked = any(set(word) == {"x"} for word in words)  # "XXXX" stands for what was removed
            is_adjective = predicate not in FRAME | _NO_PREDICATE and not predicate.endswith("ly")
            if any(word in ANATOMY for word in words) and not is_masked and (is_adjective or predicate in _NORMAL):
                seen.add((" ".join(words), "normal" if predicate in _NORMAL else predicate))
        for subject, predicate in seen:
            counts[subject][predicate] += 1
    found: list[LexiconAttribute] = []
    for subject, predicates in sorted(
        counts.items(), key=lambda each: (len(each[0].split()), -each[1].total(), each[0])
    ):
        abnormal = [
            each for each, count in predicates.most_common(6) if count >= max(2.0, least / 10) and each != "normal"
        ]
        is_part = any(
            subject.startswith(f"{each.name.replace('_', ' ')} ") for each in found
        )  # "heart size" of "heart"
        if predicates.total() < least or predicates["normal"] < least / 2 or is_part:
            continue
        others = [each for each in _ABNORMAL if each not in abnormal]
        values = [
            (value, (compile_term(f"{subject} ... {_either(words)}"),))
            for value, words in [("normal", _NORMAL), *((each, [each]) for each in abnormal), ("abnormal", others)]
        ]
        found.append(LexiconAttribute(subject.replace(" ", "_"), values=tuple(values), negative=None, positive=None))
    return found


def _either(words: Sequence[str]) -> str:
    return f"({'|'.join(words)})" if len(words) > 1 else words[0]
