"""What docs/reports.md prints must be true."""

import re
import shlex
from pathlib import Path

import pytest

from alignedfusion import cli
from alignedfusion.reports import Lexicon, RuleExtractor
from alignedfusion.reports.reading import read_all
from alignedfusion.reports.showing import mark

PAGE = (Path(__file__).parent.parent / "docs" / "reports.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_first_python_gives_what_its_comments_say():
    code = blocks("python")[0]
    names: dict = {}
    exec(compile(code, "reports.md", "exec"), names)  # the page is ours
    said = re.findall(r"^((?:row|assertion).*?)\s+# (\S.*)$", code, flags=re.MULTILINE)
    assert len(said) == 5
    for expression, comment in said:
        value = eval(expression, names)
        assert repr(value) == comment.split(": ")[0], expression


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


def test_every_command_of_the_page_is_one():
    commands = re.findall(r"^alignedfusion (?:[^\n\\]|\\\n)*", "\n".join(blocks("bash")), flags=re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        assert cli._parser().parse_args(words[1:]).command == words[1]


@pytest.mark.parametrize("name", ["chest_xray", "dermoscopy", "skin_lesion", "kidney_ct"])
def test_the_lexicons_that_the_page_names_are_there(name):
    assert f"`{name}`" in PAGE
    assert len(Lexicon.load(name).names) >= 10


def test_the_page_counts_the_largest_lexicon_rightly():
    (count,) = re.findall(r"`chest_xray` \((\d+) findings", PAGE)
    assert len(Lexicon.load("chest_xray").names) == int(count)


def test_the_extractor_of_the_page_extracts():
    (code,) = (block for block in blocks("python") if "class OneWord" in block)
    names: dict = {}
    exec(compile(code, "reports.md", "exec"), names)
    rows = read_all(["An effusion.", "Nothing."], names["OneWord"](), progress=False)
    assert [row["effusion"].value for row in rows] == ["positive", None]
    assert mark("An effusion.", rows[0]) == "An [effusion]{effusion: positive}."
