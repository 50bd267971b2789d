"""`alignedfusion select`, `extract` and `show`: report text to a table, and the evidence of its cells."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_SELECT = """\
List the attributes that a cohort's reports mention, with the share of reports that mention each, and write them as a
lexicon that `extract` takes. Give TRAINING reports only.

Without --lexicon or --model, findings, measurements, codes and places are proposed from the reports alone, with their shares
and short excerpts as comments: a draft to strike out from and to edit. --lexicon keeps those of its attributes that are
mentioned. --model asks a chat model, a few reports at a time.
"""
_EXTRACT = """\
Read reports and write a table: one row per report, one column per attribute, "UN" if a report does not mention it, and
"error" if it could not be read. All columns except the text are kept, so that `train` can read the table.

REPORTS is a CSV or parquet file, or a folder of .txt files with its subfolders (their text is the column "text"). --lexicon
is a file, or one that is shipped: {shipped}. With --model a chat model reads, and the lexicon only names attributes and
values; nothing leaves this machine unless --allow-remote says so. The API key is read from the variable that --api-key-from
names.

Files beside the table contain the evidence of each cell (.evidence.jsonl) and how often each attribute is positive, negative,
uncertain or unmentioned (.summary.csv, .summary.png). After an interruption, the same command continues, and tries failed
reports again.
"""


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the three commands with the `add(name, run, summary, description)` of the main parser."""
    _add_select(add)
    _add_extract(add)
    parser = add("show", _show, "print a report with the evidence of its cells marked")
    parser.add_argument("table", metavar="TABLE", help="a table that `extract` wrote")
    parser.add_argument("--row", type=int, required=True, metavar="K", help="row of the table, from 0")
    parser.add_argument("--attribute", nargs="+", metavar="NAME", help="only these attributes")


def _add_select(add: Callable[..., argparse.ArgumentParser]) -> None:
    parser = add("select", _select, "list the attributes that reports mention", _SELECT)
    _add_reports(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="write the attributes there, as a lexicon (YAML)")
    parser.add_argument("--lexicon", metavar="NAME|FILE", help="choose among these attributes")
    parser.add_argument(
        "--task", default="", metavar="TEXT", help="what for, such as 'melanoma diagnosis' (with --model)"
    )
    parser.add_argument("--min-share", type=float, default=0.02, metavar="S", help="of reports (default: 0.02)")
    parser.add_argument("--max-attributes", type=int, default=40, metavar="N", help="default: 40")
    _add_model(parser)


def _add_extract(add: Callable[..., argparse.ArgumentParser]) -> None:
    from alignedfusion.reports.rules.lexicon import shipped

    parser = add(
        "extract", _extract, "fill an attribute table from reports", _EXTRACT.format(shipped=", ".join(shipped()))
    )
    _add_reports(parser)
    parser.add_argument("-o", "--output", required=True, metavar="TABLE", help=".csv or .parquet")
    parser.add_argument("--lexicon", required=True, metavar="NAME|FILE", help="the attributes and the words for them")
    parser.add_argument("--attributes", nargs="+", metavar="NAME", help="only these of the lexicon")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="put before the names of the new columns")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="for rules (default: one per core)"
    )
    parser.add_argument(
        "--ray", action="store_true", help="rules on the Ray cluster of RAY_ADDRESS, or one started here"
    )
    _add_model(parser)
    model = parser.add_argument_group("chat model, for extraction")
    model.add_argument("--require-evidence", action="store_true", help="drop values that the text does not bear out")
    model.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at a time (default: 8)")
    model.add_argument("--cache", metavar="FILE", help="keep finished rows there for other extractions (SQLite)")


