"""Compute the image tokens of a frozen backbone once, and write them to a folder that `token_cache.TokenCache` reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from alignedfusion.datasets.images import check_images
from alignedfusion.datasets.token_cache import DATA, DTYPES, FORMAT, INDEX, SETTINGS, TokenCache, complete_lines, key
from alignedfusion.modules.backbones import ANY_BACKBONE, Backbone, weights_sha256
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import build_visual
from alignedfusion.tables.files import lock_output, write_json
from alignedfusion.training.token_batches import compute_tokens, compute_tokens_on_ray

COMMIT_SECONDS = 1.0
"""Seconds between two commits of rows to disk: an interruption loses at most the rows of this time, or of one batch."""


def write(
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    backbone: Backbone = ANY_BACKBONE,
    dtype: str = "bfloat16",
    batch_size: int = 64,
    workers: int = 0,
    on_ray: bool = False,
    progress: bool = True,
) -> TokenCache:
    """Run a backbone once on every distinct image, and store the output of `VisualTokenizer.features`.

    The same call continues an interrupted one, and adds the tokens of new images. Images whose size or modification time has
    changed are computed again; their old rows stay in the file, unused. On a GPU the backbone runs in `dtype`.

    Args:
        paths: Image files.
        folder: Folder of the tokens.
        backbone: The backbone, with timm's weights or those of a local file. It must be pretrained, with tune="none": a model
            can only use tokens whose backbone it can rebuild.
        dtype: "bfloat16", which has the range of float32, or "float16", which has three more bits of precision.
        batch_size: Images per forward pass.
        workers: Number of processes that read images.
        on_ray: Whether to compute on a Ray cluster (see `tables.cluster.map_on_ray`); this process writes the tokens.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the folder has tokens computed with other settings, another process is writing to it, images cannot be
            read, or tokens do not fit the dtype.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
    distinct = list(dict.fromkeys(map(key, paths)))
    if tokens := [path for path in distinct if path.endswith(".npy")]:
        raise ValueError(f"{tokens[0]!r} already holds tokens: use .npy files in training directly")
    if backbone.tune != "none" or backbone.pretrained is False:
        raise ValueError(
            f"the backbone of stored tokens must be pretrained, with tune='none', got {backbone}: a model could not rebuild it"
        )
    visual = build_visual(backbone, 1).eval()
    settings = _settings(visual, backbone, dtype)
    with lock_output(folder / DATA), ExitStack() as files:
        _start(folder, settings)
        data, index = (files.enter_context(open(folder / name, "ab")) for name in (DATA, INDEX))
        _drop_uncounted(folder, data, index)
        cache = TokenCache(folder)
        wanted = [path for path in distinct if cache.faults([path])]
        check_images(map(Path, wanted))
        # The state of an image is recorded before the image is read, so that a later change is noticed.
        lines = [_line(path) for path in wanted]
        if on_ray:
            computed = compute_tokens_on_ray(wanted, cache.settings, batch_size)
        else:
            computed = compute_tokens(visual, wanted, DTYPES[dtype], batch_size, workers)
        writer = _Writer(data, index)
        done = len(distinct) - len(wanted)
        with tqdm(total=len(distinct), initial=done, disable=not progress, desc="tokens", unit="image") as bar:
            try:
                for numbers, rows in computed:
                    _check_finite(rows, [wanted[number] for number in numbers])
                    writer.add(rows, [lines[number] for number in numbers])
                    bar.update(len(rows))
            finally:
                writer.commit()
    return TokenCache(folder)


class _Writer:
    """Writes rows of tokens, then the lines of the index that refer to them; rows without a line are ignored by readers."""

    def __init__(self, data: IO[bytes], index: IO[bytes]) -> None:
        self.data = data
        self.index = index
        self.lines: list[bytes] = []
        self.committed = time.monotonic()

    def add(self, rows: Tensor, lines: list[bytes]) -> None:
        self.data.write(rows.contiguous().view(torch.int16).numpy().data)
        self.lines += lines
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        # The lines are taken out first: an interruption in this method may lose them but must not write them twice.
        lines, self.lines = self.lines, []
        _flush(self.data)
        self.index.write(b"".join(lines))
        _flush(self.index)
        self.committed = time.monotonic()


def _check_finite(rows: Tensor, paths: list[str]) -> None:
    is_finite = rows.flatten(1).isfinite().all(1)
    if not is_finite.all():
        first = paths[int((~is_finite).nonzero()[0])]
        raise ValueError(f"the tokens of {first!r} are not finite in {rows.dtype}; bfloat16 holds larger numbers")


def _line(path: str) -> bytes:
    state = os.stat(path)
    return json.dumps([path, state.st_size, state.st_mtime_ns]).encode() + b"\n"


def _settings(visual: VisualTokenizer, backbone: Backbone, dtype: str) -> dict[str, Any]:
    assert visual.preprocessing is not None
    with torch.inference_mode():
        shape = visual.features(torch.zeros(1, *visual.preprocessing["input_size"])).shape[1:]
    return {
        "format": FORMAT,
        "backbone": visual.backbone_name,
        **({"timm_args": dict(backbone.timm_args)} if backbone.timm_args else {}),
        "weights": None if isinstance(backbone.pretrained, bool) else key(backbone.pretrained),
        "weights_sha256": weights_sha256(visual.backbone),
        "image_size": backbone.image_size,
        "preprocessing": visual.preprocessing,
        "dtype": dtype,
        "shape": list(shape),
    }


def _start(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or refuse them if the folder has tokens with other settings. The path of the weights may change."""
    if (folder / SETTINGS).is_file():
        before = TokenCache(folder).settings
        names = dict.fromkeys([*before, *settings])  # settings that were not given are left out of either
        if changed := [name for name in names if name != "weights" and before.get(name) != settings.get(name)]:
            changes = "; ".join(f"{name} {before.get(name)} before, {settings.get(name)} now" for name in changed)
            raise ValueError(
                f"{str(folder)!r} holds tokens computed with other settings ({changes}); choose another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def _drop_uncounted(folder: Path, data: IO[bytes], index: IO[bytes]) -> None:
    """Remove what an interrupted call wrote after the last complete line of the index."""
    lines = complete_lines(folder / INDEX)
    index.truncate(sum(len(line) + 1 for line in lines))
    data.truncate(len(lines) * TokenCache(folder).file.row_bytes)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
