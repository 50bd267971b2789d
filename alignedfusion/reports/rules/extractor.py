"""Extraction by rules (eq. 4): a row of the attribute table per report, offline, with evidence for each cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from alignedfusion.reports.rules.assertions import Assertion, find_cues, judge, speaks_of
from alignedfusion.reports.rules.characters import normalize
from alignedfusion.reports.rules.lexicon import Lexicon, LexiconAttribute
from alignedfusion.reports.rules.sentences import FAMILY, HISTORY, Sentence, sentences
from alignedfusion.reports.rules.term_index import Match, TermIndex
from alignedfusion.reports.rules.terms import Term
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, Cell, Evidence, Row, Span

_RANK = {None: 0, NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}


@dataclass(frozen=True, slots=True)
class _Role:
    """The role of a term: the column of its attribute, and the key of the lexicon that lists it."""

    column: int
    key: str
    value: str | None = None
    factor: float = 1.0
    has_gap: bool = False


class RuleExtractor:
    """Extracts the attributes of a lexicon by rules, offline. The rules read English.

    Among several mentions of an attribute, a positive one takes precedence over an uncertain one, and that over a denial; among
    equal ones the first counts. Text under "History:", "Indication:" or "Comparison:" or after "history of" counts only for
    attributes with `history: true` and for numbers. Findings of relatives never count.

    Args:
        lexicon: A `Lexicon`, or an argument of `Lexicon.load`: the name of a shipped lexicon, or a file.
    """

    is_english_only = True

    def __init__(self, lexicon: Lexicon | str) -> None:
        self.lexicon = lexicon if isinstance(lexicon, Lexicon) else Lexicon.load(lexicon)
        self._index: TermIndex[_Role] = TermIndex(
            (term, role) for column, each in enumerate(self.lexicon.attributes) for term, role in _roles(column, each)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes, in the order of the table's columns."""
        return self.lexicon.names

    def extract(self, text: str) -> Row:
        """Extract one report.

        Returns:
            A cell for each attribute, with evidence spans in `text`.
        """
        if not isinstance(text, str):
            raise TypeError(f"a report must be a str, got {type(text).__name__}")
        plain, places = normalize(text)
        cells = self._cells(plain)
        if places is not None:
            cells = [_moved(cell, places) for cell in cells]
        return dict(zip(self.names, cells, strict=True))

    def _cells(self, text: str) -> list[Cell]:
        matches = self._index.find(text)
        exceptions: dict[int, list[Match[_Role]]] = {}
        for match in matches:
            if match.tag.key == "except":
                exceptions.setdefault(match.tag.column, []).append(match)
        cells = [UNMENTIONED] * len(self.names)
        loose_end = [-1] * len(self.names)  # where the cell's term ends, if other words stand between its own
        reach = [-1] * len(self.names)  # where the longest term so far ends
        parts = iter(sentences(text))
        sentence, scope = next(parts, None), None
        for match in matches:
            while sentence is not None and sentence.end <= match.start:
                sentence, scope = next(parts, None), None
            if sentence is None:
                break
            role, column, end = match.tag, match.tag.column, match.end
            if end > sentence.end or end <= reach[column]:
                continue
            if column in exceptions and any(_is_exception(each, match) for each in exceptions[column]):
                continue
            if role.key == "except" or match.start < sentence.start:  # a header names what was asked
                reach[column] = end
                continue
            scope = scope or _Scope(text, sentence)
            cell = scope.cell(match, self.lexicon.attributes[column])
            if cell is None:  # a shorter term may still be asserted, such as "stone" in "non-obstructing stone"
                continue
            if not role.has_gap and (role.key != "numbers" or cell.state is not None):
                reach[column] = end
            rank, former = _RANK[cell.state], _RANK[cells[column].state]
            # "irregular network with regular streaks": of two terms that end together, the one without a gap counts.
            is_closer = rank == former and match.start < loose_end[column] <= end and not role.has_gap
            if rank > former or is_closer:
                cells[column], loose_end[column] = cell, end if role.has_gap else -1
        return cells


