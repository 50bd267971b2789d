"""A search for many terms at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from alignedfusion.reports.rules.numbers import read_number
from alignedfusion.reports.rules.terms import Term, leaves_clause

T = TypeVar("T")

MAX_KNOWN = 50_000
"""Words, each with two characters behind, whose terms an index remembers."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """A term in a text, what it was listed for, and the number in it."""

    start: int
    end: int
    tag: T
    number: float | None = None


class TermIndex(Generic[T]):
    """Finds the matches of many terms in one pass over the words of a text.

    Args:
        terms: Terms, each with a tag that its matches carry.
    """

    def __init__(self, terms: Iterable[tuple[Term, T]]) -> None:
        tags: dict[Term, list[T]] = {}
        for term, tag in terms:  # a term that several attributes share is searched for once
            tags.setdefault(term, []).append(tag)
        self._at: dict[str, list[tuple[Term, list[T]]]] = {}
        for term, its_tags in tags.items():
            for key in term.keys:
                self._at.setdefault(key, []).append((term, its_tags))
        self._known: dict[str, list[tuple[Term, list[T]]]] = {}  # words of the texts so far with two characters behind

    def find(self, text: str, start: int = 0, end: int | None = None) -> list[Match[T]]:
        """Matches in the order of their starts, longer ones first; a match may overlap others."""
        end = len(text) if end is None else end
        found: list[Match[T]] = []
        known = self._known
        for word in _WORD.finditer(text, start, end):
            first, last = word.span()
            candidates = known.get(text[first : last + 2])
            if candidates is None:
                candidates = self._look_up(text[first:last], text[last : last + 2])
            if not candidates:
                continue
            here: list[Match[T]] = []
            for term, tags in candidates:
                match = term.pattern.match(text, first, end)
                if match is None or (term.has_gap and leaves_clause(match)):
                    continue
                number = read_number(text, match) if term.has_number else None
                for tag in tags:
                    here.append(Match(first, match.end(), tag, number))
            if len(here) > 1:
                here.sort(key=lambda match: -match.end)
            found += here
        return found

    def _look_up(self, word: str, following: str) -> list[tuple[Term, list[T]]]:
        """The terms that can begin with this word, in front of these two characters."""
        key = word.lower()
        candidates = (
            self._at.get("#", []) if key[0].isdigit() else [*self._at.get(key, ()), *self._at.get(f"{key[:3]}*", ())]
        )
        if following[:1] == " " and following[1:].isalnum():
            letter = following[1].lower()
            candidates = [each for each in candidates if each[0].following is None or letter in each[0].following]
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[word + following] = candidates
        return candidates


def longest(matches: Sequence[Match[T]]) -> list[Match[T]]:
    """Drop matches within a longer one: "calcified nodule" does not also count as "nodule"."""
    kept: list[Match[T]] = []
    reach, reach_start = -1, -1
    for match in matches:  # in the order of starts, longer ones first
        if match.end > reach or (match.end == reach and match.start == reach_start):
            kept.append(match)
            if match.end > reach:
                reach, reach_start = match.end, match.start
    return kept
