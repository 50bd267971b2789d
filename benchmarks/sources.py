"""Data sources of the tables: image tokens of a frozen backbone, and a table of attributes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from derm7pt_tokens import ManyViews, load_tokens
from torch import Tensor
from tqdm.auto import tqdm

from alignedfusion import VisualTokenizer
from alignedfusion.attributes import AttributeSchema, ColumnOptions
from alignedfusion.datasets import derm7pt, milk10k, pad_ufes_20, phantom
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.datasets.splits import shuffle_groups
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.tables.files import read_table

FOLDS = 5
GRID = 4
COMPONENTS = 256
PCA_TOKENS = 30_000
"""Tokens of training images that the principal components are fitted to."""


@dataclass
class Source:
    """Cases as image tokens and a table.

    Attributes:
        name: Name of the source, used in file names.
        frame: Table with one row per case.
        attributes: Attribute columns of the frame.
        labels: int64 (n,).
        class_names: Names of the classes, in the order of the labels.
        image: Tokens (n, N, F) by image modality.
        splits: "train", "valid" or "test" for each case. Without "valid", a random sixth of "train" is used for validation.
        views: Tokens (n, views, N, F) of augmented views for training, by image modality; None without augmentation.
        groups: Patient of each case, if patients have several cases.
        options: Options of attribute columns.
        components: Number of principal components of the training cases' tokens that replace the features; 0 keeps them.
    """

    name: str
    frame: Any
    attributes: Sequence[str]
    labels: Tensor
    class_names: Sequence[str]
    image: Mapping[str, Tensor]
    splits: np.ndarray
    views: Mapping[str, Tensor] | None = None
    groups: np.ndarray | None = None
    options: Mapping[str, ColumnOptions] | None = None
    components: int = 0

    def split(self, protocol: str, fold: int, seed: int) -> dict[str, np.ndarray]:
        """Row numbers of the training, validation and test cases."""
        if protocol == "split":
            rows = {split: np.flatnonzero(self.splits == split) for split in ("train", "valid", "test")}
            if not len(rows["test"]):
                raise SystemExit(f"{self.name} has no official split: --protocol cv")
        else:
            rows = self._fold(fold, seed)
        if not len(rows["valid"]):
            order = np.random.default_rng(seed).permutation(rows["train"])
            rows["valid"], rows["train"] = (
                np.sort(numbers) for numbers in (order[: len(order) // 6], order[len(order) // 6 :])
            )
        return rows

    def _fold(self, fold: int, seed: int) -> dict[str, np.ndarray]:
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

        if self.groups is None:
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(self.labels, self.labels)
        else:
            folds = StratifiedGroupKFold(FOLDS).split(self.labels, self.labels, shuffle_groups(self.groups, seed))
        train, test = list(folds)[fold]
        return {"train": train, "valid": np.array([], dtype=int), "test": test}

    def reduced(self, rows: np.ndarray) -> Source:
        """The source with principal components in place of the features, fitted to the tokens of these rows alone."""
        if not self.components:
            return self
        generator = torch.Generator().manual_seed(0)
        pool = torch.cat([tokens[rows].flatten(0, 1) for tokens in self.image.values()])
        sample = pool[torch.randperm(len(pool), generator=generator)[:PCA_TOKENS]].float()
        mean = sample.mean(0)
        _, vectors = torch.linalg.eigh((sample - mean).T @ (sample - mean))
        axes = vectors[:, -self.components :]  # (F, components)

        def project(tokens: Tensor) -> Tensor:
            return torch.cat([(batch.float() - mean) @ axes for batch in tokens.split(512)])

        return replace(self, image={m: project(tokens) for m, tokens in self.image.items()}, components=0)

    def schema(self, rows: np.ndarray) -> AttributeSchema:
        """The schema, learned from these rows."""
        return AttributeSchema.from_table(self.frame.iloc[rows], list(self.attributes), options=self.options)

    def cases(self, rows: np.ndarray, codes: Tensor, *, training: bool = False) -> TensorCases:
        """Cases of these rows with these codes; in training a random view of each image, if there are views."""
        if training and self.views is not None:
            return ManyViews({m: tokens[rows] for m, tokens in self.views.items()}, codes, self.labels[rows])
        return TensorCases({m: tokens[rows] for m, tokens in self.image.items()}, codes, self.labels[rows])


def open_source(kind: str, data: Path | None, attributes: str, scratch: Path, columns: Mapping[str, Any]) -> Source:
    """Open the source that the command line names."""
    if kind == "phantom":
        return drawn(scratch)
    if data is None:
        raise SystemExit(f"--source {kind} needs --data")
    if kind == "derm7pt_tokens":
        return derm7pt_tokens(data, attributes)
    if kind == "milk10k":
        return milk10k_tokens(data, attributes, columns["tokens"], scratch)
    if kind == "pad_ufes_20_table":
        return pad_ufes_20_table(data)
    if kind == "derm7pt":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the name of the source shows attributes that leak the label
            manifest = derm7pt.load(data, attributes=attributes)
        return from_manifest(f"derm7pt-{attributes}", manifest, scratch, columns["backbone"], columns["weights"])
    group = columns["group"]
    if kind == "pad_ufes_20":
        manifest, group = pad_ufes_20.load(data, only_with_image=True, task=columns["task"]), "patient_id"
    else:
        chosen = {name: columns[name] for name in ("images", "label", "attributes", "group", "split")}
        # A rare finding may have values that no training row has: they count as unmentioned, as many as there are.
        named = CaseColumns(**{name: value for name, value in chosen.items() if value})
        manifest = Manifest.read(data, named, max_unread=1.0)
    return from_manifest(kind, manifest, scratch, columns["backbone"], columns["weights"], group)


def derm7pt_tokens(data: Path, attributes: str) -> Source:
    """The official training and validation cases as tokens; the validation cases are the test cases here."""
    tokens = load_tokens(data)
    splits = np.where(tokens.frame["split"] == "train", "train", "test")
    columns = derm7pt.ATTRIBUTES[attributes]
    return Source(
        f"derm7pt_tokens-{attributes}",
        tokens.frame,
        columns,
        tokens.labels,
        tokens.class_names,
        tokens.image,
        splits,
        tokens.views,
    )


def milk10k_tokens(data: Path, attributes: str, folder: Path | None, scratch: Path, grid: int = GRID) -> Source:
    """MILK10k with the tokens that `alignedfusion tokens` wrote, averaged over a coarser grid of patches."""
    if folder is None:
        raise SystemExit(
            "--source milk10k needs --tokens FOLDER, which `alignedfusion tokens` writes; see docs/results.md"
        )
    manifest = milk10k.load(data, attributes=attributes)
    file = scratch / f"milk10k-{folder.name}-{grid}x{grid}.pt"
    if not file.is_file():
        cache = TokenCache(folder)
        paths = manifest.paths(manifest.frame)
        _save(file, {m: _pool(cache, cache.rows(paths[m]), grid) for m in milk10k.IMAGES})
    labels = [manifest.class_names.index(str(label)) for label in manifest.frame["label"]]
    return Source(
        f"milk10k-{attributes}",
        manifest.frame,
        manifest.attributes,
        torch.tensor(labels),
        manifest.class_names,
        torch.load(file, weights_only=True, mmap=True),
        manifest.splits,
        options=manifest.options,
        components=COMPONENTS,
    )


def pad_ufes_20_table(data: Path) -> Source:
    """The attributes and diagnoses of all cases of PAD-UFES-20, without images."""
    frame = read_table(data / "metadata.csv", missing_values=("UNK",))
    class_names = sorted(frame["diagnostic"].unique())
    return Source(
        "pad_ufes_20_table",
        frame,
        pad_ufes_20.ATTRIBUTES,
        torch.tensor([class_names.index(label) for label in frame["diagnostic"]]),
        class_names,
        {},
        np.full(len(frame), "train"),
        groups=frame["patient_id"].to_numpy(),
        options=pad_ufes_20.OPTIONS,
    )


def _pool(cache: TokenCache, rows: Tensor, grid: int) -> Tensor:
    """Tokens (n, grid x grid, F) in half precision."""
    pooled = []
    for batch in tqdm(rows.split(128), desc="reading tokens", unit="batch"):
        tokens = cache.file.read(batch.tolist()).float()  # (n, N, F)
        side = round(tokens.shape[1] ** 0.5)
        maps = tokens.transpose(1, 2).unflatten(2, (side, side))
        pooled.append(F.adaptive_avg_pool2d(maps, min(grid, side)).flatten(2).transpose(1, 2).half())
    return torch.cat(pooled)


def drawn(scratch: Path, cases: int = 1500) -> Source:
    """Drawn lesions as tokens of a backbone trained on other drawn lesions."""
    import pandas as pd

    from alignedfusion.commands import demo_models as demo

    torch.manual_seed(0)
    made = phantom.make(cases, seed=5, image_size=demo.IMAGE_SIZE)
    file = scratch / "phantom.pt"
    if not file.is_file():
        visual = demo.pretrain()
        pixels = made.cases(**{name: visual.preprocessing[name] for name in ("mean", "std")}).image
        _save(file, {"image": _encode(visual, pixels)})
    splits = np.array(["train"] * (cases // 3) + ["test"] * (cases - cases // 3))
    frame = pd.DataFrame(phantom.SCHEMA.decode(made.codes))
    labels = torch.as_tensor(made.labels)
    return Source(
        "phantom", frame, phantom.SCHEMA.names, labels, phantom.CLASS_NAMES, torch.load(file, weights_only=True), splits
    )


def from_manifest(
    name: str, manifest: Manifest, scratch: Path, backbone: str, weights: Path | None, group: str | None = None
) -> Source:
    """Encode the images of a manifest once, with a frozen backbone."""
    visual = VisualTokenizer(backbone, 64, pretrained=weights or True, tune="none").eval()
    file = scratch / f"{name}-{backbone}.pt"
    if any(path is None for column in manifest.paths(manifest.frame).values() for path in column):
        raise SystemExit("some cases lack an image, which not all methods support; leave these cases out")
    if not file.is_file():
        # Only the images matter here: the schema of all rows reads every cell.
        schema = AttributeSchema.from_table(manifest.frame, list(manifest.attributes), options=manifest.options)
        cases = manifest.cases(manifest.frame, schema, visual.transform())
        stacked: dict[str, list[Tensor]] = {}
        for i in tqdm(range(len(cases)), desc="encoding images", unit="case"):
            image = cases[i]["image"]
            for m, pixels in (image if isinstance(image, dict) else {"image": image}).items():
                stacked.setdefault(m, []).append(_encode(visual, pixels[None])[0])
        _save(file, {m: torch.stack(tokens) for m, tokens in stacked.items()})
    frame = manifest.frame
    return Source(
        name,
        frame,
        manifest.attributes,
        torch.tensor([manifest.class_names.index(str(label)) for label in frame[manifest.label]]),
        manifest.class_names,
        torch.load(file, weights_only=True),
        manifest.splits,
        groups=None if group is None else frame[group].to_numpy(),
        options=manifest.options,
    )


@torch.no_grad()
def _encode(visual: VisualTokenizer, pixels: Tensor) -> Tensor:
    visual.eval()
    return torch.cat([visual.features(batch) for batch in pixels.split(100)])


def _save(file: Path, content: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.part")  # another process may write the same file
    torch.save(content, draft)
    draft.replace(file)


def store(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write predictions (.npz) at once, so that an interruption leaves no half file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.part")
    with draft.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    draft.replace(file)
