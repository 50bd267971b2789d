"""Reports read by a chat model behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from alignedfusion.attributes import AttributeSchema
from alignedfusion.reports.chat.cache import RowCache, cache_key
from alignedfusion.reports.chat.client import ChatServer
from alignedfusion.reports.chat.form import MAX_ATTRIBUTES, PROMPT_VERSION, Form
from alignedfusion.reports.rules.lexicon import Lexicon
from alignedfusion.reports.rules.sentences import Sentence, sentences
from alignedfusion.reports.types import UNMENTIONED, UNVERIFIED, ReportFailedError, Row, ServerError

__all__ = ["ChatExtractor", "ChatServer", "ServerError"]


class ChatExtractor:
    """Fills the table with a chat model: one request per report, every value checked against the text.

    A value counts only if the sentence that the model names exists and holds a word of the attribute's name or of the
    value, or a term that the lexicon has for it (a number: the number itself). Otherwise its state is "unverified".
    Threads may share an extractor; whoever runs it over many reports uses `concurrency` threads.

    Args:
        attributes: The attributes and their values: a schema, or a lexicon, whose terms then bear values out as well.
        base_url: Where the server is, such as `http://127.0.0.1:8080/v1`; never taken from the environment.
        model: The model's name on that server. Set the server's context to hold your longest report: a server that
            shortens what it is sent without saying so, as Ollama does, hides the rest of the report from the model.
        api_key: The key, if the server wants one; never taken from the environment.
        allow_remote: Whether reports may leave this machine.
        redact: Runs over each report before anything else is done with it. Evidence then refers to what it returns.
        cache: A file that keeps finished rows, so that a run can be resumed; see `RowCache`.
        require_evidence: Whether an unverified value counts as unmentioned.
        concurrency: Requests at a time.
        timeout: Seconds to wait for one reply.
        max_retries: How often a request is repeated after a rate limit, an overload or a lost connection.
        max_tokens: Longest reply; None leaves the limit to the server.

    Raises:
        ValueError: If the address is on another machine and `allow_remote` is False, or `cache` is not a cache.
        ImportError: If the `openai` package is missing.
    """

    def __init__(
        self,
        attributes: AttributeSchema | Lexicon,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        allow_remote: bool = False,
        redact: Callable[[str], str] | None = None,
        cache: str | Path | None = None,
        require_evidence: bool = False,
        concurrency: int = 8,
        timeout: float = 90.0,
        max_retries: int = 4,
        max_tokens: int | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1 request at a time, got {concurrency}")
        lexicon = attributes if isinstance(attributes, Lexicon) else None
        schema = attributes.schema() if isinstance(attributes, Lexicon) else attributes
        self.schema, self.concurrency, self.require_evidence = schema, concurrency, require_evidence
        self._redact = redact
        self._terms = "" if lexicon is None else lexicon.to_yaml()  # they decide what is verified
        self._forms = [
            Form(schema.attributes[start : start + MAX_ATTRIBUTES], lexicon)
            for start in range(0, len(schema), MAX_ATTRIBUTES)
        ]
        self._server = ChatServer(
            base_url=base_url,
            model=model,
            api_key=api_key,
            allow_remote=allow_remote,
            timeout=timeout,
            max_retries=max_retries,
            max_tokens=max_tokens,
        )
        try:
            self._cache = None if cache is None else RowCache(cache)
        except BaseException:
            self._server.close()
            raise

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
        """Close the connections and the cache."""
        self._server.close()
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
        server = self._server
        key = cache_key(PROMPT_VERSION, server.base_url, server.model, form.instructions, self._terms, text)
        if self._cache is not None and (row := self._cache.get(key)) is not None:
            return row
        answers = server.ask(form.messages(text, lines), form.schema, "report_form", form.problem)
        row = form.row(answers, text, lines)
        if self._cache is not None:
            self._cache.put(key, row)  # before require_evidence, so that both settings share it
        return row
