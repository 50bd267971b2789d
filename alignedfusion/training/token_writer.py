"""Compute the image tokens of a frozen backbone once, into a folder that `token_cache.TokenCache` reads."""

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
from alignedfusion.modules.backbones import Backbone, weights_sha256
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.presets import build_visual
from alignedfusion.tables.files import lock_output, write_json
from alignedfusion.training.token_batches import tokens_from_ray, tokens_of

ANY_BACKBONE = Backbone()
COMMIT_SECONDS = 1.0
"""How often rows are flushed to disk and then counted: what an interruption costs at most, if a batch is quicker."""


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
    """Run a backbone once over every distinct image, and keep what `VisualTokenizer.features` gives.

    The same call on an interrupted folder goes on; with more images it adds theirs; images that have changed since (in size
    or time of change) are computed again, and their old rows are left behind. On a GPU the backbone runs in `dtype`, too.

    Args:
        paths: Image files.
        folder: Where the tokens lie.
        backbone: The backbone, with timm's weights or those of a local file. No model could be built for tokens of random
            weights, or of a backbone that is trained further.
        dtype: "bfloat16", which has float32's range, or "float16", which has three bits more of precision.
        batch_size: Images per step.
        workers: Processes that read images.
        on_ray: Compute on a Ray cluster (see `tables.cluster.map_on_ray`); this process writes.
        progress: Show a progress bar.

    Raises:
        ValueError: If the folder holds tokens computed otherwise, another process is writing there, images cannot be read, or
            tokens do not fit the dtype.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
    distinct = list(dict.fromkeys(map(key, paths)))
    if tokens := [path for path in distinct if path.endswith(".npy")]:
        raise ValueError(f"{tokens[0]!r} holds tokens already: .npy files go into training as they are")
    if not backbone.frozen or backbone.pretrained is False:
        raise ValueError(
            f"tokens come from a frozen, pretrained backbone, got {backbone}: no model can be built for other tokens"
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
        # An image that is changed while this runs must count as changed: its state is taken before it is read.
        lines = [_line(path) for path in wanted]
        if on_ray:
            computed = tokens_from_ray(wanted, cache.settings, batch_size)
        else:
            computed = tokens_of(visual, wanted, DTYPES[dtype], batch_size, workers)
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
    """Rows first, then the lines that count them; what is not committed does not exist."""

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
        # Taken out first: an interruption in here may lose lines, and must not write them twice.
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
        "weights": None if isinstance(backbone.pretrained, bool) else key(backbone.pretrained),
        "weights_sha256": weights_sha256(visual.backbone),
        "image_size": backbone.image_size,
        "preprocessing": visual.preprocessing,
        "dtype": dtype,
        "shape": list(shape),
    }


def _start(folder: Path, settings: dict[str, Any]) -> None:
    """Keep the settings, or refuse those that would mix two kinds of tokens. The weights may lie elsewhere by now."""
    if (folder / SETTINGS).is_file():
        before = TokenCache(folder).settings
        if changed := [name for name in settings if name != "weights" and before.get(name) != settings[name]]:
            says = "; ".join(f"{name} {before.get(name)} before, {settings[name]} now" for name in changed)
            raise ValueError(f"{str(folder)!r} holds tokens computed otherwise ({says}); choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def _drop_uncounted(folder: Path, data: IO[bytes], index: IO[bytes]) -> None:
    """Cut off what an interrupted call left behind the last complete line."""
    lines = complete_lines(folder / INDEX)
    index.truncate(sum(len(line) + 1 for line in lines))
    data.truncate(len(lines) * TokenCache(folder).file.row_bytes)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
