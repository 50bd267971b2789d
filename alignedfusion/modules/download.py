"""Downloads of models from a model hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def is_repository(name: str | Path) -> bool:
    """Whether a name is that of a repository: it has the form "owner/model", and no local file or folder has this name."""
    return isinstance(name, str) and bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def download(
    name: str,
    *,
    files: Sequence[str],
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download some files of one commit of a repository into the hub's cache, unless they are there already.

    Args:
        name: Name of the repository, "owner/model".
        files: Names of the files; files that the repository lacks are skipped.
        revision: A branch, tag or commit; the newest by default.
        token: Access token of a private repository; by default the one that `hf auth login` stored.
        cache_dir: Folder for downloads; by default the cache that all Hugging Face libraries share.

    Returns:
        The folder of the commit.

    Raises:
        FileNotFoundError: If there is no such repository or revision, or the hub cannot be reached and the cache has no copy.
    """
    from huggingface_hub import snapshot_download

    # Imported by name: every release has these errors in `utils`, only newer ones in `errors`, and mypy finds them in neither.
    utils: Any = import_module("huggingface_hub.utils")
    what = f"{name!r} is not a local folder, and"
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=list(files),
            local_files_only=not is_reachable(),
        )
    except utils.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{what} {endpoint()} has no repository of that name that you may read: check the name; for a private repository "
            f"log in with `hf auth login`, or pass token="
        ) from error
    except utils.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{what} the repository of that name has no revision {revision!r}") from error
    except (utils.LocalEntryNotFoundError, utils.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{what} {endpoint()} cannot be reached to download the repository of that name, and the cache has no copy of it: "
            f"give a local folder, or connect to the network"
        ) from error
    return Path(folder)


def is_reachable() -> bool:
    """Whether the hub responds. Its own library would retry for half a minute, even for a mistyped folder without a network."""
    try:
        import_module("huggingface_hub.utils").get_session().head(endpoint(), timeout=10)
    except Exception:  # of requests or of httpx, whichever huggingface_hub has
        return False
    return True


def endpoint() -> str:
    """Address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT
