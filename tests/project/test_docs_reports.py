"""Statements of docs/reports.md about lexicons. Its Python and commands are tested in test_docs_site."""

import re
from pathlib import Path

import pytest

from alignedfusion.reports import Lexicon, RuleExtractor

PAGE = (Path(__file__).parents[2] / "docs" / "reports.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_lexicon_of_the_page_reads_a_report():
    row = RuleExtractor(Lexicon.parse(blocks("yaml")[0])).extract(
        "INDICATION: fever.\nA 63 year old with a nodular lesion. Pleural spaces are clear. Pericardial effusion."
    )
    assert {name: cell.value for name, cell in row.items()} == {
        "pleural_effusion": "negative",
        "elevation": "nodular",
        "fever": "positive",
        "age": "63",
    }


@pytest.mark.parametrize("name", ["chest_ct", "chest_xray", "dermoscopy", "kidney_ct", "mammography", "skin_lesion"])
def test_the_lexicons_that_the_page_names_are_there(name):
    assert f"`{name}`" in PAGE
    assert len(Lexicon.load(name).names) >= 10


def test_the_page_counts_the_largest_lexicon_rightly():
    (count,) = re.findall(r"`chest_xray` \((\d+) findings", PAGE)
    assert len(Lexicon.load("chest_xray").names) == int(count)
