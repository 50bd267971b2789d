"""Reading and writing of lexicon files. Errors contain the line and key of a mistake."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

from alignedfusion.reports.rules.terms import NUMBER, Term, compile_term
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNCERTAIN

KEYS = {
    "terms": "words that name the attribute",
    "values": "its values, and words for each",
    "normal": "words that deny it",
    "except": "words that contain a term but mean something else",
    "negative": "the value that a denial stands for (default: negative)",
    "positive": "the value that a bare mention stands for (default: positive)",
    "history": "true if mentions of the past count",
    "numbers": "how a number is written",
    "unit": "of the number",
    "between": "the numbers that can be, as [lowest, highest]",
    "edges": "inner edges of the intervals that numbers are sorted into",
    "times": "other units: a factor, and how such a number is written",
}


MAX_DEPTH = 5
"""Levels of lists within a list of terms."""
MAX_TERMS = 20_000
"""Terms of a file. YAML aliases can multiply a few lines to any number of terms."""


@dataclass(frozen=True)
class LexiconAttribute:
    """One attribute of a lexicon. The fields are the keys of its entry.

    Attributes:
        name: Name of the attribute.
        terms: Terms that name it.
        values: Terms for each of its values; empty for a finding or a number.
        normal: Terms of statements that deny it.
        exceptions: Terms that contain one of `terms` but mean something else.
        negative: Value of a denied mention; None if a denial implies no value.
        positive: Value of a mention without a value of its own, or None.
        history: Whether mentions of the past count.
        numbers: Terms with a number, each with the factor that converts it to `unit`.
        unit: Unit of a number.
        between: Lowest and highest plausible number; others are ignored.
        edges: Inner edges of the schema's intervals.
    """

    name: str
    terms: tuple[Term, ...] = ()
    values: tuple[tuple[str, tuple[Term, ...]], ...] = ()
    normal: tuple[Term, ...] = ()
    exceptions: tuple[Term, ...] = ()
    negative: str | None = NEGATIVE
    positive: str | None = POSITIVE
    history: bool = False
    numbers: tuple[tuple[Term, float], ...] = ()
    unit: str = ""
    between: tuple[float, float] = (float("-inf"), float("inf"))
    edges: tuple[float, ...] = ()

    @property
    def is_numeric(self) -> bool:
        """Whether the cell holds a number."""
        return bool(self.numbers)

    def candidates(self) -> tuple[str, ...]:
        """The values that a cell can hold, in the order of the schema; none for a number."""
        if self.is_numeric:
            return ()
        named = tuple(value for value, _ in self.values)
        doubt = () if self.values else (UNCERTAIN,)
        return tuple(dict.fromkeys(v for v in (*named, self.positive, self.negative, *doubt) if v is not None))


class LexiconReader:
    """Reads YAML nodes, which, unlike plain objects, have line numbers."""

    def __init__(self, source: str) -> None:
        self.source, self.count = source, 0

    def attributes(self, text: str) -> list[LexiconAttribute]:
        """Read the attributes of a file.

        Raises:
            ValueError: If the file has a mistake; the message contains its line and key.
        """
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise ValueError(f"{self.source}{line}: not YAML: {getattr(error, 'problem', error)}") from error
        except RecursionError:
            raise ValueError(f"{self.source}: lists or mappings are nested too deeply") from None
        entries = self._mapping(root, "the file") if root is not None else []
        for key, node in entries:
            if key not in ("attributes", "about", "shared"):
                raise self._error(
                    node, f"unknown key {key!r}; a lexicon has 'attributes', and maybe 'about' and 'shared'"
                )
        attributes = dict(entries).get("attributes")
        if attributes is None:
            raise ValueError(f"{self.source}: has no 'attributes'")
        found = [self._attribute(name, node) for name, node in self._mapping(attributes, "'attributes'")]
        if not found:
            raise self._error(attributes, "'attributes' names none")
        return found

    def _attribute(self, name: str, node: Any) -> LexiconAttribute:
        entries = self._mapping(node, f"attribute {name!r}")
        for key, value in entries:
            if key not in KEYS:
                raise self._error(
                    value, f"attribute {name!r} has the unknown key {key!r}{did_you_mean(key, list(KEYS))}"
                )
        given = dict(entries)
        kinds = [key for key in ("terms", "values", "numbers") if key in given]
        if "numbers" in given and len(kinds) > 1:
            raise self._error(
                node, f"attribute {name!r} has 'numbers' and {kinds[0]!r}: it is either a number or it is not"
            )
        if not kinds:
            raise self._error(node, f"attribute {name!r} needs 'terms', 'values' or 'numbers'")
        for key in ("unit", "between", "edges", "times"):
            if key in given and "numbers" not in given:
                raise self._error(given[key], f"attribute {name!r}: {key!r} belongs to 'numbers'")
        settings: dict[str, Any] = {}
        for key, field in (("terms", "terms"), ("normal", "normal"), ("except", "exceptions")):
            if key in given:
                settings[field] = self._some_terms(given[key], name, key)
        if "values" in given:
            values = self._mapping(given["values"], f"attribute {name!r}, 'values'")
            if not values:
                raise self._error(given["values"], f"attribute {name!r}: 'values' names none")
            settings["values"] = tuple((value, self._some_terms(each, name, value)) for value, each in values)
            # A denied value and a mention without a value do not imply a value: UN, unless the lexicon defines one.
            settings.update(negative=None, positive=None)
        for key in ("negative", "positive", "unit"):
            if key in given:
                settings[key] = self._scalar(given[key], name, key)
        if "history" in given:
            if (word := self._scalar(given["history"], name, "history").lower()) not in ("true", "false"):
                raise self._error(given["history"], f"attribute {name!r}: history must be true or false, got {word!r}")
            settings["history"] = word == "true"
        if "numbers" in given:
            settings |= self._numeric(name, given)
        return LexiconAttribute(name, **settings)

    def _numeric(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        numbers = [(term, 1.0) for term in self._terms(given["numbers"], name, "numbers")]
        if "times" in given:
            for factor, node in self._mapping(given["times"], f"attribute {name!r}, 'times'"):
                numbers += [(term, self._number(factor, node, name)) for term in self._some_terms(node, name, "times")]
        if not numbers:
            raise self._error(given["numbers"], f"attribute {name!r}: 'numbers' holds no term")
        for term, _ in numbers:
            if NUMBER not in term.source:
                raise self._error(given["numbers"], f"attribute {name!r}: {term.source!r} has no {NUMBER} in it")
        settings: dict[str, Any] = {"numbers": tuple(numbers)}
        if "between" in given:
            bounds = self._numbers_of(given["between"], name, "between")
            if len(bounds) != 2 or bounds[0] >= bounds[1]:
                raise self._error(given["between"], f"attribute {name!r}: between must be [lowest, highest]")
            settings["between"] = tuple(bounds)
        if "edges" in given:
            settings["edges"] = tuple(self._numbers_of(given["edges"], name, "edges"))
            if any(not first < second < math.inf for first, second in pairwise((-math.inf, *settings["edges"]))):
                raise self._error(given["edges"], f"attribute {name!r}: edges must be finite and grow")
        return settings

    def _some_terms(self, node: Any, name: str, key: str) -> tuple[Term, ...]:
        if found := self._terms(node, name, key):
            return tuple(found)
        raise self._error(node, f"attribute {name!r}: {key!r} holds no term")

    def _terms(self, node: Any, name: str, key: str, depth: int = 0) -> list[Term]:
        # Nested lists are flattened, so that an anchor can be part of several lists.
        if isinstance(node, yaml.SequenceNode):
            if depth > MAX_DEPTH:
                raise self._error(
                    node, f"attribute {name!r}: {key!r} has lists within lists within lists, or one in itself"
                )
            return [term for each in node.value for term in self._terms(each, name, key, depth + 1)]
        source = self._scalar(node, name, key)
        self.count += 1
        if self.count > MAX_TERMS:
            raise self._error(
                node, f"attribute {name!r}: the file has more than {MAX_TERMS} terms, each alias of an anchor counted"
            )
        try:
            return [compile_term(source, lists=key in ("terms", "normal"))]
        except ValueError as error:
            raise self._error(node, f"attribute {name!r}, {key!r}: {error}") from None

    def _numbers_of(self, node: Any, name: str, key: str) -> list[float]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, f"attribute {name!r}: {key!r} must be a list of numbers")
        return [self._number(self._scalar(each, name, key), each, name) for each in node.value]

    def _number(self, text: str, node: Any, name: str) -> float:
        with suppress(ValueError):
            if not math.isnan(number := float(text.replace(".inf", "inf"))):  # as YAML writes it
                return number
        raise self._error(node, f"attribute {name!r}: {text!r} is not a number")

    def _scalar(self, node: Any, name: str, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not str(node.value).strip():
            raise self._error(node, f"attribute {name!r}: {key!r} must be a text, not a list or nothing")
        return str(node.value)

    def _mapping(self, node: Any, what: str) -> list[tuple[str, Any]]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must hold keys and values")
        entries = [(str(key.value), value) for key, value in node.value]
        for number, (key, _) in enumerate(entries):
            if key in [other for other, _ in entries[:number]]:
                raise self._error(node.value[number][0], f"{what} names {key!r} twice")
        return entries

    def _error(self, node: Any, message: str) -> ValueError:
        return ValueError(f"{self.source}, line {node.start_mark.line + 1}: {message}")


def write_entry(attribute: LexiconAttribute) -> dict[str, Any]:
    """Convert an attribute to its entry in the file."""
    entry: dict[str, Any] = {}
    for key, terms in (("terms", attribute.terms), ("normal", attribute.normal), ("except", attribute.exceptions)):
        if terms:
            entry[key] = [term.source for term in terms]
    if attribute.values:
        entry["values"] = {value: [term.source for term in terms] for value, terms in attribute.values}
    usual = (None, None) if attribute.values else (NEGATIVE, POSITIVE)
    for key, value, default in (("negative", attribute.negative, usual[0]), ("positive", attribute.positive, usual[1])):
        if value != default:
            entry[key] = value
    if attribute.history:
        entry["history"] = True
    if attribute.is_numeric:
        entry["numbers"] = [term.source for term, factor in attribute.numbers if factor == 1]
        times: dict[float, list[str]] = {}
        for term, factor in attribute.numbers:
            if factor != 1:
                times.setdefault(factor, []).append(term.source)
        if times:
            entry["times"] = times
        if attribute.unit:
            entry["unit"] = attribute.unit
        if attribute.between != (float("-inf"), float("inf")):
            entry["between"] = list(attribute.between)
        if attribute.edges:
            entry["edges"] = list(attribute.edges)
    return entry


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """End of an error message: the closest known name, or all known names."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known)}"
