import gzip
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from alignedfusion.tables import files
from alignedfusion.tables.files import (
    check_columns,
    free_name,
    lock_output,
    read_json,
    read_table,
    write_atomically,
    write_json,
    write_table,
)

HOLD = """
import sys
from pathlib import Path
from alignedfusion.tables.files import lock_output
with lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_json_has_null_where_a_number_is_undefined(tmp_path):
    write_json(tmp_path / "x.json", {"missing": [{"macro_auc": float("nan"), "cases": 1}], "pair": (0.5, float("nan"))})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "missing": [{"macro_auc": None, "cases": 1}],
        "pair": [0.5, None],
    }


def test_a_draft_replaces_the_file_at_the_end_and_only_then(tmp_path):
    file = tmp_path / "table.csv"
    write_table(pd.DataFrame({"a": [1]}), file)
    with pytest.raises(ZeroDivisionError), write_atomically(file) as draft:
        draft.write_text(f"half {1 / 0}")
    assert file.read_text() == "a\n1\n"
    write_json(file, {"é": 2})
    assert file.read_bytes() == b'{\n  "\\u00e9": 2\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_one_job_at_a_time_writes_an_output(tmp_path):
    output = tmp_path / "new folder" / "out.csv"
    with lock_output(output), pytest.raises(ValueError, match="another process is writing"), lock_output(output):
        pass
    with lock_output(output), lock_output(output.with_name("other.csv")):
        pass


def test_the_lock_holds_between_processes_and_ends_with_one_that_is_killed(tmp_path):
    output = tmp_path / "out.csv"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is writing"), lock_output(output):
            pass
        other.kill()
        other.wait()
        with lock_output(output):
            pass


def test_cells_of_a_csv_file_are_text_and_only_empty_words_are_missing(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c,d\n01,TRUE,None, NA \n2,x,null,1.0\n", "utf-8")
    frame = read_table(tmp_path / "t.csv")
    assert frame[["a", "b", "c"]].to_numpy().tolist() == [["01", "TRUE", "None"], ["2", "x", "null"]]
    assert frame["d"].isna().tolist() == [True, False]


def test_a_gzipped_table_is_read_up_to_a_limit(tmp_path, monkeypatch):
    with gzip.open(tmp_path / "t.csv.gz", "wt", encoding="utf-8") as file:
        file.write("größe\n1\n")
    assert read_table(tmp_path / "t.csv.gz")["größe"].tolist() == ["1"]
    monkeypatch.setattr(files, "MAX_UNZIPPED", 9)
    with pytest.raises(ValueError, match=r"t\.csv\.gz': it holds more than 9 bytes .*; unzip it first"):
        read_table(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "a\nmü\n".encode("latin-1"), "t.csv' is not in UTF-8 (byte 3): save it as CSV in UTF-8"),
        ("t.csv", b"a,b,a\n1,2,3\n", "more than one column ['a']"),
        ("t.csv", b"a,b\n1,2,3\n4,5,6\n", "its rows have more cells than the header has columns ['a', 'b']"),
        ("t.csv", b"a,b\n1,2\n4,5,6\n", "cannot read the table"),
        ("t.csv", b"", "cannot read the table"),
        ("t.csv.gz", b"a,b\n1,2\n", "cannot read the table"),
        ("t.parquet", b"a,b\n1,2\n", "cannot read the table"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_the_fix(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert list(read_table(tmp_path / "t.csv")) == ["a", "b"]


def test_a_table_with_semicolons_is_recognised():
    with pytest.raises(ValueError, match=r"no column \['a'\]; it has \['a;b'\] \(cells .* separated by commas\)"):
        check_columns(pd.DataFrame({"a;b": ["1;2"]}), ["a"])


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"a": 1}', "[1]"])
def test_damaged_json_is_named_with_the_fix(text, tmp_path):
    (tmp_path / "x.json").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"x\.json' .*: train anew"):
        read_json(tmp_path / "x.json", "train anew", keys=("b",))


def test_a_free_name_differs_from_all_others():
    assert free_name("row", ["a"]) == "row"
    assert free_name("row", ["row", "row_", "a"]) == "row__"


def test_words_and_numbers_that_mean_not_recorded_are_so_in_any_type(tmp_path):
    frame = pd.DataFrame({"a": [1, 999], "b": [1.5, 999.0], "c": ["1", " 999"], "d": pd.Categorical(["UN", "x"])})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.parquet", "t.csv"):
        read = read_table(tmp_path / name, missing_values=["999", "999.0"])
        assert read.isna().to_numpy().tolist() == [[False, False, False, True], [True, True, True, False]]
