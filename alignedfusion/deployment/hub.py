"""Models under a name on a model hub: fetched by it, and put there with their card."""

from __future__ import annotations

import contextlib
import re
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from alignedfusion import __version__
from alignedfusion.deployment import model_card
from alignedfusion.modules import checkpoint

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from alignedfusion.modules.classifier import AlignedFusionClassifier

# Not huggingface_hub's ModelHubMixin: it must be imported to define a model, it deletes config.json before it saves, so that a
# failing write would cost the previous checkpoint, and it writes a README.md of its own over the one that is there.


def is_repository(name: str | Path) -> bool:
    """Whether a name can only be a repository: "owner/model", with nothing of that name on this machine."""
    return isinstance(name, str) and bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def download(
    name: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Fetch a model and its card, nothing else, into the hub's cache; what is there already is not fetched again.

    Args:
        name: The repository, "owner/model".
        revision: A branch, tag or commit; the newest by default.
        token: Access token, for a private repository; by default the one that `hf auth login` stored.
        cache_dir: Where to keep it; by default the cache that all of Hugging Face's libraries share.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If there is no such repository or revision, it holds no model, or the hub cannot be reached.
        ValueError: If it holds a model of another library, or of a release that this one cannot read.
    """
    is_offline = not _is_reachable()
    settings = Path(_fetch(name, checkpoint.SETTINGS, revision, token, cache_dir, is_offline))
    checkpoint.check_settings(settings.read_text(), f"{checkpoint.SETTINGS} of the repository {name!r}")
    # The commit, so that a push in between does not mix two models. Its name is that of the folder.
    commit = settings.parent.name
    _fetch(name, checkpoint.WEIGHTS, commit, token, cache_dir, is_offline)
    with contextlib.suppress(FileNotFoundError):  # a model without a card is a model
        _fetch(name, model_card.CARD, commit, token, cache_dir, is_offline)
    return settings.parent


def push(
    model: AlignedFusionClassifier,
    name: str,
    *,
    private: bool = True,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Put a model and its card into a repository, as one commit; see `AlignedFusionClassifier.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        # First of all: a model that cannot be saved must leave no empty repository behind.
        checkpoint.save(model, scratch)
        if not _is_reachable():
            raise ConnectionError(f"{_endpoint()} cannot be reached; nothing was uploaded")
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        ours = model_card.with_name(_card(model, Path(scratch)), name)
        if _may_replace(_card_there(api, name, token), ours, name):
            (Path(scratch) / model_card.CARD).write_text(ours, encoding="utf-8")
        files = sorted(Path(scratch).iterdir())
        # One commit of all: upload_folder may make several, and weights would meet another model's settings in between.
        commit = api.create_commit(
            name,
            [CommitOperationAdd(file.name, str(file)) for file in files],
            commit_message=commit_message or f"Model saved by alignedfusion {__version__}",
        )
    return str(commit.commit_url)


def _is_reachable() -> bool:
    """Whether the hub answers at all. Its library would try for half a minute, even for a mistyped folder without a network."""
    try:
        import_module("huggingface_hub.utils").get_session().head(_endpoint(), timeout=10)
    except Exception:  # of requests or of httpx, whichever huggingface_hub has
        return False
    return True


def _fetch(
    name: str, file: str, revision: str | None, token: str | None, cache_dir: str | Path | None, is_offline: bool
) -> str:
    from huggingface_hub import hf_hub_download

    # By its name: utils has these errors in every release, errors only in newer ones, and no release lists them for mypy.
    utils: Any = import_module("huggingface_hub.utils")
    what = f"{name!r} is no folder here, and"
    try:
        return hf_hub_download(
            name, file, revision=revision, token=token, cache_dir=cache_dir, local_files_only=is_offline
        )
    except utils.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{what} {_endpoint()} has no repository of that name that you may read: check the name; for a private one log in "
            f"with `hf auth login`, or pass token="
        ) from error
    except utils.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{what} the repository of that name has no revision {revision!r}") from error
    except (utils.LocalEntryNotFoundError, utils.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{what} {_endpoint()} cannot be reached for the repository of that name, of which no copy is kept here: give a "
            f"folder, or connect"
        ) from error
    except utils.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{what} the repository of that name holds no model of alignedfusion: {file} not there"
        ) from error


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _card(model: AlignedFusionClassifier, saved: Path) -> str:
    """The card beside the weights the model was loaded from or saved to, if it still has them; else what the model knows."""
    folder = model.saved_in
    if folder is not None and (folder / model_card.CARD).is_file() and _same_weights(folder, saved):
        return (folder / model_card.CARD).read_text(encoding="utf-8")
    return model_card.render(model)


def _same_weights(folder: Path, saved: Path) -> bool:
    if not (folder / checkpoint.WEIGHTS).is_file():
        return False
    with (
        safe_open(str(folder / checkpoint.WEIGHTS), framework="pt") as before,
        safe_open(str(saved / checkpoint.WEIGHTS), framework="pt") as now,
    ):
        if set(before.keys()) != set(now.keys()):
            return False
        pairs = ((before.get_tensor(key), now.get_tensor(key)) for key in now.keys())  # noqa: SIM118
        return all(old.dtype == new.dtype and torch.equal(old, new) for old, new in pairs)


def _card_there(api: HfApi, name: str, token: str | None) -> str | None:
    if not api.file_exists(name, model_card.CARD):
        return None
    with tempfile.TemporaryDirectory() as scratch:  # not the shared cache, which may hold an older one
        return Path(_fetch(name, model_card.CARD, None, token, scratch, False)).read_text(encoding="utf-8")


def _may_replace(theirs: str | None, ours: str, name: str) -> bool:
    if theirs is None or model_card.is_generated(theirs):
        return True
    if theirs != ours and not model_card.is_generated(ours):
        warnings.warn(
            f"{model_card.CARD} in {name!r} was edited there and stays, so yours was not uploaded; edit it there, or delete it "
            f"there and push again",
            stacklevel=4,
        )
    return False