class _Scope:
    """A sentence with its cues. What they make of a target is kept: several attributes may share a normal statement."""

    def __init__(self, text: str, sentence: Sentence) -> None:
        self.text, self.sentence = text, sentence
        self.cues = find_cues(text, sentence.start, sentence.end)
        self.verdicts: dict[Span, tuple[str, Assertion | None, Span | None]] = {}

    def verdict(self, target: Span) -> tuple[str, Assertion | None, Span | None]:
        """The context of a target ("history", "family" or ""), its assertion, and the cue that decides."""
        if target not in self.verdicts:
            context = self.sentence.section or speaks_of(self.text, self.cues, target)
            self.verdicts[target] = context, *judge(self.text, self.cues, target)
        return self.verdicts[target]

    def cell(self, match: Match[_Role], attribute: LexiconAttribute) -> Cell | None:
        """The cell that a match stands for; None if the report asserts nothing about it."""
        role = match.tag
        start = _last_word(self.text, match) if role.has_gap else match.start
        context, state, cue = self.verdict((start, match.end))
        if context == FAMILY or (context == HISTORY and not attribute.history and not attribute.is_numeric):
            return UNMENTIONED
        where: Span = (self.sentence.start, self.sentence.end)
        if role.key == "numbers":
            return _number(match, attribute, role.factor, where)
        if state is None:
            return None
        if role.key == "normal":
            is_asserted = state == POSITIVE or (
                state == NEGATIVE and cue is not None and _is_another(self.text, cue, match)
            )
            value, state, cue = attribute.negative if is_asserted else None, "negative", None
        elif role.key == "values":
            value = role.value if state != NEGATIVE else None
        elif state == NEGATIVE:
            value = attribute.negative
        elif attribute.values:  # the attribute is named, but none of its values
            value = attribute.positive
        else:
            value = attribute.positive if state == POSITIVE else UNCERTAIN
        return UNMENTIONED if value is None else Cell(value, state, Evidence((match.start, match.end), where, cue))


def _roles(column: int, attribute: LexiconAttribute) -> Iterator[tuple[Term, _Role]]:
    for key, terms in (("terms", attribute.terms), ("normal", attribute.normal), ("except", attribute.exceptions)):
        for term in terms:
            yield term, _Role(column, key, has_gap=term.has_gap)
    for value, terms in attribute.values:
        for term in terms:
            yield term, _Role(column, "values", value, has_gap=term.has_gap)
    for term, factor in attribute.numbers:
        yield term, _Role(column, "numbers", factor=factor)


def _is_another(text: str, cue: Span, match: Match[_Role]) -> bool:
    """Whether a cue denies another item of a list than the normal statement: "no effusion and normal heart size"."""
    return cue[1] <= match.start and re.search(r",|\b(?:and|or)\b", text[cue[1] : match.start]) is not None


def _is_exception(exception: Match[_Role], match: Match[_Role]) -> bool:
    """Whether an exception overrides a match: "cyst of the liver" a "simple cyst", and "mass effect" a "mass ... kidney"."""
    is_beginning = match.tag.has_gap and match.tag.key != "except" and exception.start == match.start
    return is_beginning or exception.start < match.end < exception.end


def _last_word(text: str, match: Match[_Role]) -> int:
    """Start of a term's last word. Words in the gap before it may deny: "the heart is not enlarged"."""
    start = match.end
    while start > match.start and text[start - 1].isalnum():
        start -= 1
    return start


def _number(match: Match[_Role], attribute: LexiconAttribute, factor: float, sentence: Span) -> Cell:
    if match.number is None:
        return UNMENTIONED
    number = match.number * factor
    low, high = attribute.between
    if not low <= number <= high:
        return UNMENTIONED
    return Cell(f"{number:.6g}", POSITIVE, Evidence((match.start, match.end), sentence))


def _moved(cell: Cell, places: Sequence[int]) -> Cell:
    """The cell with its spans in the original text."""
    if cell.evidence is None:
        return cell
    target, sentence, cue = (
        None if span is None else (places[span[0]], places[span[1] - 1] + 1)
        for span in (cell.evidence.target, cell.evidence.sentence, cell.evidence.cue)
    )
    assert target is not None
    assert sentence is not None
    return replace(cell, evidence=Evidence(target, sentence, cue))
