"""Reports read by a chat model behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from alignedfusion.reports.chat.cache import RowCache, cache_key
from alignedfusion.reports.chat.form import MAX_ATTRIBUTES, PROMPT_VERSION, Form
from alignedfusion.reports.rules.lexicon import Lexicon
from alignedfusion.reports.rules.sentences import Sentence, sentences
from alignedfusion.reports.types import UNMENTIONED, UNVERIFIED, ReportFailedError, Row

if TYPE_CHECKING:
    from alignedfusion.attributes import AttributeSchema
    from alignedfusion.reports.chat.client import ChatClient


class ChatExtractor:
    """Fills the attribute table with a chat model: one request per report, and every value is checked against the text.

    A value counts only if the sentence that the model names exists and contains a word of the attribute's name or of the
    value, or a term that the lexicon lists for it (for a number: the number itself). Otherwise its state is "unverified".
    Threads may share an extractor. `extract_table` runs it in `concurrency` threads.

    Args:
        attributes: The attributes and their values: a schema, or a lexicon, whose terms are then also used to verify values.
        client: The model to ask. Closing the extractor does not close it.
        redact: Called on each report before anything else. Evidence refers to the text that it returns.
        cache: A file that keeps finished rows, so that a run can be resumed; see `RowCache`.
        require_evidence: Whether an unverified value counts as unmentioned.
        concurrency: Number of simultaneous requests.

    Raises:
        ValueError: If `concurrency` is below 1, or `cache` is a file of another kind.
    """

    def __init__(
        self,
        attributes: AttributeSchema | Lexicon,
        client: ChatClient,
        *,
        redact: Callable[[str], str] | None = None,
        cache: str | Path | None = None,
        require_evidence: bool = False,
        concurrency: int = 8,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1 request at a time, got {concurrency}")
        lexicon = attributes if isinstance(attributes, Lexicon) else None
        schema = attributes.schema() if isinstance(attributes, Lexicon) else attributes
        self.schema, self.client = schema, client
        self.concurrency, self.require_evidence = concurrency, require_evidence
        self._redact = redact
        self._terms = (
            "" if lexicon is None else lexicon.to_yaml()
        )  # part of the cache key: terms decide what is verified
        self._forms = [
            Form(schema.attributes[start : start + MAX_ATTRIBUTES], lexicon)
            for start in range(0, len(schema), MAX_ATTRIBUTES)
        ]
        self._cache = None if cache is None else RowCache(cache)

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes, in the order of the table's columns."""
        return self.schema.names

    def extract(self, text: str) -> Row:
        """Read one report.

        Raises:
            ReportFailedError: If this report cannot be read; others may be.
            ServerError: If the server cannot read any report; run again when it can.
        """
        text = self._redacted(text)
        lines = sentences(text)
        if not lines:
            return dict.fromkeys(self.names, UNMENTIONED)
        row: Row = {}
        for form in self._forms:
            row |= self._fill(form, text, lines)
        if self.require_evidence:
            row = {name: UNMENTIONED if cell.state == UNVERIFIED else cell for name, cell in row.items()}
        return row

    def close(self) -> None:
        """Close the cache."""
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> ChatExtractor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _redacted(self, text: str) -> str:
        if self._redact is None:
            return text
        failure = ""
        try:
            text = self._redact(text)
        except Exception as error:  # its message may quote the report
            failure = f"raised {type(error).__name__}"
        if not failure and not isinstance(text, str):
            failure = f"returned {type(text).__name__} instead of str"
        if failure:
            raise ReportFailedError(f"redact {failure}; the report was not sent")
        return text

    def _fill(self, form: Form, text: str, lines: list[Sentence]) -> Row:
        client = self.client
        key = cache_key(PROMPT_VERSION, client.base_url, client.model, form.instructions, self._terms, text)
        if self._cache is not None and (row := self._cache.get(key)) is not None:
            return row
        answers = client.ask(form.messages(text, lines), form.schema, "report_form", form.problem)
        row = form.row(answers, text, lines)
        if self._cache is not None:
            self._cache.put(key, row)  # before require_evidence, so that both settings share it
        return row
