"""Datasets of single cases `{"image", "codes", "labels"}`, the arguments of the model's `forward`."""

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
"""Collates nested mappings, which the default collator of transformers does not."""


class TensorCases(Dataset[dict[str, Any]]):
    """Cases with images or precomputed tokens in memory.

    Args:
        image: Images (n, channels, H, W) or tokens (n, N, F); a mapping by modality for several images per case.
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
    """Cases with image files, which are read on access.

    Args:
        paths: For each image modality one path per case, or None if the case lacks the image. A `.npy` file holds
            precomputed tokens (N, F).
        codes: int64 (n, A).
        labels: int64 (n,).
        transform: Function from a PIL image to a tensor, such as `VisualTokenizer.transform` returns; None for precomputed
            tokens. A mapping gives each modality its own.
        read: Function from a path to the input of `transform`; with `str`, the transform reads the file itself.
        shape: For each modality the shape of its images. It is needed only if no case has an image of the modality.
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
            # A case without this image gets zeros of the right shape, and is_present is False.
            if name not in self._shapes:
                example = next((path for path in self.paths[name] if path is not None), None)
                if example is None and name not in self.shape:
                    raise ValueError(
                        f"no case has an image of {name!r}; give the shape of one, or leave the modality out"
                    )
                self._shapes[name] = self.shape[name] if example is None else tuple(self._read(name, example).shape)
            return torch.zeros(self._shapes[name])
        if path.suffix == ".npy":
            return torch.from_numpy(read_tokens(path))  # (N, F)
        transform = self.transforms[name]
        if transform is None:
            raise ValueError(f"{str(path)!r} is an image, but this model takes precomputed tokens (.npy files)")
        return as_plain_tensor(transform(self.read(path)))  # (channels, H, W)


def as_plain_tensor(image: Any) -> Tensor:
    """Convert an array, or a tensor of a subclass such as MONAI's, to a plain tensor that the default collate accepts."""
    return torch.as_tensor(image).as_subclass(Tensor)


class CachedCases(Dataset[dict[str, Any]]):
    """Cases with the image tokens of a token cache, which are read one batch at a time.

    Args:
        rows: For each image modality int64 (n,), the row of `tokens` with the case's image; -1 if the case lacks the image.
        codes: int64 (n, A).
        labels: int64 (n,).
        tokens: The attribute `file` of a `TokenCache`.
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
        """Several cases at once; `DataLoader` calls this method."""
        index = torch.as_tensor(indices)
        rows = {name: column[index] for name, column in self.rows.items()}
        images = {name: self.tokens.read(numbers.tolist()) for name, numbers in rows.items()}  # (n, N, F) each
        columns: dict[str, Any] = {
            "image": images if len(images) > 1 else next(iter(images.values())),
            "codes": self.codes[index],
            "labels": self.labels[index],
        }
        if not self._is_complete:
            columns["is_present"] = {name: numbers >= 0 for name, numbers in rows.items()}
        return [{name: _pick(column, i) for name, column in columns.items()} for i in range(len(index))]


class WeightedCases(Dataset[dict[str, Any]]):
    """Cases with a weight in the loss of the class.

    Args:
        cases: The cases.
        weights: (n,), on average 1: the learning rate then means the same as without weights.
    """

    def __init__(self, cases: Any, weights: Tensor) -> None:
        self.cases = cases
        self.weights = weights.float()
        if len(weights) != len(cases):
            raise ValueError(f"weights must hold one number per case ({len(cases)}), got {len(weights)}")
        if not (weights.isfinite() & (weights >= 0)).all() or not weights.any():
            raise ValueError("weights must be finite numbers of at least 0, and not all of them 0")

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.cases[index], "weights": self.weights[index]}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several cases at once; `DataLoader` calls this method."""
        read = getattr(self.cases, "__getitems__", None)
        cases = [self.cases[i] for i in indices] if read is None else read(indices)
        return [{**case, "weights": self.weights[i]} for case, i in zip(cases, indices, strict=True)]


def _pick(column: Any, i: int) -> Any:
    return {name: values[i] for name, values in column.items()} if isinstance(column, dict) else column[i]


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
