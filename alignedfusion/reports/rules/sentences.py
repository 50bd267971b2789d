"""Sentences of a report with their places in the text, and the kind of section they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

HISTORY, FAMILY = "history", "family"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence without its list number and section header.

    Attributes:
        start: First character.
        end: One beyond the last.
        section: "history" under headers such as "Indication:" and "Past medical history:", "family" under "Family
            history:", else "".
    """

    start: int
    end: int
    section: str = ""


# Every repetition is bounded: a megabyte of line breaks must not be read a million times.
_END = re.compile(
    r"""
      (?<= \S ) [.!?]+ ["')\]]{0,2} (?= \s | $ )   # the usual end,
    | (?<= [a-z)] ) [.] (?= [A-Z][a-z] )           # also where the blank was forgotten
    | \n (?= [ \t]{0,20} (?: \n | [A-Z] | [-*\u2022\u00b7] | \d{1,2}[.)] ) )  # a line that starts anew: wrapped lines go on
    """,
    re.VERBOSE,
)
_LINE = re.compile(r"\n(?=[ \t]{0,20}(?:\n|[A-Z]|[-*\u2022\u00b7]|\d))")
_PARAGRAPH = re.compile(r"\n[ \t]{0,20}\n")
MAX_SECTION = 4000
"""Characters that a section of the past can have."""
MAX_SENTENCE = 2000
"""Characters that a sentence can have: what has more is no sentence, and looking for cues in it would take ever longer."""
_MARKER = re.compile(r"(?: [\s.,;:>\-*\u2022\u00b7]{1,40} | \(?\d{1,2}[.)] (?= \s ) ){1,4}", re.VERBOSE)
_NUMBER = re.compile(r"(?: ^ | [:\n] ) [\s.,;>(\-*\u2022\u00b7]{0,40} \d{1,2} $", re.VERBOSE)
_ABBREVIATION = re.compile(
    r"(?: \b(?: dr|mr|mrs|ms|prof|st|vs|approx|e\.g|i\.e|cf|fig|resp|pt|inc )) \Z", re.VERBOSE | re.I
)
_HEADER = re.compile(
    r"""
    (?P<family> family[ ](?:medical[ ])?history | fhx? ) [ ]{0,2} [:\n]
  | (?P<history>
        (?: (?: past|previous|prior|relevant|clinical|medical|surgical|social|present )[ ]{1,2} ){0,3}
        (?: history (?: [ ]of[ ]present[ ]illness )? | illness )
      | pmhx? | psh | hpi
      | (?: clinical[ ] )? (?: indications? | information | data | question | presentation )
      | presentation | reason[ ]for (?: [ ]the )? [ ]? (?: exam (?:ination)? | study | visit ) | chief[ ]complaint
      | comparisons? | technique | procedure
    ) [ ]{0,2} [:\n]
  | (?P<now>
        (?: chest[ ] | final[ ] | imaging[ ] | radiological[ ] | other[ ] ){0,2}
        (?: findings? | impressions? | conclusions? | reports? | results? | notes? | assessment | diagnos[ei]s | discussion
          | interpretation | description | opinion | summary | plan | exam (?:ination)? | physical[ ]exam(?:ination)? )
    ) [ ]{0,2} [:\n]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def sentences(text: str) -> list[Sentence]:
    """Divide a report; list numbers, bullets and section headers belong to no sentence.

    A section of the past ends with its line, or with a blank line if its header stands alone in a line.
    """
    found: list[Sentence] = []
    section, until, start = "", 0, 0
    for end in _ends(text):
        start, header = _skip(text, start, end)
        if header is not None:
            section = {"family": FAMILY, "history": HISTORY}.get(header.lastgroup or "", "")
            until = _until(text, header.end()) if section else 0
        elif start >= until:
            section = ""
        stop = len(text[start:end].rstrip()) + start
        if stop > start:
            found.append(Sentence(start, stop, section))
        start = end
    return found


def _until(text: str, start: int) -> int:
    stands_alone = text[start - 1] == "\n" or text.startswith("\n", start)
    end = (_PARAGRAPH if stands_alone else _LINE).search(text, start, start + MAX_SECTION)
    return end.start() if end else min(len(text), start + MAX_SECTION)


def _ends(text: str) -> list[int]:
    ends = [0]
    for match in _END.finditer(text):
        dot = match.start()
        if text[dot] == "." and (_ABBREVIATION.search(text, max(0, dot - 8), dot) or _is_number(text, ends[-1], dot)):
            continue
        ends.append(match.end())
    if ends[-1] < len(text):
        ends.append(len(text))
    return [each for start, end in pairwise(ends) for each in (*_cuts(text, start, end), end)]


def _cuts(text: str, start: int, end: int) -> Iterator[int]:
    """Where to divide what is too long for a sentence: at the last blank that leaves it short enough."""
    while end - start > MAX_SENTENCE:
        start = text.rfind(" ", start + 1, start + MAX_SENTENCE) + 1 or start + MAX_SENTENCE
        yield start


def _is_number(text: str, start: int, dot: int) -> bool:
    """Whether this dot belongs to a list number, such as "1." at the start of a sentence or after a header."""
    return dot - start < 60 and _NUMBER.search(text[start:dot]) is not None


def _skip(text: str, start: int, end: int) -> tuple[int, re.Match[str] | None]:
    """Step over list markers and headers, and give the last header."""
    last = None
    while True:
        if marker := _MARKER.match(text, start, end):
            start = marker.end()
        header = _HEADER.match(text, start, end)
        if header is None:
            return start, last
        start, last = header.end(), header
