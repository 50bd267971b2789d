"""Classifiers in a folder or on a model hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from alignedfusion.attributes import AttributeSchema
from alignedfusion.modules import card, checkpoint
from alignedfusion.modules.fusions.base import Fusion
from alignedfusion.modules.tuning import adapters_merged

_Classifier = TypeVar("_Classifier", bound="PretrainedClassifier")


class PretrainedClassifier(nn.Module):
    """Saves and loads a classifier that has `to_dict` and `from_dict`."""

    saved_in: Path | None = None
    """Folder that the model was loaded from or saved to."""

    def to_dict(self) -> dict[str, Any]:
        """Settings that rebuild this model, as plain JSON."""
        raise NotImplementedError

    @classmethod
    def from_dict(
        cls: type[_Classifier],
        settings: Mapping[str, Any],
        *,
        visual: nn.Module | Mapping[str, nn.Module] | None = None,
        fusion: Fusion | None = None,
    ) -> _Classifier:
        """A model with the settings of `to_dict` and random weights."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights (safetensors), settings (JSON) and a card (README.md) into a folder; see `modules.checkpoint.save`.

        Adapters of a backbone (`tune="lora"`) are merged in the file: it has the names of the timm model. A card that somebody
        edited is kept, and so is one with metrics as long as the model stays the same.
        """
        with adapters_merged(self):
            is_new = checkpoint.save(self, self.to_dict(), folder)
        if is_new:
            card.write(card.render(self), folder)
        self.saved_in = Path(folder).resolve()

    @classmethod
    def from_pretrained(
        cls: type[_Classifier],
        folder: str | Path,
        *,
        schema: AttributeSchema | None = None,
        visual: nn.Module | Mapping[str, nn.Module] | None = None,
        fusion: Fusion | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> _Classifier:
        """Load a model from a folder that `save_pretrained` wrote, or from a model hub; it is returned in evaluation mode.

        Args:
            folder: A folder, or the name of a repository, "owner/model". A folder of that name takes precedence.
            schema: The schema of your codes; a checkpoint with another schema is refused.
            visual: Your own visual module, if the model was built with one: the folder has only its weights.
            fusion: Your own fusion, if the model was built with one.
            revision: Branch, tag or commit of a repository; the newest by default.
            token: Access token of a private repository; by default the one that `hf auth login` stored.
            cache_dir: Folder for downloads; by default the cache that all Hugging Face libraries share.

        Raises:
            FileNotFoundError: If neither a folder nor a repository of that name holds a model.
            ValueError: If it holds another library's model, or one that needs arguments that were not given.
        """
        folder = checkpoint.resolve_folder(folder, revision=revision, token=token, cache_dir=cache_dir)
        settings = checkpoint.read_settings(folder)
        saved = AttributeSchema.from_dict(settings["tokenizer"]["schema"])
        if schema is not None and schema != saved:
            raise ValueError(
                f"the checkpoint in {str(folder)!r} has another schema: {saved.difference(schema)} given; encode your table "
                f"with the checkpoint's own schema, model.schema, or train the model again"
            )
        try:
            model = cls.from_dict(settings, visual=visual, fusion=fusion)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot build the model in {str(folder)!r}: {error}") from error
        checkpoint.load_weights(model, folder)
        model.saved_in = folder.resolve()
        return model.eval()
