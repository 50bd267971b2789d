"""Sentences of a report with their spans, and the kind of section that each belongs to."""

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
        start: Index of the first character.
        end: Index behind the last character.
        section: "history" under headers such as "Indication:" and "Past medical history:", "family" under "Family
            history:", else "".
    """

    start: int
    end: int
    section: str = ""


# Every repetition is bounded, so that the time grows linearly with the text.
_END = re.compile(
    r"""
      (?<= \S ) [.!?]+ ["')\]]{0,2} (?= \s | $ ) (?! (?<= \? ) \s{1,3} (?i: yes | no | none | nil ) \s{0,2} (?: [.,;!\n] | $ ) )
    | (?<= \S[ ] ) [.] (?= \s | $ )                # also with a blank in front,
    | (?<= [a-z)] ) [.] (?= [A-Z][a-z] )           # or without one behind,
    | \n (?= [ \t]{0,20} (?: \n | [A-Z] | [-*\u2022\u00b7] | \d{1,2}[.)] ) )  # a line that starts anew: wrapped lines go on
    """,
    re.VERBOSE,
)
_LINE = re.compile(r"\n(?=[ \t]{0,20}(?:\n|[A-Z]|[-*\u2022\u00b7]|\d))")
_PARAGRAPH = re.compile(r"\n[ \t]{0,20}\n")
MAX_SECTION = 4000
"""Largest number of characters of a history section."""
MAX_SENTENCE = 2000
"""Largest number of characters of a sentence. Longer ones are divided, which bounds the time of the search for cues."""
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
_NOW = re.compile(
    r"\b(?:findings?|impressions?|conclusions?|reports?|results?|assessment|exam(?:ination)?) ?:", re.IGNORECASE
)
_ANY_HEADER = re.compile(r"[A-Z][A-Za-z ]{1,40}:")
MIN_WRAPPED = 40
"""Smallest number of characters of a wrapped line."""


def sentences(text: str) -> list[Sentence]:
    """Divide a report into sentences. List numbers, bullets and section headers belong to no sentence.

    A history section ends with its line, or with a blank line if its header stands alone in a line. If nothing follows that
    line, and after "Family history:", it ends with its first sentence.
    """
    found: list[Sentence] = []
    section, until, start = "", 0, 0
    for end in _ends(text):
        start, header = _skip(text, start, end)
        if header is not None:
            section = {"family": FAMILY, "history": HISTORY}.get(header.lastgroup or "", "")
            until = _until(text, header.end(), section) if section else 0
        elif start >= until:
            section = ""
        stop = len(text[start:end].rstrip()) + start
        if stop > start:
            found.append(Sentence(start, stop, section))
        start = end
    return found


def _until(text: str, start: int, section: str) -> int:
    """The end of a section; its start if only the first sentence belongs to it."""
    if text[start - 1] == "\n" or text.startswith("\n", start):
        return _first(_PARAGRAPH, text, start)
    end = _first(_LINE, text, start)
    while end < len(text) and _is_wrapped(text, start, end):
        end = max(_first(_LINE, text, end + 1), end + 1)
    is_last = not text[end : end + MAX_SECTION].strip() and not _NOW.search(text, start, end)
    return start if section == FAMILY or is_last else end


def _first(pattern: re.Pattern[str], text: str, start: int) -> int:
    end = pattern.search(text, start, start + MAX_SECTION)
    return end.start() if end else min(len(text), start + MAX_SECTION)


def _is_wrapped(text: str, start: int, end: int) -> bool:
    """Whether the line that ends here goes on in the next one: it is long, does not end a sentence, and no header follows."""
    last = text.rfind("\n", start, end) + 1 or start
    line = text[last:end].rstrip()
    return (
        len(line) >= MIN_WRAPPED
        and (line[-1].isalnum() or line[-1] == ",")
        and text[end + 1 : end + 2].isalpha()
        and end - start < MAX_SECTION
        and not _HEADER.match(text, end + 1)
        and _ANY_HEADER.match(text, end + 1) is None
    )


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
    """Positions at which a sentence that is too long is divided: the last blanks within the limit."""
    while end - start > MAX_SENTENCE:
        start = text.rfind(" ", start + 1, start + MAX_SENTENCE) + 1 or start + MAX_SENTENCE
        yield start


def _is_number(text: str, start: int, dot: int) -> bool:
    """Whether this dot belongs to a list number, such as "1." at the start of a sentence or after a header."""
    return dot - start < 60 and _NUMBER.search(text[start:dot]) is not None


def _skip(text: str, start: int, end: int) -> tuple[int, re.Match[str] | None]:
    """Skip list markers and headers; return the new start and the last header."""
    last = None
    while True:
        if marker := _MARKER.match(text, start, end):
            start = marker.end()
        header = _HEADER.match(text, start, end)
        if header is None:
            return start, last
        start, last = header.end(), header
