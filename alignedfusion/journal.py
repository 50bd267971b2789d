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
        path: The file; gone on with if it is there.
        about: What the rows depend on. A file about something else is refused.

    Attributes:
        done: The lines that are there, by row number; not those of rows that failed.

    Raises:
        ValueError: If the file is about something else.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.done: dict[int, dict[str, Any]] = {}
        wanted = json.loads(json.dumps(about))
        if self.path.is_file() and self.path.stat().st_size:
            self._go_on(wanted)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What a patient has can be read from it: only its owner may.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            self._append([wanted])

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append finished rows: {"row": number, ...}, or {"row": number, "error": reason}."""
        self._append(lines)

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))

    def _go_on(self, wanted: Mapping[str, Any]) -> None:
        about, rows, whole = read_journal(self.path)
        for key in wanted:
            if about.get(key) != wanted[key]:
                raise ValueError(
                    f"{str(self.path)!r} was begun with other settings: {key} was {about.get(key)!r} and is now "
                    f"{wanted[key]!r}; choose another output, or delete it"
                )
        with self.path.open("r+b") as stream:
            stream.truncate(whole)  # a line that was being written when the process was killed
        self.done = {number: line for number, line in rows.items() if "error" not in line}


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
        raise ValueError(f"{str(path)!r} is no journal of rows: its first line does not say what they depend on")
    return about, rows, whole
