"""Cache of rows that a chat model has finished, in one SQLite file, so that a run can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from pathlib import Path

from alignedfusion.reports.types import Row, from_json, to_json


def cache_key(*parts: str) -> str:
    """Key that depends on all parts. The parts cannot be recovered from it."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class RowCache:
    """Stores rows by key in a file that only its owner can read. Threads and processes may share it.

    It contains values, states and character positions, but no word of a report and no raw reply. Values are patient data, so
    protect the file like the table.

    Args:
        path: SQLite file; created with mode 0600 if it does not exist.

    Raises:
        ValueError: If the file exists but is not a cache.
        OSError: If the file cannot be created.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Created before SQLite opens it, so that others can never read it.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        self._rows = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
        try:
            self._rows.execute(
                "CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, row TEXT NOT NULL) WITHOUT ROWID"
            )
            self._rows.execute("SELECT key, row FROM rows LIMIT 1")
        except sqlite3.DatabaseError as error:
            self._rows.close()
            raise ValueError(
                f"cache {str(self.path)!r} cannot be used as a cache of rows ({error}): choose a file that does not exist yet"
            ) from None

    def get(self, key: str) -> Row | None:
        """The row stored under this key, or None."""
        with self._lock:
            found = self._rows.execute("SELECT row FROM rows WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        stored = json.loads(found[0])
        return from_json(stored["cells"], stored["names"])

    def put(self, key: str, row: Row) -> None:
        """Store a row. It is on disk when this method returns."""
        stored = {"names": list(row), "cells": to_json(row)}
        with self._lock:  # autocommit: one transaction per row
            self._rows.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (key, json.dumps(stored)))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._rows.close()

    def __len__(self) -> int:
        with self._lock:
            return int(self._rows.execute("SELECT count(*) FROM rows").fetchone()[0])
