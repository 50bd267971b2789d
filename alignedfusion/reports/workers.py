"""Extraction by several workers. Finished reports are written at once, so that an interrupted run can continue."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from alignedfusion.reports.types import UNMENTIONED, Extractor, ReportFailedError, Row, from_json, to_json
from alignedfusion.tables.cluster import map_on_ray
from alignedfusion.tables.journal import Journal

if TYPE_CHECKING:
    import pandas as pd

In = TypeVar("In")
Out = TypeVar("Out")

CHUNK = 64
"""Number of reports per task of a process."""

RAY_CHUNK = 1024
"""Number of reports per batch of a cluster's worker."""

_worker: Extractor


def read_all(
    texts: Sequence[str],
    extractor: Extractor,
    *,
    journal: Journal | None = None,
    workers: int = 1,
    on_ray: bool = False,
    progress: bool = True,
) -> list[Row | str]:
    """Read reports, in order.

    Args:
        texts: The reports.
        extractor: `RuleExtractor`, `ChatExtractor`, or your own. An extractor with an attribute `concurrency` runs in that many
            threads, any other in `workers` processes.
        journal: Journal of finished rows. Its rows are not read again, except those that failed.
        workers: Number of processes.
        on_ray: Whether to read on a Ray cluster instead; see `cluster.map_on_ray`.
        progress: Whether to show a progress bar.

    Returns:
        A row for each report, or the reason why it could not be read.
    """
    from tqdm.auto import tqdm

    rows: list[Row | str] = [dict.fromkeys(extractor.names, UNMENTIONED)] * len(texts)
    done = journal.done if journal is not None else {}
    for number, line in done.items():
        rows[number] = from_json(line["cells"], extractor.names)
    todo = [(number, text) for number, text in enumerate(texts) if number not in done]
    bar = tqdm(total=len(texts), initial=len(texts) - len(todo), desc="reading", unit="report", disable=not progress)
    with bar:
        for lines in _on_ray(todo, extractor) if on_ray else _work(todo, extractor, workers):
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


def _on_ray(todo: list[tuple[int, str]], extractor: Extractor) -> Iterator[list[dict[str, Any]]]:
    import pandas as pd

    if getattr(extractor, "concurrency", 0):
        raise ValueError(f"{type(extractor).__name__} asks a server, which is the bottleneck: read without Ray")
    frame = pd.DataFrame(todo, columns=["row", "text"])
    for batch in map_on_ray(frame, _ReadBatch, {"extractor": extractor}, batch_size=RAY_CHUNK):
        yield [json.loads(line) for line in batch["line"]]


class _ReadBatch:
    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        lines = _read(self.extractor, list(zip(batch["row"].tolist(), batch["text"], strict=True)))
        return batch[["row"]].assign(line=[json.dumps(line) for line in lines])


def _in_flight(pool: Executor, function: Callable[[In], Out], items: Iterable[In], limit: int) -> Iterator[Out]:
    """Yield results as they finish. At most `limit` items are submitted at a time, which bounds the memory."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this worker when its parent has ended: otherwise it would wait for work forever."""
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
