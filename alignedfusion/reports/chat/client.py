"""Client of a chat model behind an OpenAI-compatible server that requests JSON, keeps reports private and explains errors."""

from __future__ import annotations

import contextvars
import ipaddress
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from alignedfusion.reports.types import ReportFailedError, ServerError

_CHATTY = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
_HEADERS = ("host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length")
# A report must not be able to close its own frame or to forge a turn of the conversation: the bracket of "</report>",
# "<|im_end|>", "[/INST]" and similar marks is replaced. "WBC <5" and "<normal" stay as they are.
_MARKUP = re.compile(r"<(?=[ ]{0,9}(?:[|/<\uff5c]|[A-Za-z_]{1,40}[ ]{0,9}[>|]))|\[(?=/?[A-Z_]{3,20}\])")
# Servers fail on these characters or cut the text at them. Line breaks can be blanks within a sentence.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_is_asking = contextvars.ContextVar("_is_asking", default=False)


class ChatClient:
    """Client of one model behind an OpenAI-compatible server. Threads may share it.

    Nothing is read from the environment: neither address nor key nor headers, and for a server on this machine no
    proxy. Redirects are not followed. Requests and replies are never logged at any level, and never part of an
    exception.

    Args:
        base_url: Address of the server, such as `http://127.0.0.1:8080/v1`.
        model: Name of the model on that server. The server's context must hold the longest report: Ollama, for example,
            shortens longer ones without an error.
        api_key: Key, if the server requires one.
        allow_remote: Whether text may be sent to another machine.
        timeout: Seconds to wait for one reply.
        max_retries: Number of retries after a rate limit, an overload or a lost connection.
        max_tokens: Largest number of tokens of a reply; None for the server's own limit.

    Raises:
        ValueError: If the address is invalid, or belongs to another machine and `allow_remote` is False.
        ImportError: If the `openai` package is missing.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        allow_remote: bool = False,
        timeout: float = 90.0,
        max_retries: int = 4,
        max_tokens: int | None = None,
    ) -> None:
        self.base_url, self.model = base_url, model
        self.address, is_local = _check_address(base_url, allow_remote)
        self.timeout, self._max_tokens = timeout, max_tokens
        try:
            import openai
        except ImportError:
            raise ModuleNotFoundError(
                "a chat model needs the openai package: pip install 'alignedfusion[chat]', or pip install openai",
                name="openai",
            ) from None

        # Without a key the openai client would read one from the environment.
        key = api_key or "none"

        def only_ours(request: Any) -> None:
            for header in [header for header in request.headers if header.lower() not in _HEADERS]:
                del request.headers[header]
            request.headers["authorization"] = f"Bearer {key}"

        http_client = openai.DefaultHttpxClient(
            follow_redirects=False, trust_env=not is_local, timeout=timeout, event_hooks={"request": [only_ours]}
        )
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=timeout, max_retries=max_retries, http_client=http_client
        )
        self._complete: Any = self._client.chat.completions.create
        _silence()

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any],
        name: str,
        problem: Callable[[dict[str, Any]], str] | None = None,
    ) -> dict[str, Any]:
        """Request one JSON object that follows `schema`. After an unusable reply the model gets one chance to repair it.

        Args:
            messages: The conversation so far.
            schema: JSON schema of objects, arrays, strings, enums, integers, numbers and booleans. The reply is checked here as
                well, because some servers ignore the schema.
            name: Name of the schema.
            problem: Returns a further problem of an object, in words that quote nothing, or an empty string.

        Raises:
            ReportFailedError: If this request cannot be answered; others may be.
            ServerError: If no request can be answered.
        """
        turns = [dict(message) for message in messages]
        for _ in range(2):
            reply = self._reply(turns, schema, name)
            answer, wrong = _parse(reply, schema)
            if not wrong and problem is not None:
                wrong = problem(answer)
            if not wrong:
                return answer
            # Many chat templates require alternating turns, so the bad reply is included.
            turns = [
                *(dict(message) for message in messages),
                {"role": "assistant", "content": as_data(reply)[:4000] or "{}"},
                {
                    "role": "user",
                    "content": f"This reply cannot be used: {wrong}. Reply again: one JSON object that follows the schema.",
                },
            ]
        raise ReportFailedError(
            f"the model's reply was unusable twice: {wrong}. If all reports fail like this, the server ignores "
            "response_format 'json_schema', or the model is too small"
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reply(self, turns: list[dict[str, str]], schema: Mapping[str, Any], name: str) -> str:
        limit = {} if self._max_tokens is None else {"max_tokens": self._max_tokens}
        failure: Exception | None = None
        token = _is_asking.set(True)
        try:
            reply = self._complete(
                model=self.model,
                messages=turns,
                temperature=0,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": name, "strict": True, "schema": dict(schema)},
                },
                **limit,
            )
        except Exception as error:
            failure = self._explain(error)
        finally:
            _is_asking.reset(token)
        # Raised outside the handler, so that the original error, which contains the request, is not its context.
        if failure is not None:
            raise failure
        if isinstance(reply, str):
            raise ServerError(
                f"{self.address} answers, but not as an OpenAI-compatible server does: does base_url lack its path, "
                "usually /v1?"
            )
        if not getattr(reply, "choices", None):
            raise ReportFailedError("the server's reply holds no answer")
        choice = reply.choices[0]
        if choice.finish_reason == "length":
            raise ReportFailedError(
                "the reply was cut off at the longest length allowed: raise max_tokens or the server's context size, or "
                "ask for fewer attributes"
            )
        if choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None):
            raise ReportFailedError("the model or the server's content filter refused this report")
        return choice.message.content or ""

    def _explain(self, error: Exception) -> Exception:
        """An error in our own words, because messages of the client and the server may quote the report."""
        import openai

        if isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ != "ConnectTimeout":
            return ReportFailedError(f"no reply within {self.timeout:g} s: raise timeout, or lower concurrency")
        if isinstance(error, openai.APIConnectionError):
            return ServerError(f"cannot reach {self.address}: is the server running, and is base_url right?")
        if isinstance(error, openai.APIStatusError):
            return self._explain_status(error.status_code, f"{error.code} {error.type} {error.message}".lower())
        if isinstance(error, (ValueError, RecursionError)):
            return ReportFailedError("the server's reply is not valid JSON")
        return ServerError(f"the request to {self.address} failed ({type(error).__name__})")

    def _explain_status(self, status: int, detail: str) -> Exception:
        where = f"{self.address} answers HTTP {status}"
        if status in (400, 413, 422):
            if "context" in detail and any(word in detail for word in ("exceed", "length", "size", "window")):
                return ReportFailedError(
                    "the report is longer than the model's context: raise the server's context size, or shorten the report"
                )
            if "content_filter" in detail or "content management" in detail:
                return ReportFailedError("the server's content filter refused this report")
            if status == 413:
                return ReportFailedError("the report is larger than the server accepts")
            return ServerError(
                f"{where}: it does not accept the request. It may not know response_format 'json_schema' or the schema's "
                "keywords; its own log says what it missed"
            )
        if status == 500:  # some servers fail on one text only, such as a reply that is not valid UTF-8
            return ReportFailedError("the server failed on this report (HTTP 500); its own log says why")
        if status in (401, 403):
            return ServerError(
                f"{where}: it does not accept the key. Pass the right api_key; none is read from elsewhere"
            )
        if status == 404:
            return ServerError(
                f"{where}: it has no model {self.model!r}, or base_url lacks its path, usually /v1. "
                "GET /v1/models lists what it has"
            )
        if status == 429:
            return ServerError(
                f"{where}: too many requests, retries included. Lower concurrency or wait, then run again"
            )
        if 300 <= status < 400:
            return ServerError(f"{where}, a redirect, which is not followed: give the final address as base_url")
        return ServerError(f"{where}, retries included: is it still starting, or overloaded? Run again later")


def as_data(text: str) -> str:
    """Text for a prompt: on one line, and without marks that a server could interpret."""
    return _MARKUP.sub("(", _CONTROL.sub(" ", text))


def _check_address(base_url: str, allow_remote: bool) -> tuple[str, bool]:
    host = ""
    try:
        parts = urlsplit(base_url)
        if parts.scheme in ("http", "https") and "@" not in parts.netloc and parts.port != 0:  # raises unless a number
            host = parts.hostname or ""
    except ValueError:
        pass
    if not host:
        shown = "one with an @" if "@" in str(base_url) else repr(base_url)  # a password is not for messages
        raise ValueError(
            f"base_url must be an address such as 'http://127.0.0.1:8080/v1', without user and password; got {shown}"
        )
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and not allow_remote:
        raise ValueError(
            f"base_url names the host {host!r}, which is not this machine: reports would leave it. "
            "Pass allow_remote=True if they may"
        )
    return f"{parts.scheme}://{parts.netloc}", is_local


class _NotWhileAsking(logging.Filter):
    """Drops records that are logged during a request of this module; other users of the loggers are not affected."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _is_asking.get()