def _add_reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", metavar="REPORTS", help="CSV or parquet file, or folder of .txt files")
    parser.add_argument(
        "--text", nargs="+", default=["text"], metavar="COL", help="columns that hold the reports (default: text)"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("chat model (an OpenAI-compatible server)")
    model.add_argument("--model", metavar="M", help="its name on the server")
    model.add_argument("--base-url", metavar="U", help="such as http://127.0.0.1:8080/v1")
    model.add_argument("--allow-remote", action="store_true", help="let reports leave this machine")
    model.add_argument("--api-key-from", metavar="VARIABLE", help="environment variable that holds the key")
    model.add_argument("--timeout", type=float, default=90.0, metavar="SECONDS", help="for one reply (default: 90)")


def _client_settings(options: argparse.Namespace) -> dict[str, Any]:
    if not options.model or not options.base_url:
        raise ValueError("--model and --base-url belong together: give the model and the address of its server")
    key = None
    if options.api_key_from:
        key = os.environ.get(options.api_key_from)
        if not key:
            raise ValueError(f"the environment variable {options.api_key_from} is not set")
    return {
        "base_url": options.base_url,
        "model": options.model,
        "api_key": key,
        "allow_remote": options.allow_remote,
        "timeout": options.timeout,
    }


def _select(options: argparse.Namespace) -> None:
    from alignedfusion.reports.selection import select
    from alignedfusion.reports.sources import join_texts, read_reports

    texts = join_texts(read_reports(options.reports), options.text)
    with ExitStack() as stack:
        client = None
        if options.model or options.base_url:
            from alignedfusion.reports.chat.client import ChatClient

            client = stack.enter_context(ChatClient(**_client_settings(options)))
        selection = select(
            texts,
            task=options.task,
            lexicon=options.lexicon,
            client=client,
            min_share=options.min_share,
            max_attributes=options.max_attributes,
        )
    states = ("positive", "negative", "uncertain") if selection.states else ()
    print(
        f"{'attribute':32}{'share of ' + ('requests' if client else 'reports'):>18}"
        + "".join(f"{s:>11}" for s in states)
    )
    for name, share in selection.support.items():
        print(f"{name:32}{share:>18.1%}" + "".join(f"{selection.states[name][s]:>11.1%}" for s in states))
    if options.output:
        Path(options.output).write_text(selection.to_yaml(), "utf-8")
        print(
            f"\n{options.output} is a lexicon of them with excerpts of the reports as comments: strike out and edit, then\n"
            f"alignedfusion extract ... --lexicon {options.output}"
        )


def _extract(options: argparse.Namespace) -> None:
    import hashlib

    from alignedfusion.reports import table
    from alignedfusion.reports.rules.lexicon import Lexicon

    lexicon = Lexicon.load(options.lexicon)
    if options.attributes:
        lexicon = lexicon.subset(options.attributes)
    about = {"lexicon": hashlib.sha256(lexicon.to_yaml().encode()).hexdigest()}
    with ExitStack() as stack:
        if options.model or options.base_url:
            from alignedfusion.reports.chat.client import ChatClient
            from alignedfusion.reports.chat.extractor import ChatExtractor

            client = stack.enter_context(ChatClient(**_client_settings(options)))
            extractor: Any = stack.enter_context(
                ChatExtractor(
                    lexicon,
                    client,
                    require_evidence=options.require_evidence,
                    concurrency=options.concurrency,
                    cache=options.cache,
                )
            )
            about |= {"base_url": client.base_url, "model": client.model}
            about |= {"require_evidence": str(options.require_evidence)}
        else:
            from alignedfusion.reports.rules.extractor import RuleExtractor

            extractor = RuleExtractor(lexicon)
        frame = table.extract_table(
            options.reports,
            extractor,
            options.output,
            text=options.text,
            prefix=options.prefix,
            about=about,
            workers=options.processes,
            on_ray=options.ray,
        )
    _summary(options.output, len(frame))


def _summary(output: str, count: int) -> None:
    from alignedfusion.reports.summary import draw_shares, failures, summarize
    from alignedfusion.reports.table import evidence_file

    summary = summarize(output)
    base = Path(output)
    summary.rename_axis("attribute").to_csv(base.with_name(base.name + ".summary.csv"), float_format="%.4f")
    draw_shares(summary, base.with_name(base.name + ".summary.png"), title=f"{base.name}: {count} reports")
    width = max(len(str(name)) for name in summary.index) + 2
    print("\n" + " " * width + "".join(f"{column:>13}" for column in summary.columns))
    for name, row in summary.iterrows():
        print(f"{name:{width}}" + "".join(f"{share:>13.1%}" for share in row))
    if failed := failures(output):
        print(f"\n{len(failed)} reports could not be read and are marked 'error'; the same command tries them again:")
        for number, reason in list(failed.items())[:10]:
            print(f"  row {number}: {reason}")
        if len(failed) > 10:
            print(f"  ... and {len(failed) - 10} more, in {evidence_file(output)}")
    print(f"\n{output}: {count} rows, {len(summary)} attributes; its evidence and this summary are in files beside it")
    print(f"To see the evidence of a row: alignedfusion show {output} --row 0")


def _show(options: argparse.Namespace) -> None:
    from alignedfusion.reports.showing import show

    print(show(options.table, options.row, options.attribute, color=sys.stdout.isatty()))
