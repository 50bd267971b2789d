import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_returns_the_shapes_it_names():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # the README is ours
    assert names["codes"].tolist() == [[2, -1, 3], [-1, 0, -1]]
    out = names["out"]
    assert out.loss.ndim == 0
    for field, shape in re.findall(r"out\.(\w+)\s+# \(([\d, ]+)\)", code):
        assert str(tuple(out[field].shape)) == f"({shape})"
    assert len(re.findall(r"out\.(\w+)\s+# \(([\d, ]+)\)", code)) == 4


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_of_the_readme_parses():
    import alignedfusion.commands.main as cli

    parser = cli._parser()
    for line in re.findall(r"^alignedfusion (?:train|evaluate|predict|extract|show) .*$", README, flags=re.MULTILINE):
        import shlex

        assert parser.parse_args(shlex.split(line)[1:]).command in line


@pytest.mark.parametrize("loop", ["trainer", "plain"])
def test_the_example_runs(loop, monkeypatch, capsys, tmp_path):
    arguments = ["train_classifier.py", "--loop", loop, "--epochs", "1", "--cases", "128", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "train_classifier.py"), run_name="__main__")
    assert "balanced accuracy" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_explain_themselves(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    assert "usage:" in capsys.readouterr().out
