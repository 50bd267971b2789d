"""Whether reports look English, which the rules and the shipped lexicons are written for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

MAX_REPORTS = 2000
"""Number of reports that are checked, taken at equal distances."""
MIN_SHARE = 0.02
"""Smallest share of foreign reports that causes a warning."""

_WORD = re.compile(r"[^\W\d_]+")
_ENGLISH = frozenset(
    """the of and is are was were not with without in on to for from by this that there at as which has have been be or left
    right""".split()  # noqa: SIM905
)
# Frequent words of German, Dutch, French, Spanish, Portuguese, Italian, Polish, Turkish and the Scandinavian languages that are
# not English words or abbreviations, as LA and LE are.
_OTHER = frozenset(
    """der und ist sind nicht kein keine keinen ohne mit dem zum zur bei eine einen auf von nach wie links rechts
    het een geen zijn niet wordt voor aan bij
    les et est une dans pas sans avec sur aux pour gauche droite
    el y del sin una por izquierdo derecho hay
    sem uma ao esquerdo direito
    gli che nei nella della senza sono sinistra destra
    nie jest oraz bez prawym lewym
    bir ile yok izlenmedi
    och ingen inga som ikke og inte
    """.split()  # noqa: SIM905
)


def looks_english(text: str) -> bool:
    """Whether a report looks English: by its letters and its function words. A report without either counts as English."""
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return True
    letters = "".join(words)
    if sum(letter > "\u024f" for letter in letters) > 0.3 * len(letters):  # another script
        return False
    other = sum(word in _OTHER for word in words)
    return other == 0 or other <= sum(word in _ENGLISH for word in words)


def warn_unless_english(texts: Sequence[str]) -> None:
    """Warn if a share of the reports does not look English."""
    looked_at = [text for text in texts[:: max(1, len(texts) // MAX_REPORTS)] if text.strip()]
    foreign = sum(not looks_english(text) for text in looked_at)
    if looked_at and foreign >= max(1.0, MIN_SHARE * len(looked_at)):
        warnings.warn(
            f"{foreign / len(looked_at):.0%} of the reports do not look English ({foreign} of {len(looked_at)} looked at). The "
            "rules read English only: words of another language that deny or doubt are not recognized, and denied findings "
            "come out as positive. Use a chat model, or an extractor of your own; see 'Other languages' in docs/reports.md",
            stacklevel=3,
        )
