import numpy as np
import pandas as pd
import pytest
import torch

from alignedfusion import UNKNOWN, AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion, match_codes
from alignedfusion.detection.codes import as_codes

EXPECTED = torch.tensor([[2, UNKNOWN, 1], [UNKNOWN, 0, UNKNOWN]])
ROWS = [{"elevation": "nodular", "age": 31}, {"ulceration": "absent"}]
FORMS = {
    "tensor": EXPECTED,
    "array": EXPECTED.numpy(),
    "int32 array": EXPECTED.numpy().astype(np.int32),
    "lists": EXPECTED.tolist(),
    "list of tensors": list(EXPECTED),
    "list of arrays": list(EXPECTED.numpy()),
    "dicts": ROWS,
    "DataFrame": pd.DataFrame(ROWS),
}


@pytest.mark.parametrize("given", FORMS.values(), ids=FORMS)
def test_every_form_of_rows_is_the_same_codes(given, schema):
    codes = as_codes(given, schema)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, EXPECTED)
    fusion = FeatureMapFusion(AttributeTokenizer(schema, 38), [5], num_heads=2).eval()
    torch.nn.init.normal_(fusion.write[0].value.weight)
    maps = torch.randn(2, 5, 3, 7)
    assert torch.equal(fusion(maps, given).maps, fusion(maps, EXPECTED).maps)


def test_one_mapping_is_one_row(schema):
    assert torch.equal(as_codes(ROWS[0], schema), EXPECTED[:1])
    assert torch.equal(as_codes([{}, {}], schema), torch.full((2, 3), UNKNOWN))


def test_rows_that_cannot_be_read_are_refused(schema):
    fusion = FeatureMapFusion(AttributeTokenizer(schema, 38), [5], num_heads=2)
    maps = torch.randn(2, 5, 3, 7)
    refused = {
        r"codes must be int64 \(B, 3\), or one dict of attribute values per image; cannot read": [[0, 1, 2], [0, 1]],
        r"codes must be int64 \(B, 3\), or one dict of attribute values per image; cannot": [["flat", "present", "31"]],
        r"codes must be int64 of shape \(B, 3\).* got torch.float32": [[0.0, 1.0, 2.0]],
        r"did you mean 'elevation'\?": [{"elevatoin": "flat"}],
        r"'bumpy' is not a known value": {"elevation": "bumpy"},
        r"row 1 is list": [{"elevation": "flat"}, [0, 1, 2]],
        r"got 3 rows of codes for maps of 2 images; give one row per image, or one row for all": [[0, 0, 0]] * 3,
    }
    for message, given in refused.items():
        with pytest.raises(ValueError, match=message):
            fusion(maps, given)


@pytest.mark.parametrize("read", ["global", "pooled", "full"])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_one_row_serves_all_rows_of_the_maps(rows, read, schema):
    fusion = FeatureMapFusion(AttributeTokenizer(schema, 38), [5], num_heads=2, read=read).eval()
    for layer in fusion.write if read == "global" else fusion.outward:
        torch.nn.init.normal_((layer.value if read == "global" else layer).weight)
    maps = torch.randn(rows, 5, 3, 7)
    one, each = fusion(maps, EXPECTED[:1]), fusion(maps, EXPECTED[:1].repeat(rows, 1))
    assert torch.equal(one.maps, each.maps)
    assert one.maps.shape == maps.shape
    assert one.loss == 0


def test_regions_get_the_codes_of_the_lesion_they_overlap_most():
    codes = torch.tensor([[0, 2], [1, 1]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    regions = torch.tensor(
        [[20.0, 0, 30, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 30, 10]]
    )  # the second lies in half of a lesion, the third in less; the last covers a third of each
    expected = [[1, 1], [0, 2], [UNKNOWN] * 2, [0, 2], [UNKNOWN] * 2, [UNKNOWN] * 2]
    assert match_codes(codes, boxes, regions).tolist() == expected
    assert match_codes(codes, boxes, regions, overlap=0.3).tolist()[-1] == [0, 2]
    assert match_codes(codes[:0], boxes[:0], regions).tolist() == [[UNKNOWN] * 2] * 6
    assert match_codes(codes, boxes, regions[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="one row of codes and one box, got 2 rows and 1 boxes"):
        match_codes(codes, boxes[:1], regions)
