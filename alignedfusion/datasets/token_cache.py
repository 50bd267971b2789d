"""Image tokens of a frozen backbone, computed once and read in training: a folder with one file of rows, one row per image.

`tokens.bin` holds the rows, `index.jsonl` says of which image each row is, `settings.json` how they were computed. A row
counts once its line in the index is complete, and the line is written after the row is on disk: whatever stops the writing,
the same call goes on behind the last complete line.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA = "tokens.bin"
INDEX = "index.jsonl"
SETTINGS = "settings.json"
FORMAT = 1
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TokenFile:
    """The rows alone. It holds no open file, so that worker processes and threads can share it, forked or spawned.

    Attributes:
        path: The file.
        shape: Tokens N and features F of an image.
        dtype: Of the numbers in the file, and of what `read` returns.
    """

    path: Path
    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self, rows: Sequence[int]) -> Tensor:
        """The tokens of some rows (n, N, F), in any order; zeros for a row of -1.

        Rows are read, not mapped: pages of a memory map count as this process's memory once touched, and an epoch touches
        them all. What was read stays in the system's page cache, which gives way to others. Opening the file takes
        microseconds, and is done once per batch.

        Raises:
            ValueError: If the file ends before a row does.
        """
        tokens = torch.zeros(len(rows), *self.shape, dtype=self.dtype)
        buffers = tokens.view(torch.uint8).flatten(1).numpy()
        with open(self.path, "rb", buffering=0) as file:
            for row, buffer in zip(rows, buffers, strict=True):
                if row >= 0:
                    file.seek(row * self.row_bytes)
                    if file.readinto(buffer) != self.row_bytes:
                        raise ValueError(
                            f"{str(self.path)!r} ends within row {row}; copy it again, or delete the folder"
                        )
        return tokens


class TokenCache:
    """A folder of tokens that `token_writer.write` (the command `alignedfusion tokens`) made.

    Args:
        folder: The folder.

    Attributes:
        settings: How the tokens were computed: `backbone`, `weights` (a file, or None for timm's own), `weights_sha256`,
            `image_size`, `preprocessing`, `dtype`, `shape`.
        file: The rows.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its format is another, or its data are fewer than its index says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).is_file():
            raise FileNotFoundError(f"no tokens in {str(folder)!r}: `alignedfusion tokens` computes them")
        self.settings: dict[str, Any] = json.loads((self.folder / SETTINGS).read_text("utf-8"))
        if self.settings.get("format") != FORMAT:
            raise ValueError(f"{str(folder)!r} has format {self.settings.get('format')}, this release reads {FORMAT}")
        num_tokens, num_features = self.settings["shape"]
        self.file = TokenFile(self.folder / DATA, (num_tokens, num_features), DTYPES[self.settings["dtype"]])
        lines = complete_lines(self.folder / INDEX)
        there, needed = _size(self.file.path), len(lines) * self.file.row_bytes
        if there < needed:
            raise ValueError(
                f"{str(self.file.path)!r} has {there} bytes, and its index needs {needed}; copy the folder again, or delete it"
            )
        # Of an image computed again, the last row counts.
        self._rows = {path: (row, size, changed) for row, (path, size, changed) in enumerate(map(json.loads, lines))}

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, paths: Iterable[Path | None]) -> Tensor:
        """The row of each image (n,), -1 for None."""
        return torch.tensor([-1 if path is None else self._rows[key(path)][0] for path in paths], dtype=torch.int64)

    def faults(self, paths: Iterable[str | Path]) -> list[str]:
        """What is wrong with the images whose tokens cannot be used, one sentence each.

        An image that is no longer there is no fault: its tokens are.
        """
        return [fault for fault in map(self._fault, dict.fromkeys(map(key, paths))) if fault]

    def command(self, images: Sequence[str], root: Path) -> str:
        """The command that adds images of a table to this folder."""
        settings = self.settings
        words = ["alignedfusion", "tokens", "TABLE", "--image", *images, "--image-root", str(root)]
        for option, value in (
            ("--backbone", settings["backbone"]),
            ("--weights", settings["weights"]),
            ("--image-size", settings["image_size"]),
            ("--dtype", settings["dtype"]),
        ):
            words += [] if value is None else [option, str(value)]
        return shlex.join([*words, "-o", str(self.folder)])

    def _fault(self, path: str) -> str:
        if path not in self._rows:
            return f"{path} is not among those in {str(self.folder)!r}"
        try:
            now = os.stat(path)
        except FileNotFoundError:
            return ""
        return (
            ""
            if self._rows[path][1:] == (now.st_size, now.st_mtime_ns)
            else f"{path} has changed since its tokens were computed"
        )


def key(path: str | Path) -> str:
    """The name under which an image stands in the index."""
    return os.path.abspath(path)


def complete_lines(index: Path) -> list[bytes]:
    """The lines of an index, without one that was begun and not ended."""
    return index.read_bytes().split(b"\n")[:-1] if index.is_file() else []


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
