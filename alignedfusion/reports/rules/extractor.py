"""From a report to a row of the attribute table by rules (eq. 4): offline, and each cell says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alignedfusion.reports.rules.assertions import find_cues, judge, speaks_of
from alignedfusion.reports.rules.lexicon import Lexicon, LexiconAttribute
from alignedfusion.reports.rules.sentences import FAMILY, HISTORY, Sentence, sentences
from alignedfusion.reports.rules.terms import Match, Term, TermIndex
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, Cell, Evidence, Row, Span

_RANK = {None: 0, NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}


@dataclass(frozen=True, slots=True)
class _Role:
    """What a term is listed for: its attribute's place in the lexicon, and the key it stands under."""

    column: int
    key: str
    value: str | None = None
    factor: float = 1.0
    has_gap: bool = False


class RuleExtractor:
    """Reads reports with a lexicon. Nothing is sent anywhere.

    Of several mentions of an attribute, a positive one beats an uncertain one, and that a denial; among equals the first
    counts. What stands under "History:", "Indication:" or "Comparison:" or after "history of" counts only for attributes with
    `history: true` and for numbers; what relatives have never does.

    Args:
        lexicon: A `Lexicon`, or what `Lexicon.load` takes: the name of a shipped one, or a file.
    """

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
        """Read one report.

        Returns:
            A cell for each attribute, with the characters of `text` that it rests on.
        """
        if not isinstance(text, str):
            raise TypeError(f"a report must be a str, got {type(text).__name__}")
        cells = [UNMENTIONED] * len(self.names)
        parts = iter(sentences(text))
        sentence = next(parts, None)
        cues: list[Match[str]] | None = None
        reach = [-1] * len(self.names)
        for match in self._index.find(text):
            while sentence is not None and sentence.end <= match.start:
                sentence, cues = next(parts, None), None
            if sentence is None:
                break
            role = match.tag
            if match.end <= reach[role.column]:  # within a longer term of the same attribute
                continue
            reach[role.column] = match.end
            if role.key == "except" or match.start < sentence.start:  # a header names what was asked
                continue
            if cues is None:
                cues = find_cues(text, sentence.start, sentence.end)
            cell = self._cell(text, match, sentence, cues)
            if _RANK[cell.state] > _RANK[cells[role.column].state]:
                cells[role.column] = cell
        return dict(zip(self.names, cells, strict=True))

    def _cell(self, text: str, match: Match[_Role], sentence: Sentence, cues: list[Match[str]]) -> Cell:
        role, target = match.tag, (match.start, match.end)
        attribute = self.lexicon.attributes[role.column]
        past = sentence.section or speaks_of(text, cues, target)
        if past == FAMILY or (past == HISTORY and not attribute.history and not attribute.is_numeric):
            return UNMENTIONED
        where: Span = (sentence.start, max(sentence.end, match.end))
        if role.key == "numbers":
            return _number(match, attribute, role.factor, where)
        state, cue = judge(text, cues, (_last_word(text, match) if role.has_gap else match.start, match.end))
        if role.key == "normal":
            return _cell(attribute.negative, NEGATIVE, target, where) if state == POSITIVE else UNMENTIONED
        if role.key == "values":
            return _cell(role.value, state, target, where, cue) if state != NEGATIVE else UNMENTIONED
        if attribute.values:  # the attribute is named, but none of its values
            value = attribute.negative if state == NEGATIVE else attribute.positive
        else:
            value = {NEGATIVE: attribute.negative, POSITIVE: attribute.positive, UNCERTAIN: UNCERTAIN}[state]
        return _cell(value, state, target, where, cue)


def _roles(column: int, attribute: LexiconAttribute) -> Iterator[tuple[Term, _Role]]:
    for key, terms in (("terms", attribute.terms), ("normal", attribute.normal), ("except", attribute.exceptions)):
        for term in terms:
            yield term, _Role(column, key, has_gap="..." in term.source)
    for value, terms in attribute.values:
        for term in terms:
            yield term, _Role(column, "values", value, has_gap="..." in term.source)
    for term, factor in attribute.numbers:
        yield term, _Role(column, "numbers", factor=factor)


def _last_word(text: str, match: Match[_Role]) -> int:
    """Where a term's last word begins; words in its gap may deny: "the heart is not enlarged"."""
    start = match.end
    while start > match.start and text[start - 1].isalnum():
        start -= 1
    return start


def _cell(value: str | None, state: str, target: Span, sentence: Span, cue: Span | None = None) -> Cell:
    return UNMENTIONED if value is None else Cell(value, state, Evidence(target, sentence, cue))


def _number(match: Match[_Role], attribute: LexiconAttribute, factor: float, sentence: Span) -> Cell:
    if match.number is None:
        return UNMENTIONED
    number = float(match.number.replace(",", ".")) * factor
    low, high = attribute.between
    if not low <= number <= high:
        return UNMENTIONED
    return Cell(f"{number:.6g}", POSITIVE, Evidence((match.start, match.end), sentence))
