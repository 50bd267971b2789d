"""Names that load on first use, so that a package costs nothing until a part of it is wanted."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: Its name.
        homes: The public names of each of its modules. No module may be called as one of the names: once it is imported, the
            package would hold the module under that name.
    """
    found = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name in found:
            return getattr(import_module(f"{package}.{found[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted([*vars(import_module(package)), *found])

    return get, names
