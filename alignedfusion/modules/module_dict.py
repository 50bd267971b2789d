"""Modules by a name that a user chose, such as the column of an image."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView
from urllib.parse import quote, unquote

from torch import nn

_MARK = "%"


class ModuleDict(nn.ModuleDict):
    """A `torch.nn.ModuleDict` that takes any text as a key.

    torch refuses keys with a dot and those that are attributes of the dictionary, such as "type", "keys" and "training".
    Such a key is stored in an encoded form, with a percent sign in front, which is also its name in a `state_dict`; all other
    keys are stored as they are.
    """

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_encode(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_encode(key), module)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(_encode(key))

    def __contains__(self, key: str) -> bool:
        return super().__contains__(_encode(key))

    def __iter__(self) -> Iterator[str]:
        return iter(map(_decode, self._modules))

    def keys(self) -> KeysView[str]:
        """The keys as the user wrote them."""
        return dict.fromkeys(self).keys()

    def items(self) -> ItemsView[str, nn.Module]:
        """The modules by the keys as the user wrote them."""
        return dict(zip(self, self.values(), strict=True)).items()


def _encode(key: str) -> str:
    is_harmless = key and "." not in key and not key.startswith(_MARK) and not hasattr(nn.ModuleDict, key)
    return key if is_harmless and key not in _INSTANCE else _MARK + quote(key, safe="").replace(".", "%2E")


def _decode(name: str) -> str:
    return unquote(name.removeprefix(_MARK)) if name.startswith(_MARK) else name


_INSTANCE = frozenset(vars(nn.ModuleDict()))
