"""Pages from templates: one self-contained HTML file each, which loads nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from alignedfusion import __version__

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: Name of a file in `templates/`.
        **values: The variables of the template. Text is escaped.
    """
    return _environment().get_template(template).render(version=__version__, **values)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": signed, "bits": bits}
    return environment


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage; those next to 0 and 1 are not rounded to them."""
    value = 100 * share
    if share != share:
        return "-"
    if digits == 0 and 0 < value < 0.5:
        return "<\u00a01\u00a0%"
    if digits == 0 and 99.5 <= value < 100:
        return ">\u00a099\u00a0%"
    return f"{value:.{digits}f}\u00a0%"


def signed(value: float) -> str:
    """A number with its sign and two digits."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\u2212")


def bits(value: float) -> str:
    """An amount of information."""
    return "<\u00a00.001" if 0 < value < 0.0005 else f"{value:.3f}"