_FILTER = _NotWhileAsking()


def _silence() -> None:
    # At level DEBUG these loggers print the request. A filter applies only to the logger that it is attached to.
    for name in [*_CHATTY, *list(logging.root.manager.loggerDict)]:
        if name.split(".")[0] in _CHATTY:
            logging.getLogger(name).addFilter(_FILTER)


def _parse(reply: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The JSON object in a reply, and what is wrong with it."""
    start, end = reply.find("{"), reply.rfind("}") + 1  # some models put it into a code block
    try:
        answer = json.loads(reply[start:end] if start >= 0 else reply)
    except (ValueError, RecursionError):
        return {}, "it is not valid JSON"
    return answer, _mismatch(answer, schema, "it")


def _mismatch(value: Any, schema: Mapping[str, Any], where: str) -> str:
    """How a value differs from the schema, in words that quote the schema only."""
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kind = kinds.get(schema["type"], (int, float))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        article = "an" if schema["type"][0] in "aio" else "a"
        return f"{where} must be {article} {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {json.dumps(schema['enum'], ensure_ascii=False)}"
    if isinstance(value, list):
        return next(filter(None, (_mismatch(item, schema["items"], f"each item of {where}") for item in value)), "")
    if isinstance(value, dict):
        properties = schema["properties"]
        if missing := [key for key in schema.get("required", ()) if key not in value]:
            return f"the key {missing[0]} is missing"
        if not properties.keys() >= value.keys():
            return f"it has keys that are not asked for; the keys are {', '.join(properties)}"
        return next(filter(None, (_mismatch(value[key], properties[key], key) for key in value)), "")
    return ""
