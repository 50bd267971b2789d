"""Datasets of single cases: `{"image", "codes", "labels"}`, as the model's call and `transformers.Trainer` expect them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from alignedfusion.datasets.images import read_image, read_tokens

if TYPE_CHECKING:
    from alignedfusion.datasets.token_cache import TokenCache, TokenFile

Transforms: TypeAlias = Callable[[Any], Any] | Mapping[str, Callable[[Any], Any] | None] | None
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

collate = default_collate
"""Batches of nested mappings, which transformers' own collator does not make."""


class TensorCases(Dataset[dict[str, Any]]):
    """Cases whose images or precomputed tokens are in memory.

    Args:
        image: (n, channels, H, W) images or (n, N, F) tokens; a mapping of them for several images per case.
        codes: int64 (n, A).
        labels: int64 (n,).
    """

    def __init__(self, image: Tensor | Mapping[str, Tensor], codes: Tensor, labels: Tensor) -> None:
        self.image = image
        self.codes = codes
        self.labels = labels
        images = {"image": image} if isinstance(image, Tensor) else dict(image)
        sizes = {name: len(column) for name, column in images.items()}
        if {len(codes), *sizes.values()} != {len(labels)}:
            raise ValueError(
                f"every case needs its images, codes and label; got images {sizes}, {len(codes)} codes and {len(labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.image[index] if isinstance(self.image, Tensor) else {m: x[index] for m, x in self.image.items()}
        return {"image": image, "codes": self.codes[index], "labels": self.labels[index]}


class FileCases(Dataset[dict[str, Any]]):
    """Cases whose images are files, read when they are needed.

    Args:
        paths: For each image modality, a path per case, None where the case has no such image. Files that end in `.npy`
            hold precomputed tokens (N, F).
        codes: int64 (n, A).
        labels: int64 (n,).
        transform: From a PIL image to a tensor, as `VisualTokenizer.transform` gives it; None for precomputed tokens; a mapping
            of such for modalities that differ.
        read: From a path to what `transform` takes; `str` lets the transform read the file itself.
        shape: For each modality, that of the zeros which stand for its image if no case has one.
    """

    def __init__(
        self,
        paths: Mapping[str, Sequence[Path | None]],
        codes: Tensor,
        labels: Tensor,
        transform: Transforms,
        *,
        read: Callable[[Path], Any] = read_image,
        shape: Shapes | None = None,
    ) -> None:
        self.paths = {name: list(column) for name, column in paths.items()}
        self.codes = codes
        self.labels = labels
        self.transforms = transform if isinstance(transform, Mapping) else dict.fromkeys(self.paths, transform)
        self.read = read
        self.shape = shape or {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._is_complete = all(path is not None for column in self.paths.values() for path in column)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        images = {name: self._read(name, column[index]) for name, column in self.paths.items()}
        case = {
            "image": images if len(images) > 1 else next(iter(images.values())),
            "codes": self.codes[index],
            "labels": self.labels[index],
        }
        if not self._is_complete:
            case["is_present"] = {name: torch.tensor(column[index] is not None) for name, column in self.paths.items()}
        return case

    def _read(self, name: str, path: Path | None) -> Tensor:
        if path is None:
            # A row without this image: zeros of the right shape, which is_present keeps from counting.
            if name not in self._shapes:
                there = next((path for path in self.paths[name] if path is not None), None)
                if there is None and name not in self.shape:
                    raise ValueError(
                        f"no case has an image of {name!r}; give the shape of one, or leave the modality out"
                    )
                self._shapes[name] = self.shape[name] if there is None else tuple(self._read(name, there).shape)
            return torch.zeros(self._shapes[name])
        if path.suffix == ".npy":
            return torch.from_numpy(read_tokens(path))  # (N, F)
        transform = self.transforms[name]
        if transform is None:
            raise ValueError(f"{str(path)!r} is an image, but this model takes precomputed tokens (.npy files)")
        return as_plain_tensor(transform(self.read(path)))  # (channels, H, W)


def as_plain_tensor(image: Any) -> Tensor:
    """An array or a tensor of a subclass, such as MONAI's with its metadata, as a tensor that batches like any other."""
    return torch.as_tensor(image).as_subclass(Tensor)


class CachedCases(Dataset[dict[str, Any]]):
    """Cases whose image tokens were computed before, and are read a batch at a time.

    Args:
        rows: For each image modality int64 (n,), the row of `tokens` that is the case's image, -1 where it has none.
        codes: int64 (n, A).
        labels: int64 (n,).
        tokens: The rows, as `TokenCache.file` gives them.
    """

    def __init__(self, rows: Mapping[str, Tensor], codes: Tensor, labels: Tensor, tokens: TokenFile) -> None:
        self.rows = dict(rows)
        self.codes = codes
        self.labels = labels
        self.tokens = tokens
        self._is_complete = all(bool((column >= 0).all()) for column in self.rows.values())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several cases at once: what `DataLoader` asks for."""
        index = torch.as_tensor(indices)
        rows = {name: column[index] for name, column in self.rows.items()}
        images = {name: self.tokens.read(each.tolist()) for name, each in rows.items()}  # (n, N, F) each
        columns: dict[str, Any] = {
            "image": images if len(images) > 1 else next(iter(images.values())),
            "codes": self.codes[index],
            "labels": self.labels[index],
        }
        if not self._is_complete:
            columns["is_present"] = {name: each >= 0 for name, each in rows.items()}
        return [{name: _pick(column, i) for name, column in columns.items()} for i in range(len(index))]


def _pick(column: Any, i: int) -> Any:
    return {name: each[i] for name, each in column.items()} if isinstance(column, dict) else column[i]


Cases: TypeAlias = TensorCases | FileCases | CachedCases


def make_cases(
    paths: Mapping[str, Sequence[Path | None]],
    codes: Tensor,
    labels: Tensor | None,
    transform: Transforms,
    *,
    tokens: TokenCache | None = None,
    read: Callable[[Path], Any] = read_image,
    shape: Shapes | None = None,
) -> Cases:
    """Make a dataset of cases from image paths, codes and labels.

    Args:
        paths: For each image modality, a path per case, None where the case has no such image. Empty for a model that reads
            attributes only.
        codes: int64 (n, A).
        labels: int64 (n,); None makes every label 0.
        transform: See `FileCases`.
        tokens: A token cache that holds every image; its tokens replace the images, and `transform` is not used.
        read: See `FileCases`.
        shape: See `FileCases`.
    """
    labels = torch.zeros(len(codes), dtype=torch.int64) if labels is None else labels
    if not paths:
        return TensorCases(torch.zeros(len(codes), 0), codes, labels)  # an empty image, which the model does not read
    if tokens is not None:
        rows = {modality: tokens.rows(column) for modality, column in paths.items()}
        return CachedCases(rows, codes, labels, tokens.file)
    return FileCases(paths, codes, labels, transform, read=read, shape=shape)
