"""Explanations of single predictions: what each input contributed, and which attribute to ask for next."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.explanation.branches import Contributions, contributions
    from alignedfusion.explanation.questions import Questions, next_questions

__all__ = ["Contributions", "Questions", "contributions", "next_questions"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "branches": ("Contributions", "contributions"),
        "questions": ("Questions", "next_questions"),
    },
)
