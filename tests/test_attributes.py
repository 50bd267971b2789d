import json
import math
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion import UNKNOWN, Attribute, AttributeSchema
from alignedfusion.attributes import ColumnOptions

texts = st.text(min_size=1, max_size=7).map(str.strip).filter(lambda text: text not in ("", "UN"))
edges = st.lists(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False), max_size=5, unique=True).map(
    sorted
)


@st.composite
def attributes(draw, name):
    if draw(st.booleans()):
        return Attribute(name, kind="numeric", units=draw(st.sampled_from(["", "mm"])), edges=draw(edges))
    return Attribute(name, values=draw(st.lists(texts, min_size=1, max_size=5, unique=True)))


@st.composite
def schemas(draw):
    names = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    return AttributeSchema([draw(attributes(name)) for name in names])


@given(st.data())
def test_decoding_and_encoding_again_gives_the_same_codes(data):
    schema = data.draw(schemas())
    rows = data.draw(st.integers(0, 5))
    cells = [[data.draw(st.integers(UNKNOWN, n - 1)) for n in schema.num_values] for _ in range(rows)]
    codes = torch.tensor(cells, dtype=torch.int64).reshape(rows, len(schema))
    assert torch.equal(schema.encode(schema.decode(codes)), codes)
    assert torch.equal(schema.encode(pd.DataFrame(schema.decode(codes), columns=list(schema.names))), codes)


@given(schemas())
def test_a_schema_survives_json(schema):
    again = AttributeSchema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert hash(again) == hash(schema)
    assert again.difference(schema) == ""


