from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.pages.marking import Piece, divide
from alignedfusion.reports.types import NEGATIVE, POSITIVE, UNMENTIONED, Cell, Evidence

TEXT = "No crust or itch."


def cell(target, cue=None, state=POSITIVE):
    return Cell("x", state, Evidence(target, (0, len(TEXT)), cue))


def test_a_report_is_divided_at_its_evidence():
    row = {"crust": cell((3, 8), (0, 2), NEGATIVE), "age": UNMENTIONED, "itch": cell((12, 16), (0, 2), NEGATIVE)}
    assert divide(TEXT, row) == [
        Piece("No", is_cue=True),
        Piece(" "),
        Piece("crust", ("crust",), ("crust",)),
        Piece(" or "),
        Piece("itch", ("itch",), ("itch",)),
        Piece("."),
    ]


def test_the_shortest_evidence_comes_first_and_every_attribute_ends_once():
    row = {"skin": cell((3, 16)), "itch": cell((12, 16)), "again": cell((12, 16))}
    pieces = divide(TEXT, row)
    assert pieces[1] == Piece("crust or ", ("skin",), ())
    assert pieces[2] == Piece("itch", ("itch", "again", "skin"), ("skin", "itch", "again"))


def test_a_report_without_evidence_is_one_piece():
    assert divide(TEXT, {"age": UNMENTIONED}) == [Piece(TEXT)]
    assert divide("", {}) == []


spans = st.tuples(st.integers(0, 16), st.integers(1, 17)).filter(lambda span: span[0] < span[1])


@given(st.lists(st.tuples(spans, st.none() | spans), max_size=5))
def test_the_pieces_are_the_text(evidence):
    row = {str(i): cell(target, cue) for i, (target, cue) in enumerate(evidence)}
    pieces = divide(TEXT, row)
    assert "".join(piece.text for piece in pieces) == TEXT
    assert sorted(name for piece in pieces for name in piece.ends) == sorted(row)
    for name, (target, _) in zip(row, evidence, strict=True):
        assert "".join(piece.text for piece in pieces if name in piece.names) == TEXT[slice(*target)]
