"""A table of reports in, a table of attributes out: columns, evidence, interruptions, failures, and the commands."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pandas as pd
import pytest
from chat_server import chat_server

from alignedfusion.commands import main as cli
from alignedfusion.reports import ReportFailedError, RuleExtractor, extract_table
from alignedfusion.reports.showing import mark, show
from alignedfusion.reports.sources import join_texts, read_reports
from alignedfusion.reports.summary import failures, summarize
from alignedfusion.reports.table import evidence_file
from alignedfusion.reports.types import UNMENTIONED, Cell
from alignedfusion.reports.workers import read_all
from alignedfusion.tables.files import FAILED
from alignedfusion.tables.journal import Journal, read_journal

LEXICON = """
attributes:
  effusion: {terms: [effusion]}
  edge:
    values: {smooth: [smooth], ragged: [ragged]}
  age: {unit: years, numbers: [<number> year(s) old]}
"""
MARKER = "Zebrafishmarker"
TEXTS = [
    "No effusion. Smooth edge. 63 years old.",
    "Effusion.",
    "",
    "Possible effusion, ragged edge.",
    f"Nothing of note, {MARKER}.",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lexicon.yaml").write_text(LEXICON)
    frame = pd.DataFrame({"id": range(5), "text": TEXTS, "label": list("ababa")})
    frame.to_csv(tmp_path / "reports.csv", index=False)
    frame.to_parquet(tmp_path / "reports.parquet")
    return tmp_path


@pytest.fixture
def extractor(folder):
    return RuleExtractor(str(folder / "lexicon.yaml"))


def extract(folder, extractor, name="table.csv", **settings):
    reports = settings.pop("reports", folder / "reports.csv")
    return extract_table(reports, extractor, folder / name, progress=False, **settings)


# The table


def test_a_table_by_hand(folder, extractor):
    table = extract(folder, extractor)
    assert table.columns.tolist() == ["id", "label", "effusion", "edge", "age"]
    assert table[["effusion", "edge", "age"]].to_numpy().tolist() == [
        ["negative", "smooth", "63"],
        ["positive", "UN", "UN"],
        ["UN", "UN", "UN"],
        ["uncertain", "ragged", "UN"],
        ["UN", "UN", "UN"],
    ]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False), table)


def test_csv_parquet_and_a_folder_of_texts_give_the_same_cells(folder, extractor):
    names = ["effusion", "edge", "age"]
    table = extract(folder, extractor)[names]
    parquet = extract(folder, extractor, "other.parquet", reports=folder / "reports.parquet")
    assert parquet["age"].tolist()[0] == 63.0
    assert parquet["age"].isna().tolist() == [False, True, True, True, True]  # a number column has no word for UN
    assert parquet[names[:2]].to_numpy().tolist() == table[names[:2]].to_numpy().tolist()
    (folder / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "texts" / f"{number}.txt").write_text(text)
    texts = extract(folder, extractor, "texts.csv", reports=folder / "texts")
    assert texts["file"].tolist() == [f"{number}.txt" for number in range(5)]
    assert texts[names].to_numpy().tolist() == table.to_numpy().tolist()


def test_several_text_columns_are_read_one_after_the_other():
    frame = pd.DataFrame({"a": ["one", " ", None], "b": ["two", "three", ""]})
    assert join_texts(frame, ["b", "a"]) == ["two\none", "three", ""]
    with pytest.raises(ValueError, match=re.escape("the table has no column ['c']; it has ['a', 'b']")):
        join_texts(frame, ["a", "c"])


def test_a_prefix_keeps_columns_apart(folder, extractor):
    frame = pd.read_csv(folder / "reports.csv").assign(age=1)
    frame.to_csv(folder / "reports.csv", index=False)
    with pytest.raises(ValueError, match=re.escape("the table has columns ['age'] already; add a prefix")):
        extract(folder, extractor)
    assert not (folder / "table.csv").exists()
    table = extract(folder, extractor, prefix="said_")
    assert table.columns.tolist() == ["id", "label", "age", "said_effusion", "said_edge", "said_age"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("table.xlsx", {}, "the table must be a .csv or .parquet file, got 'table.xlsx'"),
        ("table.csv", {"text": ["report"]}, r"the table has no column \['report'\]"),
        ("table.csv", {"reports": "nowhere.csv"}, "there are no reports at 'nowhere.csv'"),
    ],
)
def test_what_cannot_be_is_said(folder, extractor, name, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        extract(folder, extractor, name, **settings)


def test_an_empty_folder_holds_no_reports(tmp_path):
    with pytest.raises(ValueError, match=r"there is no \.txt file in .* or its subfolders$"):
        read_reports(tmp_path)
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"it holds 1 files of other kinds, such as 'a\.docx'"):
        read_reports(tmp_path)


def test_a_folder_is_read_with_its_subfolders_and_names_what_it_leaves_out(tmp_path):
    (tmp_path / "ward").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffNo effusion.".encode())
    (tmp_path / "ward" / "B.TXT").write_bytes("It didn\u2019t heal.".encode("cp1252"))
    (tmp_path / "c.pdf").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 files in .* are not \.txt files and were left out, such as 'c\.pdf'"):
        frame = read_reports(tmp_path)
    assert frame["file"].tolist() == ["a.txt", "ward/B.TXT"]
    assert frame["text"].tolist() == ["No effusion.", "It didn\u2019t heal."]


def test_a_file_that_cannot_be_read_is_named_without_its_text(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nErg\u00fc\u00df".encode("cp1252"))
    with pytest.raises(ValueError, match=r"a\.csv' is not in UTF-8 \(byte 8\): save it as CSV in UTF-8"):
        read_reports(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text(f'text\n"{MARKER}\n')
    with pytest.raises(ValueError, match=r"cannot read the table .*b\.csv': ") as caught:
        read_reports(tmp_path / "b.csv")
    assert MARKER not in str(caught.value)


def test_reports_that_do_not_look_english_are_warned_of_once(folder, extractor):
    texts = ["Kein Pneumothorax, kein Erguss.", "No effusion."]
    pd.DataFrame({"text": texts}).to_csv(folder / "reports.csv")
    with pytest.warns(UserWarning, match=r"50% of the reports do not look English \(1 of 2 looked at\)") as caught:
        extract(folder, extractor)
    assert len(caught) == 1
    assert "Kein" not in str(caught[0].message)


def test_a_table_without_evidence_cannot_be_shown(folder):
    with pytest.raises(FileNotFoundError, match=r"has no evidence: 'other\.csv\.evidence\.jsonl' must lie beside it"):
        show(folder / "other.csv", 0)
    assert cli.main(["show", str(folder / "other.csv"), "--row", "0"]) == 2


# Evidence


def test_the_evidence_is_for_its_owner_and_holds_no_text(folder, extractor):
    extract(folder, extractor)
    file = evidence_file(folder / "table.csv")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text() + (folder / "table.csv").read_text()
    assert MARKER not in written
    assert "of note" not in written


def test_the_summary_counts_states(folder, extractor):
    extract(folder, extractor)
    summary = summarize(folder / "table.csv")
    assert summary.columns.tolist() == ["positive", "negative", "uncertain", "unmentioned"]
    assert summary.loc["effusion"].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert summary.loc["age"].tolist() == pytest.approx([0.2, 0.0, 0.0, 0.8])
    assert summary.sum(axis=1).tolist() == pytest.approx([1.0] * 3)


def test_show_marks_what_a_cell_rests_on(folder, extractor):
    extract(folder, extractor)
    assert show(folder / "table.csv", 0) == (
        "<No> [effusion]{effusion: negative}. [Smooth]{edge: smooth} edge. [63 years old]{age: 63}.\n\n"
        "effusion  negative\nedge      smooth\nage       63"
    )
    assert show(folder / "table.csv", 3, ["edge"]) == (
        "<Possible> effusion, [ragged]{edge: ragged} edge.\n\nedge  ragged"
    )
    assert show(folder / "table.csv", 1).endswith("effusion  positive\nUN: edge, age")


def test_marks_nest_and_share_a_cue(extractor):
    text = "No effusion or effusion."
    row = {"a": extractor.extract(text)["effusion"], "b": extractor.extract(text)["effusion"]}
    assert mark(text, row) == "<No> [[effusion]{a: negative}]{b: negative} or effusion."


def test_show_refuses_what_is_not_there(folder, extractor):
    extract(folder, extractor)
    with pytest.raises(ValueError, match=r"there is no row 5: .* has rows 0 to 4"):
        show(folder / "table.csv", 5)
    with pytest.raises(ValueError, match="has no attribute 'edema'; it has effusion, edge, age"):
        show(folder / "table.csv", 0, ["edema"])
    pd.read_csv(folder / "reports.csv").head(3).to_csv(folder / "reports.csv", index=False)
    with pytest.raises(ValueError, match=r"the reports in 'reports.csv' have changed since"):
        show(folder / "table.csv", 0)


# Failures


class Fragile:
    """Cannot read reports with certain words; counts what it is asked."""

    names = ("effusion",)

    def __init__(self, *bad):
        self.bad, self.asked = bad, []

    def extract(self, text):
        self.asked.append(text)
        if any(word in text for word in self.bad):
            raise ReportFailedError("the reply was cut off")
        return {"effusion": Cell("positive", "positive") if "ffusion" in text else UNMENTIONED}


def test_a_report_that_cannot_be_read_is_an_error_and_tried_again(folder):
    first = Fragile("ragged", "Smooth")
    table = extract(folder, first)
    assert table["effusion"].tolist() == [FAILED, "positive", "UN", FAILED, "UN"]
    assert failures(folder / "table.csv") == {0: "the reply was cut off", 3: "the reply was cut off"}
    assert summarize(folder / "table.csv").loc["effusion", "positive"] == pytest.approx(
        1 / 3
    )  # of those that were read
    assert show(folder / "table.csv", 3).endswith("row 3 could not be read: the reply was cut off")
    second = Fragile()
    table = extract(folder, second)
    assert second.asked == [TEXTS[0], TEXTS[3]]
    assert table["effusion"].tolist() == ["positive", "positive", "UN", "positive", "UN"]
    assert failures(folder / "table.csv") == {}


def test_an_extractor_with_concurrency_runs_in_threads():
    class Threaded(Fragile):
        concurrency = 3

    texts = [f"Effusion {number}." if number % 3 else "" for number in range(50)]
    rows = read_all(texts, Threaded(), workers=1, progress=False)
    assert [row["effusion"].value for row in rows] == ["positive" if text else None for text in texts]


def test_two_processes_read_what_one_reads(extractor):
    texts = [TEXTS[number % 5] + f" {number}." for number in range(300)]
    one, two = (read_all(texts, extractor, workers=workers, progress=False) for workers in (1, 2))
    assert one == two


# Interruptions


def test_a_journal_goes_on_after_a_torn_line(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path, {"of": "a"})
    journal.add([{"row": 0, "cells": {}}, {"row": 2, "cells": {"x": ["1", "positive"]}}])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"row": 1, "cel')
    again = Journal(path, {"of": "a"})
    assert {number: line["cells"] for number, line in again.done.items()} == {0: {}, 2: {"x": ["1", "positive"]}}
    assert path.read_bytes() == whole
    again.add([{"row": 1, "error": "no"}])
    assert read_journal(path)[1][1] == {"row": 1, "error": "no"}
    with pytest.raises(ValueError, match=r"was started with other settings: of was 'a' and is now 'b'; choose another"):
        Journal(path, {"of": "b"})
    (tmp_path / "other").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"is no journal of rows"):
        read_journal(tmp_path / "other")


def test_a_journal_without_rows_is_no_beginning(tmp_path):
    Journal(tmp_path / "journal", {"of": "a"})
    assert Journal(tmp_path / "journal", {"of": "b"}).done == {}
    assert read_journal(tmp_path / "journal")[0] == {"of": "b"}


def test_other_reports_or_another_lexicon_are_another_extraction(folder, extractor):
    extract(folder, extractor, about={"lexicon": "1"})
    with pytest.raises(ValueError, match="was started with other settings: extractor was"):
        extract(folder, extractor, about={"lexicon": "2"})
    pd.read_csv(folder / "reports.csv").head(3).to_csv(folder / "reports.csv", index=False)
    with pytest.raises(ValueError, match="was started with other settings: sha256 was"):
        extract(folder, extractor, about={"lexicon": "1"})


@pytest.fixture
def many(folder):
    """A table of 1,500 long reports, and the extraction of all of them in one go."""
    filler = "The heart is of a size. " * 150
    texts = [f"{number} years old. {filler} {TEXTS[number % 5]}" for number in range(1500)]
    pd.DataFrame({"text": texts}).to_csv(folder / "many.csv", index=False)
    arguments = ["extract", str(folder / "many.csv"), "--lexicon", str(folder / "lexicon.yaml")]
    assert cli.main([*arguments, "-o", str(folder / "whole.csv"), "--processes", "1"]) == 0
    return arguments, (folder / "whole.csv").read_text()


def test_an_interrupted_command_goes_on(folder, many):
    arguments, whole = many
    for how in (signal.SIGINT, signal.SIGKILL):
        output = folder / f"{how.name}.csv"
        command = [*arguments, "-o", str(output), "--processes", "2"]
        evidence = evidence_file(output)
        line = [sys.executable, "-m", "alignedfusion", *command]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and (not evidence.is_file() or evidence.stat().st_size < 20_000):
            time.sleep(0.005)
        os.kill(process.pid, how)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (130 if how is signal.SIGINT else -9)
        assert "Traceback" not in errors
        if how is signal.SIGINT:
            assert "the same command continues" in errors
        assert 0 < len(read_journal(evidence)[1]) < 1500
        assert not output.exists()

        assert cli.main(command) == 0
        assert output.read_text() == whole
        rows = [json.loads(line)["row"] for line in evidence.read_text().splitlines()[1:]]
        assert sorted(rows) == list(range(1500))  # none twice


# The commands


def test_extract_and_show_from_the_command_line(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["extract", "reports.csv", "--lexicon", "lexicon.yaml", "-o", "table.csv", "--processes", "1"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert re.search(r"effusion\s+20\.0%\s+20\.0%\s+20\.0%\s+40\.0%", out)
    assert "table.csv: 5 rows, 3 attributes" in out
    assert MARKER not in out
    assert (folder / "table.csv.summary.png").stat().st_size > 5000
    assert (
        (folder / "table.csv.summary.csv").read_text().startswith("attribute,positive,negative,uncertain,unmentioned")
    )
    assert cli.main(["show", "table.csv", "--row", "1"]) == 0
    assert capsys.readouterr().out.startswith("[Effusion]{effusion: positive}.")
    assert cli.main(["show", "table.csv", "--row", "9"]) == 2
    assert "there is no row 9" in capsys.readouterr().err
    assert cli.main([*arguments, "--attributes", "efusion"]) == 2
    assert "did you mean 'effusion'?" in capsys.readouterr().err
    assert cli.main(["extract", "reports.csv", "--lexicon", "none", "-o", "t.csv"]) == 2
    assert "there is no lexicon 'none'" in capsys.readouterr().err


def test_a_chat_model_is_never_asked_half_heartedly(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["extract", "reports.csv", "--lexicon", "lexicon.yaml", "-o", "chat.csv", "--model", "m"]
    assert cli.main(arguments) == 2
    assert "--model and --base-url belong together" in capsys.readouterr().err
    assert cli.main([*arguments, "--base-url", "https://example.org/v1"]) == 2
    assert "example.org" in capsys.readouterr().err
    monkeypatch.delenv("MY_KEY", raising=False)
    assert cli.main([*arguments, "--base-url", "http://127.0.0.1:1/v1", "--api-key-from", "MY_KEY"]) == 2
    assert "the environment variable MY_KEY is not set" in capsys.readouterr().err
    assert not (folder / "chat.csv").exists()


def test_a_chat_model_without_its_package_names_the_extra(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "openai", None)
    arguments = ["extract", "reports.csv", "--lexicon", "lexicon.yaml", "-o", "chat.csv", "--model", "m"]
    assert cli.main([*arguments, "--base-url", "http://127.0.0.1:1/v1"]) == 2
    assert "needs openai: pip install 'alignedfusion[chat]'" in capsys.readouterr().err


def test_a_chat_model_reads_from_the_command_line(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    answer = {"a1_effusion_sentence": 1, "a1_effusion": "uncertain"}
    answer |= {"a2_edge_sentence": 0, "a2_edge": "UN", "a3_age_sentence": 1, "a3_age": "63"}
    with chat_server(lambda exchange: json.dumps(answer)) as (url, exchanges):
        arguments = ["extract", "reports.csv", "--lexicon", "lexicon.yaml", "-o", "chat.csv", "--model", "m"]
        assert cli.main([*arguments, "--base-url", url, "--require-evidence"]) == 0
        assert len(exchanges) == 4  # the empty report is not sent
        assert cli.main([*arguments, "--base-url", url, "--require-evidence"]) == 0
        assert len(exchanges) == 4
    table = pd.read_csv(folder / "chat.csv", keep_default_na=False)
    assert table["effusion"].tolist() == [
        "uncertain",
        "uncertain",
        "UN",
        "uncertain",
        "UN",
    ]  # the last one is not borne out
    assert table["age"].tolist() == ["UN", "UN", "UN", "UN", "UN"]
    assert MARKER not in capsys.readouterr().out
    # The server is gone: the run ends, and says so.
    assert cli.main([*arguments[:-3], "other.csv", "--model", "m", "--base-url", url]) == 2
    assert "alignedfusion extract:" in capsys.readouterr().err
    assert not (folder / "other.csv").exists()