@given(edges, st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_a_number_falls_above_every_edge_it_reaches(inner, number):
    assert Attribute("size", kind="numeric", edges=inner).code(number) == sum(edge <= number for edge in inner)


def test_encode_of_a_data_frame_and_of_mappings_by_hand(schema):
    frame = pd.DataFrame(
        {
            "diagnosis": ["nevus", "melanoma", "nevus"],  # not an attribute: left alone
            "age": [29.9, 30.0, np.nan],
            "elevation": ["flat", None, " nodular "],
            "ulceration": ["present", "UN", ""],
        }
    )
    mappings = [
        {"elevation": "flat", "ulceration": "present", "age": 29.9},
        {"ulceration": "UN", "age": "30"},
        {"elevation": "nodular", "age": None},
    ]
    expected = torch.tensor([[0, 1, 0], [-1, -1, 1], [2, -1, -1]])
    for rows in (frame, mappings):
        codes = schema.encode(rows)
        assert codes.dtype == torch.int64
        assert codes.is_contiguous()
        assert torch.equal(codes, expected)
    assert schema.decode(expected)[1] == {"elevation": None, "ulceration": None, "age": "30 to 45 years"}


def test_no_rows_make_no_codes(schema):
    assert schema.encode([]).shape == (0, 3)
    assert schema.encode(pd.DataFrame(columns=list(schema.names))).shape == (0, 3)
    assert schema.decode(schema.encode([])) == []


@pytest.mark.parametrize("cell", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  ", "UN", " UN "])
def test_nothing_said_is_unknown(schema, cell):
    assert schema.encode([dict.fromkeys(schema.names, cell)]).tolist() == [[UNKNOWN] * 3]


def test_unknown_is_never_a_value_that_says_absent():
    schema = AttributeSchema([Attribute("ulceration", values=("absent", "no", "un", "nan", "none"))])
    codes = schema.encode([{"ulceration": value} for value in ("absent", "no", "un", "nan", "none")])
    assert codes.flatten().tolist() == [0, 1, 2, 3, 4]


def test_intervals_are_closed_at_their_lower_end(schema):
    numbers = [-5, 29.999, 30, 44.999, np.int64(45), "60", np.float32(74.5), 75.0, 1e9]
    assert schema.encode([{"age": n} for n in numbers])[:, 2].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    labels = ("below 30 years", "30 to 45 years", "45 to 60 years", "60 to 75 years", "75 years or more")
    assert schema.attributes[2].values == labels


def test_interval_labels_keep_apart_edges_that_round_alike():
    assert Attribute("dose", kind="numeric", edges=(1.00001, 1.00002)).values[1] == "1.00001 to 1.00002"
    assert Attribute("weight", kind="numeric").values == ("recorded",)


def test_a_whole_float_is_the_integer_and_a_bool_is_a_word():
    schema = AttributeSchema([Attribute("stage", values=(1, 2, 3)), Attribute("itch", values=("False", "True"))])
    frame = pd.DataFrame({"stage": [3.0, np.nan, 1.0], "itch": [True, None, False]})
    assert schema.encode(frame).tolist() == [[2, 1], [-1, -1], [0, 0]]
    assert schema.encode([{"stage": "2", "itch": np.bool_(True)}]).tolist() == [[1, 1]]
    with pytest.raises(ValueError, match=r"'itch', row 0: 1 is not a known value"):  # 1 == True, yet another cell
        schema.encode([{"itch": 1}])
    with pytest.raises(ValueError, match=r"'stage', row 0: 2.5 is not a known value"):
        schema.encode([{"stage": 2.5}])


def test_prompts_are_sentences():
    attribute = Attribute("blue_white_veil", values=("absent", "present"))
    assert attribute.prompts() == ("The blue white veil is absent.", "The blue white veil is present.")
    assert Attribute("age", kind="numeric", units="years", edges=(30,)).prompts()[1] == "The age is 30 years or more."


def test_from_table_learns_kinds_orders_and_edges():
    frame = pd.DataFrame(
        {
            "age": [0, 10, 20, 30, 40, 50, 60, 70, 80, None],  # nine distinct numbers: quartiles 20, 40, 60
            "sex": ["m", "f", None, "m", "f", "UN", "m", "", "f", "m"],
            "grade": [10, 2, 1, 2, 10, np.nan, 1, 2, 2, 1],  # three distinct numbers: an interval each
            "itch": [True, False, None, True, True, False, None, True, True, False],
            "name": list("abcdefghij"),
        }
    )
    schema = AttributeSchema.from_table(frame, columns=["sex", "age", "grade", "itch"], units={"age": "years"})
    assert schema.names == ("sex", "age", "grade", "itch")
    assert schema.attributes[0].values == ("f", "m")
    assert (schema.attributes[1].kind, schema.attributes[1].edges) == ("numeric", (20.0, 40.0, 60.0))
    assert schema.attributes[1].units == "years"
    assert schema.attributes[2].edges == (2.0, 10.0)
    assert schema.attributes[3].values == ("False", "True")
    assert AttributeSchema.from_table(frame.to_dict("records"), columns=["sex"]).attributes[0].values == ("f", "m")


def test_edges_come_from_the_rows_given_and_hold_for_others():
    table = pd.DataFrame({"age": [*range(0, 90, 10), 1000.0, -1000.0, 20.0]})
    schema = AttributeSchema.from_table(table.iloc[:9], columns=["age"])
    assert schema.attributes[0].edges == (20.0, 40.0, 60.0)
    assert schema.encode(table.iloc[9:]).flatten().tolist() == [3, 0, 1]


def test_no_interval_is_without_a_training_row():
    # Ten zeros, then 1 to 9: the zeros get an interval of their own, and 1 to 9 are divided at their terciles.
    schema = AttributeSchema.from_table([{"size": n} for n in [0] * 10 + list(range(1, 10))], columns=["size"])
    assert schema.attributes[0].edges == pytest.approx((1.0, 1 + 8 / 3, 1 + 16 / 3))
    assert AttributeSchema.from_table([{"size": n} for n in range(9)], ["size"], bins=2).attributes[0].edges == (4.0,)


def test_unseen_values_are_an_error_or_unknown(schema):
    rows = [{"elevation": "flat"}, {"elevation": "nodula", "age": math.inf}]
    with pytest.raises(
        ValueError, match=r"'elevation', row 1: 'nodula' is not a known value, did you mean 'nodular'\?"
    ):
        schema.encode(rows)
    with pytest.raises(
        ValueError,
        match=r"'age', row 0: inf is not a finite number, or a number with the unit 'years'; unseen='unknown'",
    ):
        schema.encode([{"age": math.inf}])
    assert schema.encode(rows, unseen="unknown").tolist() == [[0, -1, -1], [-1, -1, -1]]


ATTRIBUTE_ERRORS = [
    ({"name": "a", "kind": "ordinal"}, "kind must be 'categorical' or 'numeric', got 'ordinal'"),
    ({"name": " ", "values": ("x",)}, "needs a name that is a non-empty string, got ' '"),
    ({"name": 5, "values": ("x",)}, "needs a name that is a non-empty string, got 5"),
    ({"name": "a", "values": "flat"}, "'a': values must be a sequence of strings, got the string 'flat'"),
    ({"name": "a"}, "'a' has no values"),
    ({"name": "a", "values": ("x", "y", " x")}, "'a' names a value twice: ['x', 'y', 'x']"),
    ({"name": "a", "values": ("x", "UN")}, "'a': 'UN' stands for 'not mentioned'"),
    ({"name": "a", "values": ("x", "")}, "'a': '' stands for 'not mentioned'"),
    ({"name": "a", "values": ("x",), "edges": (1.0,)}, "'a' is categorical: edges, units and decimal belong"),
    ({"name": "a", "values": ("x",), "units": "mm"}, "'a' is categorical: edges, units and decimal belong"),
    ({"name": "a", "kind": "numeric", "values": ("x",)}, "'a' is numeric: its values follow from edges"),
    ({"name": "a", "kind": "numeric", "edges": (2.0, 1.0)}, "'a': edges must be finite and increasing, got [2.0, 1.0]"),
    ({"name": "a", "kind": "numeric", "edges": (1.0, 1.0)}, "edges must be finite and increasing"),
    ({"name": "a", "kind": "numeric", "edges": (1.0, math.inf)}, "edges must be finite and increasing"),
]


@pytest.mark.parametrize(("arguments", "message"), ATTRIBUTE_ERRORS)
def test_an_attribute_refuses(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Attribute(**arguments)


def test_a_schema_refuses_no_attributes_and_equal_names():
    with pytest.raises(ValueError, match="a schema needs at least one attribute"):
        AttributeSchema([])
    with pytest.raises(ValueError, match=re.escape("named more than once: ['a']")):
        AttributeSchema([Attribute("a", values=("x",)), Attribute("a", values=("y",))])


TABLE_ERRORS = [
    ({"columns": ["agee"]}, "the table has no column 'agee', did you mean 'age'?"),
    ({"columns": ["empty"]}, "attribute 'empty' has no value in any of these rows"),
    ({"columns": ["age"], "units": {"size": "mm"}}, "given for ['size'], which are not among the columns"),
    ({"columns": ["word"], "units": {"word": "mm"}}, "'word' must be numeric, but none of its cells is a number"),
    ({"columns": ["word"], "max_values": 8}, "'word' has 9 distinct values in 9 rows, more than max_values=8"),
    ({"columns": ["half"]}, "'half' has numbers, but 3 of its 12 recorded cells are not, such as 'n/a' (row 9)"),
]


@pytest.mark.parametrize(("arguments", "message"), TABLE_ERRORS)
def test_from_table_refuses(arguments, message):
    ages = list(range(9))
    half = pd.DataFrame({"half": [*range(9), "n/a", "n/a", "?"]})
    frame = pd.DataFrame({"age": ages, "empty": [None] * 9, "word": list("abcdefghi")})
    with pytest.raises(ValueError, match=re.escape(message)):
        AttributeSchema.from_table(half if arguments["columns"] == ["half"] else frame, **arguments)


def test_encode_refuses(schema):
    with pytest.raises(ValueError, match="unseen must be 'error' or 'unknown', got 'ignore'"):
        schema.encode([], unseen="ignore")
    with pytest.raises(ValueError, match=r"row 1 names the attribute 'elevaton', did you mean 'elevation'\?"):
        schema.encode([{}, {"elevaton": "flat"}])
    with pytest.raises(ValueError, match=r"a list of mappings, got one mapping; for one row, pass \[row\]"):
        schema.encode({"elevation": "flat"})
    with pytest.raises(ValueError, match="rows must be a DataFrame or a list of mappings; row 0 is str"):
        schema.encode(["flat"])
    with pytest.raises(ValueError, match="the table has no column 'ulceration'"):
        schema.encode(pd.DataFrame({"elevation": ["flat"], "age": [3]}))
    for cell in (["flat", "nodular"], np.array(["flat", "nodular"])):
        with pytest.raises(ValueError, match="'elevation', row 0: a cell is one value, got"):
            schema.encode([{"elevation": cell}])


def test_check_codes_names_what_is_wrong(schema):
    schema.check_codes(torch.tensor([[2, 1, 4], [-1, -1, -1]]))
    message = r"code 2 in row 1 is out of range for attribute 'ulceration': 2 values \['absent', 'present'\] take codes 0 to 1"
    with pytest.raises(ValueError, match=message):
        schema.check_codes(torch.tensor([[0, 0, 0], [0, 2, 0]]))
    with pytest.raises(ValueError, match="code -2 in row 0 is out of range for attribute 'age'"):
        schema.check_codes(torch.tensor([[0, 0, -2]]))
    for codes in (torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=re.escape("codes must be int64 of shape (B, 3)")):
            schema.decode(codes)


def test_difference_says_what_is_otherwise(schema):
    elevation, _, age = schema
    other = AttributeSchema([elevation, Attribute("ulceration", values=("present", "absent")), age])
    assert "attribute 'ulceration' has values ['absent', 'present'] against" in schema.difference(other)
    assert schema.difference(AttributeSchema(schema.attributes[:2])).startswith(
        "attributes ['elevation', 'ulceration',"
    )
    assert schema != other
    assert schema != "schema"


def test_a_column_that_is_there_twice_is_refused():
    frame = pd.DataFrame([["a", "b"]], columns=["sex", "sex"])
    with pytest.raises(ValueError, match="the table has more than one column 'sex'"):
        AttributeSchema([Attribute("sex", values=("a", "b"))]).encode(frame)


def test_a_difference_that_labels_do_not_show_is_told():
    first, second = (AttributeSchema([Attribute("x", kind="numeric", edges=(edge,))]) for edge in (1.00001, 1.00002))
    assert "1.00001" in first.difference(second)
    assert "1.00002" in first.difference(second)
    assert first.difference(first) == ""


def learn(cells, **settings):
    return AttributeSchema.from_table([{"x": cell} for cell in cells], ["x"], **settings)


AGES = [18 + i % 60 for i in range(199)]


@pytest.mark.parametrize("odd", ["NULL", "n/a", "unclear", math.inf, "63 y", True])
def test_one_odd_cell_leaves_a_column_numeric_and_is_the_only_one_unread(odd):
    schema = learn([*AGES, odd])
    assert schema.attributes[0].kind == "numeric"
    assert schema.attributes[0].edges == learn(AGES).attributes[0].edges
    codes, is_unread = schema.read([{"x": cell} for cell in (*AGES, odd, None)])
    assert is_unread.flatten().nonzero().flatten().tolist() == [199]
    assert codes[199:].flatten().tolist() == [UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("cells", "units", "codes"),
    [
        (["10,5", "20,5", "30"], "", [0, 1, 2]),  # decimal commas
        (["10 years", "20 years", "30 Year"], "years", [0, 1, 2]),
        (["10.5", "1,020.5", "30"], "", [0, 2, 1]),  # a comma between thousands
        (["10%", "20 %", "\u22125%"], "%", [1, 2, 0]),  # a typographic minus sign
        ([Decimal("10.5"), Decimal(20), 30], "", [0, 1, 2]),
        (pd.Series([10, None, 30], dtype="Int64").tolist(), "", [0, UNKNOWN, 1]),
        (pd.Series([10.5, None, 30], dtype="double[pyarrow]").tolist(), "", [0, UNKNOWN, 1]),
        (["10", " 20.0 ", "3e1"], "", [0, 1, 2]),
    ],
)
def test_numbers_are_read_as_they_are_written(cells, units, codes):
    schema = learn(cells)
    assert (schema.attributes[0].kind, schema.attributes[0].units) == ("numeric", units)
    assert schema.encode([{"x": cell} for cell in cells]).flatten().tolist() == codes


def test_a_comma_before_three_digits_is_ambiguous_until_the_column_or_the_user_decides():
    assert learn(["1,250", "1,5", "2,5"]).attributes[0].edges == (1.5, 2.5)  # 1.25 in a column of decimal commas
    assert learn(["1,250", "1,5", "2,5"]).attributes[0].decimal == ","
    for cells in (["1,250", "12.5"], ["1,250", "3,100", "2,500"]):
        with pytest.raises(ValueError, match=r"the comma in '1,250' \(row 0\) may separate thousands or decimals"):
            learn(cells)
    for decimal, edges in ((".", (1250.0,)), (",", (7.0,))):
        schema = learn(["1,250", "7"], options={"x": ColumnOptions(decimal=decimal)})
        assert schema.attributes[0].edges == edges
    assert Attribute("x", kind="numeric", edges=(2,)).code("1,250") is None


def test_zeros_in_three_quarters_of_the_rows_are_apart_from_the_rest():
    counts = [0] * 30 + [2, 4, 6, 8, 10, 12, 14, 16, 18, 40]
    schema = learn(counts)
    # The rest 2 ... 40 is divided at its terciles, 8 and 14: positions 3 and 6 of ten.
    assert schema.attributes[0].edges == (2.0, 8.0, 14.0)
    assert schema.encode([{"x": n} for n in (0, 2, 7, 8, 40)]).flatten().tolist() == [0, 1, 1, 2, 3]
    middle = learn([*range(6), *[50] * 30, *range(94, 100)]).attributes[0].edges
    assert 50.0 in middle
    assert min(edge for edge in middle if edge > 50) == 94.0


def test_few_numbers_stay_numbers():
    schema = learn([30, 50, 60, 70] * 5)
    assert schema.attributes[0].values == ("below 50", "50 to 60", "60 to 70", "70 or more")
    assert schema.encode([{"x": n} for n in (55, 10, 1000)]).flatten().tolist() == [1, 0, 3]


@given(st.lists(st.integers(-5, 30), min_size=1, max_size=60), st.integers(2, 6))
def test_every_learned_interval_holds_a_training_row(numbers, bins):
    schema = learn(numbers, bins=bins)
    codes = schema.encode([{"x": n} for n in numbers]).flatten()
    assert set(codes.tolist()) == set(range(schema.num_values[0]))
    if len(set(numbers)) > 1:
        assert schema.num_values[0] > 1


def test_codes_and_booleans_are_read_whatever_type_a_later_column_has():
    schema = AttributeSchema.from_table(
        [{"code": f"0{i % 3 + 1}", "flag": "TRUE" if i % 2 else "FALSE"} for i in range(6)], ["code", "flag"]
    )
    assert [a.values for a in schema] == [("01", "02", "03"), ("FALSE", "TRUE")]
    rows = [{"code": "02", "flag": "TRUE"}, {"code": 2, "flag": True}, {"code": 2.0, "flag": "true "}]
    assert schema.encode(rows).tolist() == [[1, 1]] * 3
    codes, is_unread = schema.read([{"code": "unclear", "flag": "unclear"}, {"code": "03", "flag": "FALSE"}])
    assert codes.tolist() == [[UNKNOWN, UNKNOWN], [2, 0]]
    assert is_unread.tolist() == [[True, True], [False, False]]


def test_one_leading_zero_makes_no_column_of_codes():
    assert learn([*map(str, AGES), "05"]).attributes[0].kind == "numeric"
    assert learn(["5", "05", "050", "7"] * 5).attributes[0].kind == "numeric"  # of several lengths
    months = learn([f"{i % 12 + 1:02d}" for i in range(48)]).attributes[0]
    assert (months.kind, months.values[0], len(months.values)) == ("categorical", "01", 12)


def test_spellings_that_differ_in_case_and_spaces_are_one_value_unless_two_values_do():
    attribute = Attribute("sex", values=("m", "not given"))
    assert [attribute.code(cell) for cell in ("M", " m", "Not  Given", "n")] == [0, 0, 1, None]
    assert learn(["Yes", "yes", "no", " yes", "NO ", "no"]).attributes[0].values == ("no", "yes")
    gene = Attribute("gene", values=("a", "A"))
    assert [gene.code(cell) for cell in ("a", "A")] == [0, 1]


def test_a_user_states_kind_edges_values_and_missing_codes():
    options = {"x": ColumnOptions(missing=(999, "none"))}
    schema = learn([*range(10, 60), 999, "999.0", "None"], options=options)
    assert max(schema.attributes[0].edges) < 60
    assert schema.encode([{"x": cell} for cell in (999, "none", 12)]).flatten().tolist() == [UNKNOWN, UNKNOWN, 0]
    assert AttributeSchema.from_dict(schema.to_dict()) == schema
    assert learn([1, 2, 3], options={"x": ColumnOptions(kind="categorical")}).attributes[0].values == ("1", "2", "3")
    assert learn([1, 2, 3], options={"x": ColumnOptions(edges=(2.5,))}).attributes[0].edges == (2.5,)
    assert learn(["a"], options={"x": ColumnOptions(values=("b", "a"))}).attributes[0].values == ("b", "a")


def test_column_options_survive_json():
    options = ColumnOptions(units="years", edges=(30,), decimal=",", missing=(999,))
    assert ColumnOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert ColumnOptions().to_dict() == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kinds": "numeric"}, "unknown options ['kinds']"),
        ({"kind": "number"}, "kind must be 'categorical' or 'numeric', got 'number'"),
        ({"edges": [1], "values": ["a"]}, "give one kind"),
        ({"missing": "999"}, "missing must be a list, got the text '999'"),
        ({"edges": 3}, "must be lists"),
        (["numeric"], "a column takes a mapping"),
    ],
)
def test_column_options_refuse(data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ColumnOptions.from_dict(data)
