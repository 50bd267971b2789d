"""Typographic characters replaced for matching, with the way back from each character to the original text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_REPLACED = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4`\u02bc\uff07", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00d7\u2715\u2716\u2a2f", "x"),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
    **dict.fromkeys("\u2610\u25a1\u25fb", "[ ]"),
    **dict.fromkeys("\u2611\u2612\u25a0\u2713\u2714", "[x]"),
    "\u2026": "...",
    "\u00ba": "\u00b0",
    "\u2103": "\u00b0C",
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u00c6": "Ae",
    "\u0152": "Oe",
}


def normalize(text: str) -> tuple[str, Sequence[int] | None]:
    """Replace quotes, dashes, blanks, ligatures, full-width characters and tick boxes by their plain forms.

    Returns:
        The text for matching, and for each of its characters (and its end) the place in the original; None if they are the
        same.
    """
    if text.isascii():
        return text, None
    replaced = {character: _plain(character) for character in {*text} if not character.isascii()}
    if all(plain == character for character, plain in replaced.items()):
        return text, None
    if all(len(plain) == 1 for plain in replaced.values()):
        return text.translate({ord(character): plain for character, plain in replaced.items()}), None
    pieces: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        plain = replaced.get(character, character)
        pieces.append(plain)
        places += [place] * len(plain)
    return "".join(pieces), [*places, len(text)]


def _plain(character: str) -> str:
    if character in _REPLACED:
        return _REPLACED[character]
    if unicodedata.category(character) == "Zs":
        return " "
    if "\uff01" <= character <= "\uff5e" or "\ufb00" <= character <= "\ufb06":  # full width, and ligatures such as "fi"
        return unicodedata.normalize("NFKC", character)
    return character
