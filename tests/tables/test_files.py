import subprocess
import sys

import pandas as pd
import pytest

from alignedfusion.tables.files import lock_output, write_atomically, write_json, write_table

HOLD = """
import sys
from pathlib import Path
from alignedfusion.tables.files import lock_output
with lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


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
