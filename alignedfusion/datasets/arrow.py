"""Cases of a Hugging Face dataset, which is memory-mapped; rows are read on access."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignedfusion.datasets.cases import as_plain_tensor
from alignedfusion.datasets.images import read_image, read_tokens


class ArrowCases(Dataset[dict[str, Any]]):
    """Cases of a `datasets.Dataset`; every case has `is_present`.

    Args:
        table: The dataset.
        columns: The image column of each modality.
        codes: int64 (n, A).
        labels: int64 (n,).
        transform: Function from a PIL image to a tensor (channels, H, W); None for precomputed tokens.
        root: Folder that relative paths start from.
        read: Function from a path to the input of `transform`.
    """

    def __init__(
        self,
        table: Any,
        columns: Mapping[str, str],
        codes: Tensor,
        labels: Tensor,
        transform: Callable[[Any], Any] | None,
        *,
        root: str | Path = ".",
        read: Callable[[Path], Any] = read_image,
    ) -> None:
        self.columns = dict(columns)
        self.table = table.select_columns(list(columns.values())).with_format(None)
        for column in columns.values():
            if hasattr(feature := table.features[column], "decode"):
                # Images stay encoded: `read_image` also handles 16 bits and transparency, and its errors name the file.
                encoded = copy.copy(feature)
                encoded.decode = False
                self.table = self.table.cast_column(column, encoded)
        self.codes = codes
        self.labels = labels
        self.transform = transform
        self.root = Path(root)
        self.read = read
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.table[index]
        cells = {m: row[column] for m, column in self.columns.items()}
        images = {m: self._image(m, cell, index) for m, cell in cells.items()}
        return {
            "image": images if len(images) > 1 else next(iter(images.values())),
            "codes": self.codes[index],
            "labels": self.labels[index],
            "is_present": {m: torch.tensor(cell is not None) for m, cell in cells.items()},
        }

    def _image(self, modality: str, cell: Any, index: int) -> Tensor:
        if cell is None:
            if modality not in self._shapes:
                column = self.columns[modality]
                first = next(i for i in range(len(self.table)) if self.table[i][column] is not None)
                self._shapes[modality] = tuple(self._image(modality, self.table[first][column], first).shape)
            return torch.zeros(self._shapes[modality])
        if isinstance(cell, dict) and cell["bytes"] is None:
            cell = cell["path"]
        if isinstance(cell, (list, np.ndarray)):
            return torch.from_numpy(np.asarray(cell, dtype=np.float32))  # (N, F)
        if isinstance(cell, str) and cell.endswith(".npy"):
            return torch.from_numpy(read_tokens(self.root / cell))  # (N, F)
        if self.transform is None:
            raise ValueError(f"row {index} has an image, but this model takes precomputed tokens; give a transform")
        if isinstance(cell, str):
            return as_plain_tensor(self.transform(self.read(self.root / cell)))
        try:
            picture = read_image(io.BytesIO(cell["bytes"]))
        except ValueError as error:
            raise ValueError(f"the image {cell['path']!r} in row {index} cannot be read: {error.__cause__}") from error
        return as_plain_tensor(self.transform(picture))  # (channels, H, W)
