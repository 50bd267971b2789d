"""Image tokens of a frozen backbone, batch by batch: in this process, or on a cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignedfusion.datasets.images import read_ahead, read_image
from alignedfusion.datasets.token_cache import DTYPES
from alignedfusion.modules.backbones import ANY_BACKBONE, Backbone, weights_sha256
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import build_visual
from alignedfusion.tables.cluster import map_on_ray

STEP = 64
"""Images per forward pass of the backbone, within a larger batch."""


class TokenBatch:
    """Adds tokens to a batch of image paths. Engines that process tables on many machines can map it over a data set.

    With Ray Data: `dataset.map_batches(TokenBatch, fn_constructor_kwargs={"image": "file"}, batch_size=256, concurrency=8)`,
    and `num_gpus=1` on machines with GPUs. To write tokens for `train --tokens`, use `token_writer.write` with `on_ray=True`.

    Args:
        image: Column of the image paths.
        backbone: A frozen backbone, with timm's weights or those of a local file.
        dtype: "float16" or "bfloat16". NumPy has no bfloat16, so bfloat16 tokens are returned as float32.
        root: Folder that relative paths start from.
    """

    def __init__(
        self,
        image: str,
        *,
        backbone: Backbone = ANY_BACKBONE,
        dtype: str = "float16",
        root: str | Path = ".",
    ) -> None:
        self.image = image
        self.root = Path(root)
        self.dtype = DTYPES[dtype]
        self.visual = build_visual(backbone, 1)
        self.visual.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.transform = self.visual.transform()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch (arrays by column) with an additional column `tokens` (n, N, F)."""
        tokens = self.compute(batch[self.image].tolist())
        return {**batch, "tokens": (tokens.float() if tokens.dtype == torch.bfloat16 else tokens).numpy()}

    def compute(self, paths: Sequence[str]) -> Tensor:
        """The tokens (n, N, F) of some images, on the CPU. Threads read the next images while the backbone runs."""
        steps = read_ahead(self._read, paths, STEP)
        return torch.cat([_features(self.visual, torch.stack(step), self.dtype) for step in steps])

    def _read(self, path: str) -> Tensor:
        return self.transform(read_image(self.root / path))


class _BitsBatch(TokenBatch):
    """Tokens as the bits that a `TokenCache` with these settings stores, because NumPy has no bfloat16."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        backbone = Backbone(
            settings["backbone"],
            pretrained=settings["weights"] or True,
            image_size=settings["image_size"],
            timm_args=settings.get("timm_args"),
        )
        super().__init__("path", backbone=backbone, dtype=settings["dtype"])
        if weights_sha256(self.visual.backbone) != settings["weights_sha256"]:
            raise ValueError(
                f"{socket.gethostname()} has other weights of {settings['backbone']!r} than the machine that writes; put one "
                f"file of weights on a disk that all machines share, and pass its path as weights"
            )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        bits = self.compute(batch[self.image].tolist()).view(torch.int16)
        return {"number": batch["number"], "bits": bits.numpy()}


class _Images(Dataset[Tensor]):
    def __init__(self, paths: Sequence[str], transform: Any) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(read_image(self.paths[index]))


def compute_tokens(
    visual: VisualTokenizer, paths: Sequence[str], dtype: torch.dtype, batch_size: int, workers: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Compute the tokens (n, N, F) of images, batch by batch, on the CPU, with the positions of the images in `paths`.

    Args:
        visual: The tokenizer, which is moved to the GPU if there is one.
        paths: Image files.
        dtype: Type of the tokens.
        batch_size: Images per forward pass.
        workers: Number of processes that read images.
    """
    on_gpu = torch.cuda.is_available()
    visual.to("cuda" if on_gpu else "cpu")
    images = _Images(paths, visual.transform())
    done = 0
    for batch in DataLoader(images, batch_size, num_workers=workers, pin_memory=on_gpu):
        yield range(done, done + len(batch)), _features(visual, batch, dtype)
        done += len(batch)


def compute_tokens_on_ray(
    paths: Sequence[str], settings: Mapping[str, Any], batch_size: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """As `compute_tokens`, on a Ray cluster and in any order; `settings` are those of the `TokenCache` to write."""
    import pandas as pd

    frame = pd.DataFrame({"number": range(len(paths)), "path": list(paths)})
    for batch in map_on_ray(frame, _BitsBatch, {"settings": settings}, batch_size=batch_size, batch_format="numpy"):
        yield batch["number"].tolist(), torch.from_numpy(batch["bits"].copy()).view(DTYPES[settings["dtype"]])


@torch.inference_mode()
def _features(visual: VisualTokenizer, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Tokens (n, N, F) of images (n, channels, H, W), returned on the CPU; on a GPU the backbone runs in `dtype`."""
    device = visual.norm.weight.device
    with torch.autocast(device.type, dtype, enabled=device.type != "cpu"):
        return visual.features(images.to(device, non_blocking=True)).to(dtype).cpu()
