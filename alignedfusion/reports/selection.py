"""Which attributes a cohort's reports mention (eq. 2): from a lexicon, from the reports alone, or by a chat model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from alignedfusion.reports.chat.names import ask_names
from alignedfusion.reports.proposals import propose
from alignedfusion.reports.rules.extractor import RuleExtractor
from alignedfusion.reports.rules.lexicon import Lexicon, LexiconAttribute
from alignedfusion.reports.rules.lexicon_file import write_entry
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNCERTAIN

if TYPE_CHECKING:
    from alignedfusion.attributes import AttributeSchema
    from alignedfusion.reports.chat.client import ChatClient

MAX_EXAMPLES, MAX_EXCERPT = 2, 30
"""Examples of an attribute, and characters of a report on each side of the finding."""


@dataclass(frozen=True)
class Selection:
    """Attributes of a cohort.

    Attributes:
        lexicon: The attributes and the words for them.
        support: Share of the reports that mention each; of the requests that name it, if a chat model chose.
        states: Share of the reports in which each is positive, negative and uncertain; empty if a chat model chose.
        examples: Short excerpts of reports that mention it.
    """

    lexicon: Lexicon
    support: dict[str, float]
    states: dict[str, dict[str, float]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """The lexicon as a file, with shares and examples as comments above each attribute. It quotes the reports."""
        lines = ["# Strike out the attributes that you do not need, and edit the others.", "attributes:"]
        for attribute in self.lexicon.attributes:
            name = attribute.name
            lines.append(f"\n  # mentioned in {self.support[name]:.1%}")
            if states := self.states.get(name):
                lines[-1] += ": " + ", ".join(f"{state} {share:.1%}" for state, share in states.items())
            lines += [f"  #   {example}" for example in self.examples.get(name, ())]
            text: str = yaml.safe_dump({name: write_entry(attribute)}, sort_keys=False, allow_unicode=True, width=120)
            lines += [f"  {line}" for line in text.splitlines()]
        return "\n".join(lines) + "\n"


def select_attributes(
    reports: Sequence[str],
    *,
    task: str = "",
    lexicon: Lexicon | str | None = None,
    client: ChatClient | None = None,
    min_share: float = 0.02,
    max_attributes: int = 40,
    progress: bool = True,
) -> AttributeSchema:
    """Choose attributes for these reports and return them as a schema; see `select`.

    Args:
        reports: TRAINING reports only, because test reports must not influence the model.
        task: Purpose of the attributes, such as "melanoma diagnosis"; required with `client`.
        lexicon: Lexicon to choose from.
        client: Chat model to ask instead.
        min_share: Smallest share of the reports that must mention an attribute.
        max_attributes: Largest number of attributes; the most frequent ones are kept.
        progress: Whether to show a progress bar.
    """
    return select(
        reports,
        task=task,
        lexicon=lexicon,
        client=client,
        min_share=min_share,
        max_attributes=max_attributes,
        progress=progress,
    ).lexicon.schema()


def select(
    reports: Sequence[str],
    *,
    task: str = "",
    lexicon: Lexicon | str | None = None,
    client: ChatClient | None = None,
    min_share: float = 0.02,
    max_attributes: int = 40,
    progress: bool = True,
) -> Selection:
    """Choose attributes: those of a lexicon that are mentioned, those a chat model names, or proposals from the reports alone.

    Raises:
        ValueError: If there are no reports, both sources are given, a chat model gets no task, or nothing is frequent enough.
    """
    reports = [text for text in reports if text.strip()]
    if not reports:
        raise ValueError("there are no reports to choose attributes from")
    if lexicon is not None and client is not None:
        raise ValueError("choose from a lexicon or ask a chat model, not both")
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share must be between 0 and 1, got {min_share}")
    reading = _Reading()
    if client is not None:
        found = ask_names(reports, task, client, progress=progress)
    else:
        if lexicon is None:
            choice = Lexicon(propose(reports, min_share=min_share, progress=progress))
        else:
            choice = lexicon if isinstance(lexicon, Lexicon) else Lexicon.load(lexicon)
        found = reading.read(reports, choice, progress)
    kept = sorted((each for each in found if each[1] >= min_share), key=lambda each: -each[1])[:max_attributes]
    if not kept:
        best = max((share for _, share in found), default=0.0)
        raise ValueError(
            f"no attribute reaches min_share={min_share:g} of {len(reports)} reports (the most frequent: {best:.3f})"
        )
    order = [attribute for attribute, _ in found]
    kept.sort(key=lambda each: order.index(each[0]) if lexicon is not None else 0)  # as the lexicon has them
    chosen = Lexicon([attribute for attribute, _ in kept])
    states = {name: reading.shares(name, len(reports)) for name in chosen.names if name in reading.states}
    examples = {name: reading.examples[name] for name in chosen.names if name in reading.examples}
    return Selection(chosen, {attribute.name: share for attribute, share in kept}, states, examples)


Found = list[tuple[LexiconAttribute, float]]


def _bar(items: Sequence[Any], progress: bool, unit: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(items, desc="selecting", unit=unit, disable=not progress)


class _Reading:
    """What rules find in the reports: how often each attribute is in which state, with some examples."""

    def __init__(self) -> None:
        self.states: dict[str, Counter[str]] = defaultdict(Counter)
        self.examples: dict[str, list[str]] = defaultdict(list)

    def read(self, reports: Sequence[str], lexicon: Lexicon, progress: bool) -> Found:
        if not lexicon.names:
            return []
        extractor = RuleExtractor(lexicon)
        numbers: dict[str, list[float]] = {a.name: [] for a in lexicon.attributes if a.is_numeric}
        for text in _bar(reports, progress, "report"):
            for name, cell in extractor.extract(text).items():
                if cell.value is None or cell.state is None or cell.evidence is None:
                    continue
                self.states[name][cell.state] += 1
                if name in numbers:
                    numbers[name].append(float(cell.value))
                if len(self.examples[name]) < MAX_EXAMPLES:
                    start, end = cell.evidence.target
                    low, high = cell.evidence.sentence
                    excerpt = " ".join(text[max(low, start - MAX_EXCERPT) : min(high, end + MAX_EXCERPT)].split())
                    excerpt = "".join(character for character in excerpt if character.isprintable())
                    self.examples[name] = [*dict.fromkeys([*self.examples[name], excerpt])]
        return [
            (_with_edges(a, numbers.get(a.name, [])), self.states[a.name].total() / len(reports))
            for a in lexicon.attributes
        ]

    def shares(self, name: str, count: int) -> dict[str, float]:
        return {state: self.states[name][state] / count for state in (POSITIVE, NEGATIVE, UNCERTAIN)}


def _with_edges(attribute: LexiconAttribute, numbers: Sequence[float]) -> LexiconAttribute:
    """Add the quartiles of the training reports as edges if the lexicon defines none."""
    if attribute.edges or len(set(numbers)) < 2:
        return attribute
    from alignedfusion.attributes import AttributeSchema

    learned = AttributeSchema.from_table([{"n": number} for number in numbers], ["n"]).attributes[0]
    return replace(attribute, edges=learned.edges)
