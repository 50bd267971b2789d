"""Is what a report names there, denied, or in doubt? Cue words and how far they reach (after NegEx and ConText).

A cue before a finding reaches forward to the end of its clause ("no focal consolidation, effusion or pneumothorax"), a cue
behind it reaches back ("pneumothorax is not seen"). Among those that reach a finding, the nearest before it and the nearest
behind it count; what stands behind corrects what stands before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Literal

import yaml

from alignedfusion.reports.rules.sentences import FAMILY, HISTORY, sentences
from alignedfusion.reports.rules.terms import Match, TermIndex, compile_term, longest
from alignedfusion.reports.types import Span

Assertion = Literal["positive", "negative", "uncertain"]

# The base loader leaves "no" a word.
_CUES: dict[str, list[str]] = yaml.load(
    (resources.files("alignedfusion.reports") / "cues.yaml").read_text("utf-8"), Loader=yaml.BaseLoader
)
_INDEX: TermIndex[str] = TermIndex((compile_term(term), kind) for kind, terms in _CUES.items() for term in terms)

# Where a clause ends although no word says so: "No effusion, the heart is enlarged"; "? pneumonia" asks.
_MARK = re.compile(
    r"""
      (?P<end> ;
        | , \s{1,4} (?= (?: the | there | this | it | he | she | patient | heart | lungs? | but | with ) \b )
        | \b and \s{1,4} (?= (?: the | there | he | she | patient ) \s )
        | , \s{1,4} (?= (?: mild | small | minimal | moderate | stable | unchanged | persistent | old | new ) (?:ly)? \b )
      )
    | (?P<ask> (?<! \w ) \? (?= \s? [A-Za-z] ) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LIST = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE)
_CLAUSE_ENDS = re.compile(r"\s{0,4}(?:[.,;!?)]|$|(?:and|at|based|but|by|due|given|in|on|within)\b)", re.IGNORECASE)
_AND = re.compile(r"\band\b|,", re.IGNORECASE)


def assertion(text: str, start: int, end: int) -> Assertion:
    """Whether `text[start:end]` is said to be there ("positive"), denied ("negative") or in doubt ("uncertain").

    Args:
        text: A report, or a sentence of it.
        start: Where the words in question begin.
        end: One beyond their last character.

    Raises:
        ValueError: If the span is empty or lies outside the text.
    """
    if not 0 <= start < end <= len(text):
        raise ValueError(f"the span {start} to {end} is not within the text, which has {len(text)} characters")
    low = max(0, start - 2000)  # no sentence is longer; and a long report is not divided anew for every question
    for sentence in sentences(text[low : end + 2000]):
        if sentence.start + low <= start < sentence.end + low:
            scope = (sentence.start + low, max(sentence.end + low, end))
            return judge(text, find_cues(text, *scope), (start, end))[0]
    return "positive"


def find_cues(text: str, start: int, end: int) -> list[Match[str]]:
    """Cues and clause ends of a sentence, in order; a cue within a longer one does not count ("no increase" denies nothing)."""
    cues = _settle(text, longest(_INDEX.find(text, start, end)), end)
    marks = [
        Match(m.start(), m.end(), "end" if m["end"] else "doubt_before")
        for m in _MARK.finditer(text, start, end)
        if m.end() < end
    ]
    return sorted([*cues, *marks], key=lambda cue: cue.start) if marks else cues


def _settle(text: str, cues: list[Match[str]], end: int) -> list[Match[str]]:
    """A word that is listed for both directions looks back where its clause ends: "effusion: absent", but "absent effusion"."""
    settled: list[Match[str]] = []
    for cue in cues:
        if settled and (cue.start, cue.end) == (settled[-1].start, settled[-1].end):
            looks_back = cue.tag.endswith("behind") and _CLAUSE_ENDS.match(text, cue.end, end)
            settled[-1] = cue if looks_back else settled[-1]
        else:
            settled.append(cue)
    return settled


def judge(text: str, cues: Sequence[Match[str]], target: Span) -> tuple[Assertion, Span | None]:
    """The assertion about a target among the cues of its sentence, and the cue that decides."""
    start, end = target
    # "No change" denies no other finding, but where the change itself is asked for, it is denied.
    if around := next((cue for cue in cues if cue.tag == "nothing" and cue.start < start < cue.end), None):
        return "negative", (around.start, around.start + len(text[around.start : start].rstrip()))
    before = _before(text, cues, start, end)
    behind = _behind(text, cues, end)
    decisive = behind or before
    if decisive is None:
        return "positive", None
    return "uncertain" if decisive.tag.startswith("doubt") else "negative", (decisive.start, decisive.end)


def speaks_of(text: str, cues: Sequence[Match[str]], target: Span) -> str:
    """Whose finding it is and when: "history" after "history of", "family" after "her mother had", else ""."""
    found = ""
    for cue in cues:
        if cue.end > target[0]:
            break
        if cue.tag in (HISTORY, FAMILY):
            found = cue.tag
        elif cue.tag == "end" and text[cue.start] != ",":
            found = ""
    return found


def _before(text: str, cues: Sequence[Match[str]], start: int, end: int) -> Match[str] | None:
    """The nearest cue in front that reaches this far."""
    found: Match[str] | None = None
    for cue in cues:
        if cue.end > start:
            break
        if cue.tag == "end":
            is_doubt = found is not None and found.tag == "doubt_before"  # "differential: atelectasis, mild edema"
            if text[cue.start] != "," or not (is_doubt or _LIST.search(text, cue.end, min(len(text), end + 60))):
                found = None  # but "no effusion, mild edema or pneumothorax" is one list
        elif cue.tag in ("deny_before", "doubt_before"):
            is_same = found is not None and cue.start - found.end < 3 and found.tag == "deny_before"
            found = found if is_same else cue  # "no possible fracture" denies
    return found


def _behind(text: str, cues: Sequence[Match[str]], end: int) -> Match[str] | None:
    """The nearest cue behind that reaches back to here."""
    for cue in cues:
        if cue.start < end:
            continue
        if cue.tag in ("deny_behind", "doubt_behind"):
            # "is not seen" speaks of one thing, "are not seen" or "have resolved" of a list.
            is_single = not re.match(r"(?:are|were|have)\b", text[cue.start : cue.end], re.IGNORECASE)
            return None if is_single and _AND.search(text, end, cue.start - 2) else cue  # "effusion, resolved" is one
        if cue.tag in ("end", "deny_before", "doubt_before"):
            return None
    return None
