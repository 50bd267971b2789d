"""Finished rows on disk, so that an interrupted job continues where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A file of finished rows, one line of JSON each. The first line holds the settings that the rows depend on.

    Hold `lock_output` while a journal is open.

    Args:
        path: The file. A file that already has rows is continued.
        about: The settings that the rows depend on.

    Attributes:
        done: The finished lines by row number, without those of rows that failed.

    Raises:
        ValueError: If the file was started with other settings, or is damaged.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.done: dict[int, dict[str, Any]] = {}
        is_begun = self.path.is_file() and self.path.stat().st_size > 0
        before, rows, whole = read_journal(self.path) if is_begun else ({}, {}, 0)
        if not rows:  # a job that failed before its first row is started again
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # It holds patient data, so only its owner may read it.
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
    """The first line of a journal, the last line of each row by its number, and the number of bytes in complete lines."""
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
        raise ValueError(f"{str(path)!r} is no journal of rows: its first line does not hold their settings")
    return about, rows, whole
