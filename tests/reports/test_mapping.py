"""Extraction as a map over batches gives the table that `extract_table` gives. On Ray: `tests/tables/test_cluster.py`."""

import pandas as pd
import pytest

from alignedfusion.reports import ExtractBatch, Lexicon, RuleExtractor, encode_rows, extract_table

STATES = ("No", "Small", "Possible", "")


@pytest.fixture(scope="module")
def reports():
    """101 made-up reports, no two rows alike, with an id to put them in order again."""
    rows = []
    for number in range(101):
        effusion, nodule = STATES[number % 4], STATES[number // 4 % 4]
        said = [f"{word} {noun}." for word, noun in ((effusion, "pleural effusion"), (nodule, "nodule")) if word]
        rows.append({"id": number, "findings": " ".join(said), "impression": f"A {20 + number % 60} year old."})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def plain(reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    reports.to_csv(folder / "reports.csv", index=False)
    table = extract_table(
        folder / "reports.csv",
        RuleExtractor("chest_xray"),
        folder / "table.csv",
        text=["findings", "impression"],
        prefix="x_",
        progress=False,
    )
    return table.astype({"id": int})


def test_batches_of_any_size_give_the_plain_table(reports, plain):
    extract = ExtractBatch("chest_xray", text=["findings", "impression"], prefix="x_")
    for size in (1, 13, 101):
        parts = [extract(reports.iloc[start : start + size]) for start in range(0, 101, size)]
        pd.testing.assert_frame_equal(pd.concat(parts), plain, check_dtype=False)
    assert set(plain["x_pleural_effusion"]) == {"negative", "positive", "uncertain", "UN"}


def test_rows_become_codes():
    lexicon = Lexicon.load("skin_lesion").subset(["grew", "itch", "age"])
    extractor, schema = RuleExtractor(lexicon), lexicon.schema()
    rows = [extractor.extract(text) for text in ("It itches. 70 years old.", "It has not grown.")]
    codes = encode_rows(rows, schema)
    assert codes.tolist() == schema.encode([{"itch": "positive", "age": "70"}, {"grew": "negative"}]).tolist()
    narrow = lexicon.subset(["itch"]).schema()
    assert encode_rows(rows, narrow).tolist() == [[0], [-1]]  # other attributes of the rows are left out
