"""Pages to look at: one case, a folder of cases, and a run, each one HTML file that loads nothing."""

from typing import TYPE_CHECKING

from alignedfusion._lazy import lazy_names

if TYPE_CHECKING:
    from alignedfusion.pages.case import Case
    from alignedfusion.pages.cases import write_case, write_cases
    from alignedfusion.pages.record import TrackRecord
    from alignedfusion.pages.run import run_page
    from alignedfusion.pages.run_errors import RunCases
    from alignedfusion.pages.sources import single_case, table_cases

__all__ = ["Case", "RunCases", "TrackRecord", "run_page", "single_case", "table_cases", "write_case", "write_cases"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "case": ("Case",),
        "cases": ("write_case", "write_cases"),
        "record": ("TrackRecord",),
        "run": ("run_page",),
        "run_errors": ("RunCases",),
        "sources": ("single_case", "table_cases"),
    },
)
