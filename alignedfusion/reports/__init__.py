"""From report text to an attribute table (eq. 2 and 4): rules that run offline, or a chat model."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.reports.chat.client import ChatClient
    from alignedfusion.reports.chat.extractor import ChatExtractor
    from alignedfusion.reports.mapping import ExtractBatch, encode_rows
    from alignedfusion.reports.rules.assertions import assertion
    from alignedfusion.reports.rules.extractor import RuleExtractor
    from alignedfusion.reports.rules.lexicon import Lexicon
    from alignedfusion.reports.selection import select_attributes
    from alignedfusion.reports.table import extract_table
    from alignedfusion.reports.types import Cell, Evidence, Extractor, ReportFailedError, ServerError

__all__ = [
    "Cell",
    "ChatClient",
    "ChatExtractor",
    "Evidence",
    "ExtractBatch",
    "Extractor",
    "Lexicon",
    "ReportFailedError",
    "RuleExtractor",
    "ServerError",
    "assertion",
    "encode_rows",
    "extract_table",
    "select_attributes",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rules.assertions": ("assertion",),
        "types": ("Cell", "Evidence", "Extractor", "ReportFailedError", "ServerError"),
        "chat.extractor": ("ChatExtractor",),
        "rules.lexicon": ("Lexicon",),
        "mapping": ("ExtractBatch", "encode_rows"),
        "rules.extractor": ("RuleExtractor",),
        "selection": ("select_attributes",),
        "chat.client": ("ChatClient",),
        "table": ("extract_table",),
    },
)
