"""Image tokens of a frozen backbone, computed once and read in training from a folder with one row per image.

`tokens.bin` holds the rows, `index.jsonl` maps rows to images, and `settings.json` describes how the tokens were computed. A
row counts once its line in the index is complete. The line is written after the row is on disk, so an interrupted job
continues after the last complete line.
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

from alignedfusion.tables.files import read_json

DATA = "tokens.bin"
INDEX = "index.jsonl"
SETTINGS = "settings.json"
FORMAT = 1
_FIX = "copy the folder again, or delete it and compute the tokens again"
_KEYS = ("backbone", "weights", "weights_sha256", "image_size", "preprocessing", "dtype", "shape")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TokenFile:
    """The file of rows. It holds no open file, so worker processes and threads can share it, forked or spawned.

    Attributes:
        path: The file.
        shape: Number of tokens N and of features F per image.
        dtype: Type of the numbers in the file and of the tensors that `read` returns.
    """

    path: Path
    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def read(self, rows: Sequence[int]) -> Tensor:
        """Read the tokens of some rows (n, N, F), in any order; a row of -1 gives zeros.

        The file is read and not mapped into memory, because mapped pages count as memory of this process once touched, and an
        epoch touches all of them. Pages that were read stay in the system's page cache, which other processes can reclaim.
        Opening the file takes microseconds and happens once per batch.

        Raises:
            ValueError: If the file ends before a row does, or a row is not finite.
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
        is_finite = tokens.isfinite().flatten(1).all(1)
        if not is_finite.all():
            row = rows[int((~is_finite).nonzero()[0])]
            raise ValueError(f"row {row} of {str(self.path)!r} is not finite; copy it again, or delete the folder")
        return tokens


class TokenCache:
    """A folder of tokens written by `token_writer.write`, the command `alignedfusion tokens`.

    Args:
        folder: The folder.

    Attributes:
        settings: How the tokens were computed: `backbone`, `weights` (a file, or None for timm's own), `weights_sha256`,
            `image_size`, `preprocessing`, `dtype`, `shape`.
        file: The rows.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no tokens.
        ValueError: If the folder has another format, is damaged, or has fewer rows than its index.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).is_file():
            raise FileNotFoundError(f"no tokens in {str(folder)!r}: `alignedfusion tokens` computes them")
        self.settings = _read_settings(self.folder)
        num_tokens, num_features = self.settings["shape"]
        self.file = TokenFile(self.folder / DATA, (num_tokens, num_features), DTYPES[self.settings["dtype"]])
        lines = complete_lines(self.folder / INDEX)
        size, needed = _size(self.file.path), len(lines) * self.file.row_bytes
        if size < needed:
            raise ValueError(
                f"{str(self.file.path)!r} has {size} bytes, and its index needs {needed}; copy the folder again, or delete it"
            )
        # If an image was computed again, its last row counts.
        try:
            self._rows = {
                path: (row, size, changed) for row, (path, size, changed) in enumerate(map(json.loads, lines))
            }
        except (TypeError, ValueError) as error:
            raise ValueError(f"{str(self.folder / INDEX)!r} is damaged ({error}): {_FIX}") from error

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, paths: Iterable[Path | None]) -> Tensor:
        """The row of each image (n,), -1 for None."""
        return torch.tensor([-1 if path is None else self._rows[key(path)][0] for path in paths], dtype=torch.int64)

    def faults(self, paths: Iterable[str | Path]) -> list[str]:
        """Describe the images whose tokens cannot be used, one sentence each.

        A deleted image is not an error: its stored tokens are still used.
        """
        return [fault for fault in map(self._fault, dict.fromkeys(map(key, paths))) if fault]

    def command(self, images: Sequence[str], root: Path) -> str:
        """The command that adds the images of a table to this folder."""
        settings = self.settings
        words = ["alignedfusion", "tokens", "TABLE", "--image", *images, "--image-root", str(root)]
        for option, value in (
            ("--backbone", settings["backbone"]),
            ("--weights", settings["weights"]),
            ("--image-size", settings["image_size"]),
            ("--timm-args", json.dumps(settings["timm_args"]) if "timm_args" in settings else None),
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
    """The name of an image in the index."""
    return os.path.abspath(path)


def complete_lines(index: Path) -> list[bytes]:
    """The complete lines of an index; an unfinished last line is left out."""
    return index.read_bytes().split(b"\n")[:-1] if index.is_file() else []


def _read_settings(folder: Path) -> dict[str, Any]:
    """The checked settings of a folder."""
    settings: dict[str, Any] = read_json(folder / SETTINGS, _FIX, keys=("format",))
    if settings["format"] != FORMAT:
        raise ValueError(f"{str(folder)!r} has format {settings['format']}, this release reads {FORMAT}")
    if absent := [name for name in _KEYS if name not in settings]:
        raise ValueError(f"{str(folder / SETTINGS)!r} has no {absent}: {_FIX}")
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"the tokens in {str(folder)!r} have the dtype {settings['dtype']!r}: {_FIX}")
    shape = settings["shape"]
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"the tokens in {str(folder)!r} have the shape {shape}, not two positive numbers: {_FIX}")
    return settings


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
