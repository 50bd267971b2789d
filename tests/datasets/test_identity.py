import numpy as np
import pandas as pd
import pytest

from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.identity import find_trained_cases, write_trained_cases

COLUMNS = CaseColumns(images=("a", "b"), label="kind", attributes=("sign",), group="patient", split="of")


@pytest.fixture
def frame(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((2, 3), i))
    return pd.DataFrame(
        {
            "a": ["0.npy", "1.npy", None],
            "b": [None, "2.npy", None],
            "kind": ["x", "y", "x"],
            "sign": ["1", None, "0"],
            "patient": ["p0", "p1", "p2"],
            "of": "train",
            "note": ["n0", "n1", "n2"],
        }
    )


def known(tmp_path, trained, table, columns=COLUMNS, root=None):
    write_trained_cases(tmp_path / "trained.json", trained, columns, tmp_path)
    return find_trained_cases(tmp_path / "trained.json", table, columns, tmp_path if root is None else root)


def test_images_decide_and_their_columns_count(frame, tmp_path):
    (tmp_path / "copy").mkdir()
    for i in range(3):
        (tmp_path / "copy" / f"new{i}.npy").write_bytes((tmp_path / f"{i}.npy").read_bytes())
    copied = frame.assign(a=["new0.npy", "new1.npy", None], b=[None, "new2.npy", None], sign="9", note="other")
    assert known(tmp_path, frame, copied, root=tmp_path / "copy") == [True, True, False]
    swapped = frame.assign(a=frame["b"], b=frame["a"])
    assert known(tmp_path, frame, swapped) == [False, False, True]


def test_a_case_without_images_is_all_its_cells_or_those_that_the_model_uses(frame, tmp_path):
    assert known(tmp_path, frame, frame.assign(of="test", note=["n0", "n1", "other"]))[2] is False
    assert known(tmp_path, frame, frame.assign(of="test", sign=[1.0, None, 0.0]))[2] is True  # types do not matter
    without = frame.drop(columns=["note", "of"])
    assert known(tmp_path, frame, without) == [True, True, True]
    assert known(tmp_path, frame, without.assign(patient="new"))[2] is False


def test_keys_decide_where_there_are_any(frame, tmp_path):
    columns = CaseColumns(images=("a", "b"), label="kind", attributes=("sign",), key="note")
    again = frame.assign(a=None, b=None, sign=None)
    assert known(tmp_path, frame, again, columns) == [True] * 3
    assert known(tmp_path, frame, frame.assign(note=["new", "", None]), columns) == [False, True, False]
    with pytest.raises(ValueError, match="identifies its cases by the column 'note', which the table does not have"):
        known(tmp_path, frame, frame.drop(columns="note"), columns)


def test_a_deleted_image_is_known_by_its_path(frame, tmp_path):
    (tmp_path / "0.npy").unlink()
    assert known(tmp_path, frame, frame) == [True] * 3
    assert known(tmp_path, frame, frame, root=tmp_path / "elsewhere") == [False, False, True]


def test_the_file_holds_no_cell(frame, tmp_path):
    known(tmp_path, frame, frame)
    text = (tmp_path / "trained.json").read_text("utf-8")
    assert not any(cell in text for cell in ("p0", "n0", "0.npy"))
