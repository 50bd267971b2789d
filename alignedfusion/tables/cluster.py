"""The rows of a table, mapped on several machines by Ray Data."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def map_on_ray(
    frame: pd.DataFrame, mapper: type, arguments: Mapping[str, Any], *, batch_size: int, batch_format: str = "pandas"
) -> Iterator[Any]:
    """Map a table on the Ray cluster at RAY_ADDRESS, or on a cluster started on this machine.

    Args:
        frame: The table, in the memory of this process. Files named in its cells must exist on every machine.
        mapper: A class whose instances map one batch to another. There is one instance per GPU of the cluster, or one per
            core if it has no GPU.
        arguments: Keyword arguments of the class.
        batch_size: Rows per batch.
        batch_format: Type of a batch: "pandas" for a DataFrame, "numpy" for arrays by column.

    Yields:
        The mapped batches, in no particular order.

    Raises:
        ValueError: If a worker fails; the message has the reason.
    """
    if not len(frame):
        return
    with _connected() as ray:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        # One block per batch, so that each batch is returned as soon as it is finished.
        blocks = [frame.iloc[start : start + batch_size] for start in range(0, len(frame), batch_size)]
        mapped = ray.data.from_pandas(blocks).map_batches(
            mapper,
            fn_constructor_kwargs=dict(arguments),
            batch_size=None,
            batch_format=batch_format,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(gpus or cores, len(blocks)))),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        try:
            yield from mapped.iter_batches(batch_size=None, batch_format=batch_format)
        except ray.exceptions.RayError as error:
            # Its text is the traceback of the worker; the last line that an exception printed is the reason.
            reasons = re.findall(r"^(?!ray\.)(?:\w+\.)*\w+: .+", str(error), re.MULTILINE)
            raise ValueError(
                f"a worker of the Ray cluster failed ({reasons[-1] if reasons else error}); what was finished before is kept"
            ) from error


@contextmanager
def _connected() -> Iterator[Any]:
    """Connect to Ray, and restore its state afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    showed, context.enable_progress_bars = context.enable_progress_bars, False  # the caller shows one
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _connect(ray)
        yield ray
    finally:
        if is_ours:
            ray.shutdown()
        context.enable_progress_bars = showed
        logger.setLevel(level)


def _connect(ray: Any) -> None:
    given = os.environ.get("RAY_ADDRESS")
    address = given or "local"  # without an address, Ray would join any cluster that runs on this machine
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # Ray would wait for a wrong address without limit
            socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"cannot work on the Ray cluster at {given!r} (from RAY_ADDRESS)" if given else "cannot start Ray here"
        raise ValueError(f"{what}: {str(error).strip()}") from error
