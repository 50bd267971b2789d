"""Terms: the small language of lexicons and cues, compiled to regular expressions.

| in a term | matches |
|---|---|
| `pleural effusion` | these words, blanks or hyphens between them; the last one in plural too; upper or lower case |
| `cardio*` | any ending of a word |
| `possib(le|ly)` | one of several endings |
| `(left|right) lung` | one of several |
| `(small) effusion`, `year(s) old` | with or without |
| `(left|right|) lung` | one of several, or none |
| `heart ... enlarged` | with up to four words of the same clause in between |
| `<number>` | a number, or the extents of something: "12 x 10 mm" |

Terms may come from any source, so the size of a term is limited, and the time for a search grows linearly with the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignedfusion.reports.rules.numbers import NUMBER_PATTERN

_BLANK = r"[\s\-\u2010-\u2013/:]{1,6}"
_GAP = r"(?:[\s\-,/:]{1,6}[^\W_]{1,40}){0,4}?[\s\-,/:]{1,6}"
# "pleural or pericardial effusion" is a pleural effusion, and "renal, ureteral and bladder stones" are renal stones.
_ITEM = (
    r"(?!(?:the|there|this|that|with|without|non?e?|not|but|also|then|is|are|was|were|has|have|denies)\b)[a-z]{2,20}"
)
_LIST = (
    rf"(?:,\s{{1,3}}{_ITEM}(?:[\s\-]{_ITEM})?){{0,4}}(?:,?\s{{1,3}}(?:and/or|and|or|nor|&)\s{{1,3}}|/)"
    rf"{_ITEM}(?:[\s\-]{_ITEM})?{_BLANK}"
)
_OTHER_CLAUSE = re.compile(
    r"\b(?:is|are|was|were|has|have|shows?|appears?|remains?)\b[^,]*,"  # "the heart is large, the lungs ..."
    r"|^\s*[^\s,][^,]*,(?!.*\b(?:and|or)\b)"  # a comma that no "and" makes part of a list; "irregular, dense mass" is one
    r"|\b(?:but|however|although|though|except|which|while|whereas)\b"
    r"|\band\s+the\b|\band\s+there\b",
    re.IGNORECASE | re.DOTALL,
)
NUMBER = "<number>"
MAX_GAPS, MAX_OPTIONAL, MAX_LENGTH = 3, 8, 600
"""Gaps, optional parts, and characters of a term: each gap and each optional part can multiply the time of a search."""
_TOKEN = re.compile(r"\.\.\.|<number>|[()|*]|[^\s()|*]+|\s+")
_ENDS = ("", "|", ")", "...")  # a word in front of these can be in plural
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Term:
    """A term, compiled.

    Attributes:
        source: The term as written.
        pattern: Its regular expression, which begins at a word.
        keys: What that word can be: a word in lower case, or the first three letters and "*", or "#" for a number.
        has_gap: Whether "..." is part of it.
        has_number: Whether "<number>" is part of it.
        following: The characters that its second word, or a list in front of it, can begin with; None if not known.
    """

    source: str
    pattern: re.Pattern[str]
    keys: frozenset[str]
    has_gap: bool = False
    has_number: bool = False
    following: frozenset[str] | None = None

    def match(self, text: str, start: int, end: int) -> re.Match[str] | None:
        """The match that begins at `start`; gaps stay within one clause."""
        found = self.pattern.match(text, start, end)
        return None if found is None or (self.has_gap and leaves_clause(found)) else found


def leaves_clause(match: re.Match[str]) -> bool:
    """Whether a gap of the match reaches into another clause."""
    return any(_OTHER_CLAUSE.search(gap) for name, gap in match.groupdict().items() if gap and name != "number")


def compile_term(source: str, *, lists: bool = False) -> Term:
    """Compile a term.

    Args:
        source: The term.
        lists: Whether the items of a list may split it, as in "pleural or pericardial effusion".

    Raises:
        ValueError: If it cannot be compiled or is too large; the message contains the reason.
    """
    if len(source) > MAX_LENGTH:
        raise ValueError(f"term {source[:40]!r}... has {len(source)} characters; at most {MAX_LENGTH} are allowed")
    tokens = _TOKEN.findall(source.strip())
    if tokens.count("...") > MAX_GAPS:
        raise ValueError(f"term {source!r} has {tokens.count('...')} gaps ('...'); at most {MAX_GAPS} are allowed")
    parser = _Parser(tokens, source, lists)
    expression, keys, may_be_empty, _ = parser.sequence(top=True)
    if parser.position < len(tokens):
        raise ValueError(f"term {source!r}: {tokens[parser.position]!r} closes what was not opened")
    if may_be_empty or not keys:
        raise ValueError(f"term {source!r}: something in it must be there always")
    if tokens.count(NUMBER) > 1:
        raise ValueError(f"term {source!r}: {NUMBER} can stand in it once")
    if parser.optional > MAX_OPTIONAL:
        raise ValueError(
            f"term {source!r} has {parser.optional} optional parts; at most {MAX_OPTIONAL} are allowed: write several terms"
        )
    pattern = re.compile(rf"{expression}(?!\w)", re.IGNORECASE)
    return Term(source, pattern, frozenset(keys), "..." in tokens, NUMBER in tokens, parser.following)


@dataclass(frozen=True)
class _Part:
    expression: str
    keys: frozenset[str]
    is_optional: bool
    is_word: bool  # whether it is one word, or one of several words
    joint: str = ""  # what stands between it and the part before: nothing within a word


def _join(parts: Sequence[_Part]) -> str:
    """Concatenate parts. An optional part includes the blank beside it."""
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
    """Recursive descent over a term.

    `sequence` returns an expression, the keys it can begin with, whether it may be empty, and whether it is one word.
    """

    def __init__(self, tokens: Sequence[str], source: str, lists: bool) -> None:
        self.tokens, self.source, self.position = tokens, source, 0
        self.joint = f"(?:{_BLANK}|{_LIST})" if lists else _BLANK
        self.gaps = self.optional = 0
        self.lists = lists
        self.following: frozenset[str] | None = None

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sequence(
        self, *, top: bool = False, is_last: bool = False, is_ending: bool = False
    ) -> tuple[str, set[str], bool, bool]:
        parts: list[_Part] = []
        keys: set[str] = set()
        open_start, joint = True, ""
        while (token := self.peek()) and token not in ")|":
            if token.isspace() or token == "...":
                self.take()
                joint = self.gap() if token == "..." else joint or self.joint
                continue
            is_gap = joint.startswith("(?P<gap")
            if not parts and is_gap:
                break
            part = self.atom(is_last=top or is_last, is_ending=is_ending or bool(parts and not joint))
            if parts and not joint:
                self.check_beginning(keys, open_start or len(parts) == 1)
                keys = {key if key == "#" or key.endswith("*") else f"{key[:3]}*" for key in keys}
            if open_start:
                if not part.keys:
                    raise ValueError(f"term {self.source!r} must begin with a letter, a digit or {NUMBER}")
                keys |= part.keys
                open_start = part.is_optional
            if parts and not is_gap and joint and NUMBER_PATTERN in (parts[-1].expression, part.expression):
                # "8mm" is "8 mm"; and no list stands beside a number
                joint = _BLANK.replace("{1,6}", "{0,6}") if parts[-1].expression == NUMBER_PATTERN else _BLANK
            parts.append(replace(part, joint=joint if parts else ""))
            self.optional += part.is_optional
            joint = ""
        if joint.startswith("(?P<gap"):
            raise ValueError(f"term {self.source!r}: '...' needs a word on both sides")
        if top:
            self.following = self.find_following(parts)
        return _join(parts), keys, open_start, len(parts) == 1 and parts[0].is_word

    def find_following(self, parts: Sequence[_Part]) -> frozenset[str] | None:
        """The characters behind the first word: of a term that begins with one word and goes on with another."""
        if len(parts) < 2 or not parts[0].is_word or parts[0].is_optional:
            return None
        found = set(",&aon") if self.lists else set()
        for part in parts[1:]:
            if not part.joint or not part.keys or part.joint.startswith("(?P<gap"):
                return None
            found.update(*("0123456789" if key == "#" else key[0] for key in part.keys))
            if not part.is_optional:
                return frozenset(found)
        return None

    def gap(self) -> str:
        self.gaps += 1
        return f"(?P<gap{self.gaps}>{_GAP})"

    def check_beginning(self, keys: set[str], is_beginning: bool) -> None:
        if is_beginning and any(key != "#" and len(key.rstrip("*")) < 3 for key in keys):
            raise ValueError(f"term {self.source!r}: at least three letters of a word must stand before '('")

    def atom(self, *, is_last: bool, is_ending: bool) -> _Part:
        token = self.take()
        if token == "(":
            return self.group(is_last and self._group_ends(), is_ending)
        if token == NUMBER:
            return _Part(NUMBER_PATTERN, frozenset("#"), is_optional=False, is_word=False)
        if token == "*":
            raise ValueError(f"term {self.source!r}: '*' must follow the beginning of a word")
        return self.word(token, is_last and self._ends() and (is_ending or len(token) > 3))

    def group(self, is_last: bool, is_ending: bool) -> _Part:
        options: list[str] = []
        keys: set[str] = set()
        may_be_empty, is_word = False, True
        while True:
            expression, own, is_open, is_one = self.sequence(is_last=is_last, is_ending=is_ending)
            options.append(expression)
            is_word &= is_one
            keys |= own
            may_be_empty |= is_open
            if self.peek() != "|":
                break
            self.take()
        if self.take() != ")":
            raise ValueError(f"term {self.source!r}: '(' is not closed by ')'")
        # The longest first: an alternation takes the first that fits.
        options = sorted((option for option in options if option), key=len, reverse=True)
        return _Part(f"(?:{'|'.join(options)})", frozenset(keys), may_be_empty or len(options) == 1, is_word)

    def word(self, token: str, may_be_plural: bool) -> _Part:
        first = _WORD.match(token)
        expression = re.escape(token).replace(r"\-", _BLANK)
        keys = {first.group().lower()} if first is not None else set()
        if self.peek() == "*":
            self.take()
            if first is None or len(token) < 3:
                raise ValueError(f"term {self.source!r}: at least three letters must stand before '*'")
            expression += r"\w{0,30}"
            keys = {f"{key[:3]}*" for key in keys} if first.group() == token else keys
        elif may_be_plural and token[-1].isalpha():
            is_ies = re.search("[^aeiou]y$", token, re.IGNORECASE) is not None  # "opacities", but "kidneys"
            expression = expression[:-1] + "(?:y|ies)" if is_ies else expression + "(?:e?s)?"
            if first is not None and first.group() == token:
                (key,) = keys
                keys = {key, f"{key[:-1]}ies"} if is_ies else {key, f"{key}s", f"{key}es"}
        if any(key[0].isdigit() for key in keys):
            keys = {"#"}
        is_word = first is not None and first.group() == token
        return _Part(expression, frozenset(keys), is_optional=False, is_word=is_word)

    def _ends(self) -> bool:
        """Whether nothing but the end of an option or of the term follows."""
        rest = next((token for token in self.tokens[self.position :] if not token.isspace()), "")
        return rest in _ENDS

    def _group_ends(self) -> bool:
        """Whether the group that has just been opened is the last part of its sequence."""
        depth, position = 1, self.position
        while depth and position < len(self.tokens):
            depth += {"(": 1, ")": -1}.get(self.tokens[position], 0)
            position += 1
        rest = next((token for token in self.tokens[position:] if not token.isspace()), "")
        return rest in _ENDS
