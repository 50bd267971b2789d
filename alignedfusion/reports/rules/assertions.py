"""Whether a finding is asserted, denied or in doubt: cue words and their scope (after NegEx and ConText).

A cue in front of a finding applies up to the end of its clause ("no focal consolidation, effusion or pneumothorax"). A cue
behind a finding applies backwards ("pneumothorax is not seen"). The nearest cue in front and the nearest cue behind are
considered; if both exist, the one behind decides. Some cues assert nothing: "CT to look for a nodule".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from importlib import resources
from typing import Literal

import yaml

from alignedfusion.reports.rules.characters import normalize
from alignedfusion.reports.rules.sentences import FAMILY, HISTORY, sentences
from alignedfusion.reports.rules.term_index import Match, TermIndex, longest
from alignedfusion.reports.rules.terms import compile_term
from alignedfusion.reports.types import Span

Assertion = Literal["positive", "negative", "uncertain"]

# The base loader leaves "no" a word.
_CUES: dict[str, list[str]] = yaml.load(
    (resources.files("alignedfusion.reports") / "cues.yaml").read_text("utf-8"), Loader=yaml.BaseLoader
)
_INDEX: TermIndex[str] = TermIndex((compile_term(term), kind) for kind, terms in _CUES.items() for term in terms)

# Signs that end a clause, deny or doubt: "No effusion, the heart is enlarged", "? pneumonia", "Fracture: ---".
_MARK = re.compile(
    r"""
      (?= [;,?:\[(aA\s] ) (?:
      (?P<end> ;
        | , \s{1,4} (?= (?: the | there | this | it | he | she | patient | heart | lungs? | but | with ) \b )
        | \b and \s{1,4} (?= (?: the | there | he | she | patient ) \s )
        | , \s{1,4} (?= (?: mild | small | tiny | trace | minimal | moderate | stable | unchanged | persistent | residual | old
                            | new ) (?:ly)? \b )
        | , \s{1,4} (?= \d{1,3} (?: \.\d )? [ -]? (?: mm | cm ) \b )
        | \? \s{1,3} yes \b
        | [\[(] \s{0,2} [xX] \s{0,2} [\])]
      )
    | (?P<deny_behind>
          \( \s? (?: - | neg (?:ative)? | none | absent ) \s? \)
        | (?<= \w ) \s - (?= \s? (?: [,;.] | $ ) )
        | : \s{0,3} (?: -{1,5} | n | nil | neg | 0 ) (?= \s{0,3} (?: $ | [.,;\n] ) )
        | \? \s{1,3} (?: no | none | nil | negative ) (?= \s{0,3} (?: $ | [.,;!] ) )
      )
    | (?P<box> \[ \s{0,3} \] | \( \s{1,3} \) )
    | (?P<doubt_before> (?<! \w ) \? (?= \s? [A-Za-z] ) )
    | (?P<doubt_behind> \( \s? \? \s? \) | \? ) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LIST = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE)
_CLAUSE_ENDS = re.compile(r"\s{0,4}(?:[.,;!?)]|$|(?:and|at|based|but|by|due|given|in|on|within)\b)", re.IGNORECASE)
_FEW_WORDS = re.compile(r"[\sA-Za-z]{1,16}")
_MORE = re.compile(r"\(\s?(?:or|and|nor|including|e\.g|i\.e|such|s\))", re.IGNORECASE)
_NAMES = re.compile(r"\b(?:represent\w*|suggest\w*|compatible|consistent|concerning|due|from|likely)\b", re.IGNORECASE)
_AND = re.compile(r"\band\b|,", re.IGNORECASE)


def assertion(text: str, start: int, end: int) -> Assertion:
    """Whether the finding `text[start:end]` is asserted ("positive"), denied ("negative") or in doubt ("uncertain").

    A finding that is only named as a question or a limit of the examination is "uncertain" as well.

    Args:
        text: A report, or a sentence of it.
        start: Index of the finding's first character.
        end: Index behind its last character.

    Raises:
        ValueError: If the span is empty or lies outside the text.
    """
    if not 0 <= start < end <= len(text):
        raise ValueError(f"the span {start} to {end} is not within the text, which has {len(text)} characters")
    plain, places = normalize(text)
    if places is not None:
        start, end = bisect_left(places, start), max(bisect_left(places, end), bisect_left(places, start) + 1)
    low = max(0, start - 2000)  # no sentence is longer, so a long report is not divided anew in every call
    for sentence in sentences(plain[low : end + 2000]):
        if sentence.start + low <= start < sentence.end + low:
            scope = (sentence.start + low, max(sentence.end + low, end))
            return judge(plain, find_cues(plain, *scope), (start, end))[0] or "uncertain"
    return "positive"


def find_cues(text: str, start: int, end: int) -> list[Match[str]]:
    """Cues and clause ends of a sentence, in order. A cue within a longer one is dropped: "no increase" denies nothing."""
    cues = _settle(text, longest(_INDEX.find(text, start, end)), end)
    marks = [_mark(mark, start) for mark in _MARK.finditer(text, start, end) if mark.end() < end or not mark["end"]]
    return sorted([*cues, *marks], key=lambda cue: cue.start) if marks else cues


def _mark(mark: re.Match[str], start: int) -> Match[str]:
    tag = mark.lastgroup or "end"
    if tag == "box":  # "[ ] Fracture", or "Fracture [ ]"
        tag = "deny_before" if mark.start() == start or mark.string[start] in "[(" else "deny_behind"
    return Match(mark.start(), mark.end(), tag)


def _settle(text: str, cues: list[Match[str]], end: int) -> list[Match[str]]:
    """A cue that is listed for both directions applies backwards at the end of a clause: "effusion: absent"."""
    settled: list[Match[str]] = []
    for cue in cues:
        if settled and (cue.start, cue.end) == (settled[-1].start, settled[-1].end):
            looks_back = _CLAUSE_ENDS.match(text, cue.end, end) is not None
            settled[-1] = cue if looks_back == cue.tag.endswith("behind") else settled[-1]
        else:
            settled.append(cue)
    return settled


def judge(text: str, cues: Sequence[Match[str]], target: Span) -> tuple[Assertion | None, Span | None]:
    """The assertion about a target among the cues of its sentence (None: nothing is asserted), and the cue that decides."""
    start, end = target
    if not cues:
        return "positive", None
    for cue in cues:  # "no change" denies no other finding, but where the change itself is asked for, it is denied
        if cue.tag == "nothing" and cue.start < start < cue.end:
            return "negative", (cue.start, cue.start + len(text[cue.start : start].rstrip()))
    decisive = _behind(text, cues, end) or _before(text, cues, start, end)
    if decisive is None:
        return "positive", None
    kinds: dict[str, Assertion | None] = {"doubt": "uncertain", "deny": "negative", "ask": None}
    return kinds[decisive.tag.partition("_")[0]], (decisive.start, decisive.end)


def speaks_of(text: str, cues: Sequence[Match[str]], target: Span) -> str:
    """The kind of context: "history" after "history of", "family" after "her mother had", else ""."""
    found = ""
    for cue in cues:
        if cue.start >= target[0]:
            break
        if cue.tag in (HISTORY, FAMILY):
            found = cue.tag
        elif cue.tag == "end" and text[cue.start] != ",":
            found = ""
    return found


def _parenthesis(text: str, start: int) -> int:
    """Where the parenthesis that a target stands in begins: cues in front of it do not apply. Else 0."""
    opening = text.rfind("(", max(0, start - 80), start)
    if opening < 0 or ")" in text[opening:start] or _MORE.match(text, opening):
        return 0
    return opening


def _before(text: str, cues: Sequence[Match[str]], start: int, end: int) -> Match[str] | None:
    """The nearest cue in front of a target whose scope includes it; it may overlap the target: "no history of cancer"."""
    found: Match[str] | None = None
    opening = _parenthesis(text, start)  # "no enhancement (simple cyst)"
    for cue in cues:
        if cue.start >= start:
            break
        if cue.start < opening:
            continue
        if cue.tag == "end":
            overlaps = found is not None and cue.start < found.end  # "compatible with" and "with mild"
            if cue.end <= start and not overlaps and not _goes_on(text, found, cue, end):
                found = None
        elif cue.tag == "deny_next":  # "non-displaced fracture" is a fracture
            is_next = not text[cue.end : start].strip(" -\n")
            is_word = re.search(r"\s", text[start:end]) is None
            found = cue if is_next and is_word else Match(cue.start, cue.end, "ask_before") if is_next else found
        elif cue.tag in ("deny_before", "doubt_before", "doubt_both", "ask_before"):
            is_same = found is not None and cue.start - found.end < 3 and found.tag == "deny_before"
            found = found if is_same else cue  # "no possible fracture" denies
    return found


def _goes_on(text: str, found: Match[str] | None, cue: Match[str], end: int) -> bool:
    """Whether the scope of a cue continues behind the end of its clause."""
    is_doubt = found is not None and found.tag.startswith("doubt")
    if text[cue.start] == ",":  # "no effusion, mild edema or pneumothorax", "differential: atelectasis, mild edema"
        return is_doubt or _LIST.search(text, cue.end, min(len(text), end + 60)) is not None
    # "possibly due to", "likely compatible with": one or two words may stand in between.
    return is_doubt and found is not None and _FEW_WORDS.fullmatch(text, found.end, cue.start) is not None


def _behind(text: str, cues: Sequence[Match[str]], end: int) -> Match[str] | None:
    """The nearest cue behind a target whose scope includes it."""
    for cue in cues:
        if cue.start < end:
            continue
        if cue.tag in ("deny_behind", "doubt_behind", "doubt_both", "ask_behind"):
            # "is not seen" refers to one finding, "are not seen" or "have resolved" to a list.
            if cue.tag == "doubt_both" and _NAMES.search(text, end, cue.start):
                return None  # "opacity representing infection versus scar"
            is_single = not re.match(r"(?:are|were|have)\b", text[cue.start : cue.end], re.IGNORECASE)
            return None if is_single and _AND.search(text, end, cue.start - 2) else cue  # "effusion, resolved" is one
        if cue.tag in ("end", "deny_before", "doubt_before", "ask_before"):
            return None
    return None
