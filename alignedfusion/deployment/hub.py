"""Uploads of models and their cards to a model hub. `AlignedFusionClassifier.from_pretrained` downloads them."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from alignedfusion import __version__
from alignedfusion.deployment import model_card
from alignedfusion.modules.checkpoint import CARD, WEIGHTS
from alignedfusion.modules.download import download, endpoint, is_reachable, is_repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from alignedfusion.modules.classifier import AlignedFusionClassifier

# Not huggingface_hub's ModelHubMixin. Defining a model would import it; it deletes config.json before saving, so that a failing
# write would destroy the previous checkpoint; and it overwrites an existing README.md.


def push_to_hub(
    model: AlignedFusionClassifier,
    name: str | Path,
    *,
    private: bool = True,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload weights, settings and card to a repository of a model hub, as one commit, or write them into a folder.

    Nothing else is uploaded or written.

    The card is the README.md of the folder that this model was loaded from or saved to, if the weights there are still the
    same. It has the metrics of a run. Otherwise a new card without metrics is written. An edited README.md in the repository is
    kept.

    Args:
        model: The model.
        name: Name of the repository, "owner/model"; it is created if it does not exist. A path, or the name of an existing
            folder, is a local folder, as in `from_pretrained`; the other arguments are for repositories.
        private: Whether a new repository is visible only to its owners.
        commit_message: Title of the commit.
        token: Access token; by default the one that `hf auth login` stored.

    Returns:
        The address of the commit, or the path of the folder.

    Raises:
        ConnectionError: If the hub cannot be reached; nothing was uploaded.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not is_repository(name):
        return _write_to_folder(model, Path(name))
    api = HfApi(token=token)
    saved_in = model.saved_in
    with tempfile.TemporaryDirectory() as scratch:
        # The model is saved first: if that fails, no empty repository is created.
        model.save_pretrained(scratch)
        model.saved_in = saved_in
        if not is_reachable():
            raise ConnectionError(f"{endpoint()} cannot be reached; nothing was uploaded")
        name = api.create_repo(str(name), private=private, exist_ok=True).repo_id
        card = model_card.with_name(_card(model, Path(scratch)), name)
        if _may_replace(_remote_card(api, name, token), card, name):
            (Path(scratch) / CARD).write_text(card, encoding="utf-8")
        else:
            (Path(scratch) / CARD).unlink()
        files = sorted(Path(scratch).iterdir())
        # One commit for all files. upload_folder may make several, which would mix weights and settings of two models.
        commit = api.create_commit(
            name,
            [CommitOperationAdd(file.name, str(file)) for file in files],
            commit_message=commit_message or f"Model saved by alignedfusion {__version__}",
        )
    return str(commit.commit_url)


def _write_to_folder(model: AlignedFusionClassifier, folder: Path) -> str:
    before = model.saved_in
    model.save_pretrained(folder)
    if (
        before is not None
        and before != folder.resolve()
        and (before / CARD).is_file()
        and _same_weights(before, folder)
    ):
        card = model_card.with_name((before / CARD).read_text(encoding="utf-8"), ".")
        if _may_replace((folder / CARD).read_text(encoding="utf-8"), card, str(folder)):
            (folder / CARD).write_text(card, encoding="utf-8")
    return str(folder.resolve())


def _card(model: AlignedFusionClassifier, saved: Path) -> str:
    """The card in the folder that the model was loaded from or saved to, if its weights are the same; otherwise a new one."""
    folder = model.saved_in
    if folder is not None and (folder / CARD).is_file() and _same_weights(folder, saved):
        return (folder / CARD).read_text(encoding="utf-8")
    return model_card.render(model)


def _same_weights(folder: Path, saved: Path) -> bool:
    if not (folder / WEIGHTS).is_file():
        return False
    with (
        safe_open(str(folder / WEIGHTS), framework="pt") as before,
        safe_open(str(saved / WEIGHTS), framework="pt") as now,
    ):
        if set(before.keys()) != set(now.keys()):
            return False
        pairs = ((before.get_tensor(key), now.get_tensor(key)) for key in now.keys())  # noqa: SIM118
        return all(old.dtype == new.dtype and torch.equal(old, new) for old, new in pairs)


def _remote_card(api: HfApi, name: str, token: str | None) -> str | None:
    if not api.file_exists(name, CARD):
        return None
    with tempfile.TemporaryDirectory() as scratch:  # the shared cache may have an older card
        return (download(name, files=(CARD,), token=token, cache_dir=scratch) / CARD).read_text(encoding="utf-8")


def _may_replace(remote: str | None, local: str, name: str) -> bool:
    if remote is None or model_card.is_generated(remote):
        return True
    if remote != local and not model_card.is_generated(local):
        warnings.warn(
            f"{CARD} in {name!r} was edited there and is kept, so yours was not uploaded; edit it in the repository, or delete "
            f"it there and push again",
            stacklevel=3,
        )
    return False
