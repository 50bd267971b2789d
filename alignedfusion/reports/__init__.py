"""From report text to an attribute table (eq. 2 and 4): rules that run offline, or a chat model of your choice."""

from typing import TYPE_CHECKING

from alignedfusion.lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.reports.assertions import assertion
    from alignedfusion.reports.cells import Cell, Evidence, Extractor, ReportFailedError, ServerError
    from alignedfusion.reports.chat import ChatExtractor
    from alignedfusion.reports.lexicon import Lexicon
    from alignedfusion.reports.mapping import ExtractBatch
    from alignedfusion.reports.rules import RuleExtractor
    from alignedfusion.reports.selection import select_attributes
    from alignedfusion.reports.server import ChatServer
    from alignedfusion.reports.table import extract_table

__all__ = [
    "Cell",
    "ChatExtractor",
    "ChatServer",
    "Evidence",
    "ExtractBatch",
    "Extractor",
    "Lexicon",
    "ReportFailedError",
    "RuleExtractor",
    "ServerError",
    "assertion",
    "extract_table",
    "select_attributes",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "assertions": ("assertion",),
        "cells": ("Cell", "Evidence", "Extractor", "ReportFailedError", "ServerError"),
        "chat": ("ChatExtractor",),
        "lexicon": ("Lexicon",),
        "mapping": ("ExtractBatch",),
        "rules": ("RuleExtractor",),
        "selection": ("select_attributes",),
        "server": ("ChatServer",),
        "table": ("extract_table",),
    },
)
