"""Rows on disk as soon as they are finished, so that an interrupted job goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Rows that are finished, one line of JSON each. What they depend on stands in the first line.

    Args:
        path: The file; gone on with if it has rows.
        about: What the rows depend on. Rows that depend on something else are refused.

    Attributes:
        done: The lines that are there, by row number; not those of rows that failed.

    Raises:
        ValueError: If the rows that are there depend on something else.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.done: dict[int, dict[str, Any]] = {}
        is_begun = self.path.is_file() and self.path.stat().st_size > 0
        before, rows, whole = read_journal(self.path) if is_begun else ({}, {}, 0)
        if not rows:  # what failed before its first row is no beginning
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What a patient has can be read from it: only its owner may.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            self.add([about])
            return
        for key, wanted in json.loads(json.dumps(about)).items():
            if before.get(key) != wanted:
                raise ValueError(
                    f"{str(self.path)!r} was begun with other settings: {key} was {before.get(key)!r} and is now "
                    f"{wanted!r}; choose another output, or delete it"
                )
        with self.path.open("r+b") as stream:
            stream.truncate(whole)  # a line that was being written when the process was killed
        self.done = {number: line for number, line in rows.items() if "error" not in line}

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append finished rows: {"row": number, ...}, or {"row": number, "error": reason}."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))


def read_journal(path: str | Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]], int]:
    """The first line of a journal, the last line of each row by its number, and how many bytes are whole lines."""
    whole, about, rows = 0, None, {}
    with Path(path).open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                data = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{str(path)!r} is damaged near byte {whole} ({error}): delete it and start again"
                ) from error
            if about is None:
                about = data
            else:
                rows[int(data["row"])] = data
    if not isinstance(about, dict) or "row" in about:
        raise ValueError(f"{str(path)!r} is no journal of rows: its first line does not say what they depend on")
    return about, rows, whole
