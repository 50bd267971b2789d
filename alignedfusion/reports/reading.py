"""Many reports: read by several workers, each finished one on disk at once, and gone on with after an interruption."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from alignedfusion.reports.cells import UNMENTIONED, Extractor, ReportFailedError, Row, from_json, to_json

In = TypeVar("In")
Out = TypeVar("Out")

CHUNK = 64
"""Reports that a process takes at a time."""

_worker: Extractor


class Journal:
    """Rows that are finished, one line of JSON each. Where they come from stands in the first line.

    It holds character positions, and no word of a report.

    Args:
        path: The file; gone on with if it is there.
        about: What the rows depend on. A file about something else is refused.

    Raises:
        ValueError: If the file holds rows of other reports, or from another extractor.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.done: dict[int, dict[str, list[Any]]] = {}
        wanted = json.loads(json.dumps(about))
        if self.path.is_file() and self.path.stat().st_size:
            self._go_on(wanted)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What a patient has can be read from it: only its owner may.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            self._append([wanted])

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append finished rows: {"row": number, "cells": {...}} or {"row": number, "error": reason}."""
        self._append(lines)

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))

    def _go_on(self, wanted: Mapping[str, Any]) -> None:
        about, rows, whole = read_journal(self.path)
        for key in wanted:
            if about.get(key) != wanted[key]:
                raise ValueError(
                    f"{str(self.path)!r} belongs to another extraction: {key} was {about.get(key)!r} and is now "
                    f"{wanted[key]!r}; choose another output, or delete it"
                )
        with self.path.open("r+b") as stream:
            stream.truncate(whole)  # a line that was being written when the process was killed
        self.done = {number: line["cells"] for number, line in rows.items() if "cells" in line}


def read_journal(path: str | Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]], int]:
    """The first line of a journal, the last line of each row by its number, and how many bytes are whole lines."""
    whole, about, rows = 0, None, {}
    with Path(path).open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            data = json.loads(line)
            if about is None:
                about = data
            else:
                rows[int(data["row"])] = data
    if not isinstance(about, dict) or "row" in about:
        raise ValueError(f"{str(path)!r} is not what `alignedfusion extract` writes beside a table")
    return about, rows, whole


def read_all(
    texts: Sequence[str],
    extractor: Extractor,
    *,
    journal: Journal | None = None,
    workers: int = 1,
    progress: bool = True,
) -> list[Row | str]:
    """Read reports, in order.

    Args:
        texts: The reports; an empty one mentions nothing.
        extractor: `RuleExtractor`, `ChatExtractor`, or your own. One with an attribute `concurrency` is run in that many
            threads, any other in `workers` processes.
        journal: Keeps finished rows; rows that it has already are not read again, except those that failed.
        workers: Processes.
        progress: Show a progress bar.

    Returns:
        A row for each report, or the reason why it could not be read.
    """
    from tqdm.auto import tqdm

    rows: list[Row | str] = [dict.fromkeys(extractor.names, UNMENTIONED)] * len(texts)
    done = journal.done if journal is not None else {}
    for number, cells in done.items():
        rows[number] = from_json(cells, extractor.names)
    todo = [(number, text) for number, text in enumerate(texts) if number not in done]
    bar = tqdm(total=len(texts), initial=len(texts) - len(todo), desc="reading", unit="report", disable=not progress)
    with bar:
        for lines in _work(todo, extractor, workers):
            if journal is not None:
                journal.add(lines)
            for line in lines:
                rows[line["row"]] = line.get("error") or from_json(line["cells"], extractor.names)
            bar.update(len(lines))
    return rows


def _work(todo: list[tuple[int, str]], extractor: Extractor, workers: int) -> Iterator[list[dict[str, Any]]]:
    threads = getattr(extractor, "concurrency", 0)
    size = 1 if threads else CHUNK
    chunks = [todo[start : start + size] for start in range(0, len(todo), size)]
    if threads:
        yield from _in_flight(ThreadPoolExecutor(threads), lambda chunk: _read(extractor, chunk), chunks, 2 * threads)
    elif workers > 1 and len(chunks) > 1:
        pool = ProcessPoolExecutor(min(workers, len(chunks)), initializer=_start, initargs=(extractor,))
        yield from _in_flight(pool, _read_here, chunks, 4 * workers)
    else:
        yield from (_read(extractor, chunk) for chunk in chunks)


def _in_flight(pool: Executor, function: Callable[[In], Out], items: Iterable[In], limit: int) -> Iterator[Out]:
    """Results as they come. Only some items wait in the pool at a time: a million would be a million copies."""
    waiting = set()
    try:
        for item in items:
            waiting.add(pool.submit(function, item))
            if len(waiting) >= limit:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(extractor: Extractor) -> None:
    global _worker
    _worker = extractor
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that shows the bar
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _leave_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _read_here(chunk: list[tuple[int, str]]) -> list[dict[str, Any]]:
    return _read(_worker, chunk)


def _read(extractor: Extractor, chunk: list[tuple[int, str]]) -> list[dict[str, Any]]:
    lines = []
    for number, text in chunk:
        try:
            lines.append({"row": number, "cells": to_json(extractor.extract(text)) if text.strip() else {}})
        except ReportFailedError as error:
            lines.append({"row": number, "error": str(error)})
    return lines
