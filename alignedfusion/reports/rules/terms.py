"""Terms: the little language that lexicons and cues are written in, and the search for thousands of them at once.

| in a term | matches |
|---|---|
| `pleural effusion` | these words, blanks or hyphens between them; the last one in plural too; upper or lower case |
| `cardio*` | any ending of a word |
| `possib(le|ly)` | one of several endings |
| `(left|right) lung` | one of several |
| `(small) effusion`, `year(s) old` | with or without |
| `(left|right|) lung` | one of several, or none |
| `heart ... enlarged` | with up to four words in between |
| `<number>` | a number |

Terms are data, and may come from anywhere: whatever they say, matching takes a time that grows with the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_BLANK = r"[\s\-\u2010-\u2013/]{1,6}"
_GAP = r"(?:[\s\-,/]{1,6}[^\W_]{1,40}){0,4}?" + _BLANK
_NUMBER = r"(?<![\d.,])(?P<number>\d{1,7}(?:[.,]\d{1,4})?)(?![\d])"
NUMBER = "<number>"
_TOKEN = re.compile(r"\.\.\.|<number>|[()|*]|[^\s()|*]+|\s+")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Term:
    """A term, compiled.

    Attributes:
        source: As it was written.
        pattern: Its regular expression, which begins at a word.
        keys: How that word begins: its first three letters, in lower case, or "#" for a number.
    """

    source: str
    pattern: re.Pattern[str]
    keys: frozenset[str]


def compile_term(source: str) -> Term:
    """Compile a term; `ValueError` says what is wrong with it."""
    tokens = _TOKEN.findall(source.strip())
    parser = _Parser(tokens, source)
    expression, keys, may_be_empty = parser.sequence(top=True)
    if parser.position < len(tokens):
        raise ValueError(f"term {source!r}: {tokens[parser.position]!r} closes what was not opened")
    if may_be_empty or not keys:
        raise ValueError(f"term {source!r}: something in it must be there always")
    if tokens.count(NUMBER) > 1:
        raise ValueError(f"term {source!r}: {NUMBER} can stand in it once")
    return Term(source, re.compile(rf"{expression}(?!\w)", re.IGNORECASE), frozenset(keys))


@dataclass(frozen=True)
class _Part:
    expression: str
    is_optional: bool
    joint: str  # what stands between it and the part before: nothing within a word


def _join(parts: Sequence[_Part]) -> str:
    """One after the other; an optional part takes the blank beside it along."""
    text, is_open = "", True
    for number, part in enumerate(parts):
        behind = parts[number + 1].joint if number + 1 < len(parts) else ""
        if is_open and part.is_optional:
            text += f"(?:{part.expression}{behind})?"
        elif part.is_optional:
            text += f"(?:{part.joint}{part.expression})?"
        else:
            text += ("" if is_open else part.joint) + part.expression
            is_open = False
    return text


class _Parser:
    """Recursive descent over a term: each method returns an expression, the keys it can begin with, and if it may be empty."""

    def __init__(self, tokens: Sequence[str], source: str) -> None:
        self.tokens, self.source, self.position = tokens, source, 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sequence(self, *, top: bool = False) -> tuple[str, set[str], bool]:
        parts: list[_Part] = []
        keys: set[str] = set()
        open_start, joint = True, ""
        while (token := self.peek()) and token not in ")|":
            if token.isspace() or token == "...":
                self.take()
                joint = _GAP if token == "..." else joint or _BLANK
                continue
            expression, own, is_optional = self.atom(is_last=top)
            if (
                parts
                and not joint
                and (open_start or len(parts) == 1)
                and any(key != "#" and len(key) < 3 for key in keys)
            ):
                raise ValueError(f"term {self.source!r}: at least three letters of a word must stand before '('")
            if not parts and joint == _GAP:
                break
            if open_start:
                if not own:
                    raise ValueError(f"term {self.source!r} must begin with a letter, a digit or {NUMBER}")
                keys |= own
                open_start = is_optional
            if parts and joint == _BLANK and parts[-1].expression == _NUMBER:
                joint = _BLANK.replace("{1,6}", "{0,6}")  # "8mm" is "8 mm"
            parts.append(_Part(expression, is_optional, joint if parts else ""))
            joint = ""
        if joint == _GAP:
            raise ValueError(f"term {self.source!r}: '...' needs a word on both sides")
        return _join(parts), keys, open_start

    def atom(self, *, is_last: bool) -> tuple[str, set[str], bool]:
        token = self.take()
        if token == "(":
            options, keys, may_be_empty = [], set(), False
            while True:
                expression, own, is_open = self.sequence()
                options.append(expression)
                keys |= own
                may_be_empty |= is_open
                if self.peek() != "|":
                    break
                self.take()
            if self.take() != ")":
                raise ValueError(f"term {self.source!r}: '(' is not closed by ')'")
            # The longest first: an alternation takes the first that fits.
            options = sorted((option for option in options if option), key=len, reverse=True)
            return f"(?:{'|'.join(options)})", keys, may_be_empty or len(options) == 1
        if token == NUMBER:
            return _NUMBER, {"#"}, False
        if token == "*":
            raise ValueError(f"term {self.source!r}: '*' must follow the beginning of a word")
        return self.word(token, is_last and self._ends())

    def word(self, token: str, may_be_plural: bool) -> tuple[str, set[str], bool]:
        first = _WORD.match(token)
        expression = re.escape(token).replace(r"\-", _BLANK)
        if self.peek() == "*":
            self.take()
            if first is None or len(token) < 3:
                raise ValueError(f"term {self.source!r}: at least three letters must stand before '*'")
            expression += r"\w{0,30}"
        elif may_be_plural and len(token) > 3 and token[-1].isalpha():
            expression = expression[:-1] + "(?:y|ies)" if token[-1] in "yY" else expression + "(?:e?s)?"
        if first is None:  # a sign such as "°"
            return expression, set(), False
        key = first.group()[:3].lower()
        return expression, {"#" if key[0].isdigit() else key}, False

    def _ends(self) -> bool:
        return all(token.isspace() for token in self.tokens[self.position :])


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """A term in a text, and what it was listed for."""

    start: int
    end: int
    tag: T
    number: str | None = None


class TermIndex(Generic[T]):
    """Finds all of many terms in one pass over the words of a text.

    Args:
        terms: Each with a tag that its matches carry.
    """

    def __init__(self, terms: Iterable[tuple[Term, T]]) -> None:
        self._at: dict[str, list[tuple[re.Pattern[str], T]]] = {}
        for term, tag in terms:
            for key in term.keys:
                self._at.setdefault(key, []).append((term.pattern, tag))

    def find(self, text: str, start: int = 0, end: int | None = None) -> list[Match[T]]:
        """Matches in the order of their starts, longer ones first; a match may overlap others."""
        end = len(text) if end is None else end
        found: list[Match[T]] = []
        at = self._at
        for word in _WORD.finditer(text, start, end):
            begin = word.group()[:3].lower()
            candidates = at.get("#" if begin[0].isdigit() else begin)
            if candidates is None:
                continue
            first = word.start()
            here = []
            for pattern, tag in candidates:
                match = pattern.match(text, first, end)
                if match is not None:
                    number = match["number"] if "number" in pattern.groupindex else None
                    here.append(Match(first, match.end(), tag, number))
            if len(here) > 1:
                here.sort(key=lambda match: -match.end)
            found += here
        return found


def longest(matches: Sequence[Match[T]]) -> list[Match[T]]:
    """Leave out matches that lie within a longer one: "calcified nodule" is not a "nodule" beside it."""
    kept: list[Match[T]] = []
    reach, reach_start = -1, -1
    for match in matches:  # in the order of starts, longer ones first
        if match.end > reach or (match.end == reach and match.start == reach_start):
            kept.append(match)
            if match.end > reach:
                reach, reach_start = match.end, match.start
    return kept
