"""Models by name from a model hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def is_repository(name: str | Path) -> bool:
    """Whether a name can only be a repository: "owner/model", with no file or folder of that name on this machine."""
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
        name: The repository, "owner/model".
        files: Names of the files; those that the repository lacks are left out.
        revision: A branch, tag or commit; the newest by default.
        token: Access token of a private repository; by default the one that `hf auth login` stored.
        cache_dir: Folder for downloads; by default the cache that all Hugging Face libraries share.

    Returns:
        The folder of the commit.

    Raises:
        FileNotFoundError: If there is no such repository or revision, or the hub cannot be reached and there is no copy here.
    """
    from huggingface_hub import snapshot_download

    # By its name: utils has these errors in every release, errors only in newer ones, and no release lists them for mypy.
    utils: Any = import_module("huggingface_hub.utils")
    what = f"{name!r} is not a folder here, and"
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
            f"{what} {endpoint()} has no repository of that name that you may read: check the name; for a private one log in "
            f"with `hf auth login`, or pass token="
        ) from error
    except utils.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{what} the repository of that name has no revision {revision!r}") from error
    except (utils.LocalEntryNotFoundError, utils.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{what} {endpoint()} cannot be reached for the repository of that name, of which there is no copy here: give a "
            f"folder, or connect"
        ) from error
    return Path(folder)


def is_reachable() -> bool:
    """Whether the hub answers at all. Its library would try for half a minute, even for a mistyped folder without a network."""
    try:
        import_module("huggingface_hub.utils").get_session().head(endpoint(), timeout=10)
    except Exception:  # of requests or of httpx, whichever huggingface_hub has
        return False
    return True


def endpoint() -> str:
    """Address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT
