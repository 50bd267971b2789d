"""The code of docs/ and the README: Python runs and returns what its comments state, commands parse, links resolve.

Blocks that start with ```python run in the order of their page, in an empty folder. A block that starts with ```py does not run
here, because it needs a hub or a cluster; `SHOWN` counts these blocks.
"""

import ast
import importlib
import re
import shlex
from collections import Counter
from pathlib import Path

import docs_pages
import pytest
import torch
import yaml

import alignedfusion
from alignedfusion import baselines, deployment, detection, evaluation, pages, reports, training
from alignedfusion.commands import main as cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "results" not in path.parent.parts)
PAGES.append(ROOT / "README.md")
SHOWN = {
    "README.md": 1,  # a model hub; tests/deployment/test_hub.py runs it
    "encoders.md": 3,  # a model hub; tests/modules/test_encoders.py runs the same with random weights
    "detection.md": 6,  # further libraries; tests/detection/test_recipes.py runs the same on small networks
    "several-machines.md": 1,  # a cluster; tests/tables/test_cluster.py runs what it maps
}
CLAIMED_SHAPE = re.compile(r"\((?:\d+, )*\d+,?\)")


def name_of(page):
    return page.relative_to(DOCS if DOCS in page.parents else ROOT).as_posix()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def has(page, language):
    return bool(blocks(page, language))


def check(value, comment, line):
    """Compare a value with its comment; False if the comment is words and not a shape or a value."""
    claim = comment.split(": ")[0] if not comment.startswith("{") else comment
    shape = CLAIMED_SHAPE.match(claim)
    if shape and isinstance(value, torch.Tensor):
        assert str(tuple(value.shape)) == shape.group(), line
        return True
    if claim in ("True", "False", "None") or re.match(r"[-\[{'\d]|\([\d'\[-]|[A-Z]\w+\(", claim):
        assert repr(value) == claim, line
        return True
    return False


def run(source, names, file="page"):
    """Run a block statement by statement and return the number of checked comments."""
    lines, checked = source.splitlines(), 0
    for statement in ast.parse(source).body:
        comment = re.search(r"\s# (\S.*)$", lines[statement.end_lineno - 1])
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), file, "eval"), names)  # the page is ours
        else:
            exec(compile(ast.Module([statement], []), file, "exec"), names)
            is_name = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
            value = names[statement.targets[0].id] if is_name else None
            if not isinstance(value, torch.Tensor) or not (comment and CLAIMED_SHAPE.match(comment[1])):
                continue
        if comment:
            checked += check(value, comment[1], lines[statement.end_lineno - 1])
    return checked


@pytest.mark.parametrize("page", [page for page in PAGES if has(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs_and_returns_what_its_comments_state(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    before, after = docs_pages.BEFORE.get(name_of(page)), docs_pages.AFTER.get(name_of(page))
    if before:
        before(names, monkeypatch)
    torch.manual_seed(0)
    for source in blocks(page, "python"):
        run(source, names, page.name)
    if after:
        after(names)


def test_a_wrong_comment_is_noticed():
    names = {"torch": torch}
    assert run("torch.zeros(2, 3)  # (2, 3): zeros\n1 + 1  # two\n", names) == 1
    for line in (
        "torch.zeros(2, 3)  # (3, 2)",
        "x = torch.zeros(2)  # (3,)",
        "1 == 2  # True",
        "(1, 2)  # (2, 1)",
        "[1]  # [2]",
    ):
        with pytest.raises(AssertionError):
            run(line, names)


def test_every_block_that_does_not_run_is_counted():
    shown = {name_of(page): len(blocks(page, "py")) for page in PAGES if has(page, "py")}
    assert shown == SHOWN
    assert {*docs_pages.BEFORE, *docs_pages.AFTER} <= {name_of(page) for page in PAGES if has(page, "python")}
    languages = Counter(
        fence for page in PAGES for fence in re.findall(r"^```(\w*)$", page.read_text("utf-8"), re.MULTILINE)
    )
    assert set(languages) <= {"", "python", "py", "bash", "text", "yaml", "math"}  # no other name for Python


@pytest.mark.parametrize("page", [page for page in PAGES if has(page, "bash")], ids=name_of)
def test_every_command_of_a_page_parses(page):
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace("&&", ";").replace(";", " ; "), comments=True)
            for command in " ".join(map(shlex.quote, words)).split("';'"):
                first, *rest = shlex.split(command) or [""]
                if first == "alignedfusion":
                    assert cli._parser().parse_args(rest).command == rest[0], line
                elif first == "python" and rest[0].endswith(".py"):
                    assert (ROOT / rest[0]).is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_links_to_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    example_pages = {f"{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}
    for link in links:
        assert (page.parent / link).exists() or (link.startswith("examples/") and Path(link).name in example_pages), (
            link
        )


def test_the_site_has_every_page_and_every_example():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    listed = re.findall(r"[\w/-]+\.md", str(nav))
    examples = {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}
    assert Counter(listed) == Counter({name_of(page) for page in PAGES if page.name != "README.md"} | examples)


def test_the_reference_has_every_public_name_and_no_other():
    text = "\n".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md"))
    described = re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)
    assert len(set(described)) == len(described) > 60
    for name in described:
        module, attribute = name.rsplit(".", 1)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name
    for package in (alignedfusion, baselines, deployment, detection, evaluation, pages, reports, training):
        for name in package.__all__:
            assert f"{package.__name__}.{name}" in described, name


def messages():
    """Every text in the package, with an ellipsis in place of what is filled in."""
    for path in (ROOT / "alignedfusion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_message_of_the_troubleshooting_page_is_in_the_code():
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    titles = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    headings = [title[1:-1] for title in titles if title[0] == title[-1] == "`"]
    assert len(headings) == len(titles) > 40
    in_code = list(messages())
    for heading in headings:
        pattern = ".*".join(map(re.escape, heading.split("…")))
        assert any(re.search(pattern, message, re.DOTALL) for message in in_code), heading
