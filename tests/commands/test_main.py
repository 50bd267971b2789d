import subprocess
import sys

import pytest

import alignedfusion
from alignedfusion.commands import main as cli
from alignedfusion.commands import table_options
from alignedfusion.evaluation.conformal import import_crepes
from alignedfusion.modules.backbones import DEFAULT_BACKBONE
from alignedfusion.modules.tuning import import_peft


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["train"], ["tune"], ["tokens"], ["evaluate"], ["predict"], ["export"]]
)
def test_help_describes_every_command(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command, "--help"])
    out = capsys.readouterr().out
    assert "usage: alignedfusion" in out
    assert not command or len(out) > 300


def test_without_a_command_the_commands_are_listed(capsys):
    assert cli.main([]) == 2
    assert "train and test a model on your own cases" in capsys.readouterr().err


def test_the_default_backbone_is_that_of_the_library():
    assert table_options.DEFAULT_BACKBONE == DEFAULT_BACKBONE


def test_help_is_quick_and_light():
    code = """
import sys
from alignedfusion.commands.main import main
try:
    main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == alignedfusion.__version__


def test_an_error_prints_one_line_and_exits_with_status_2(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("file,kind,kind2\na.png,x,y\n")
    arguments = ["train", str(tmp_path / "t.csv"), "--image", "file", "--label", "kinds", "-o", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error == "alignedfusion train: the table has no column ['kinds']; it has ['file', 'kind', 'kind2']\n"
    assert not (tmp_path / "out").exists()


def test_units_are_pairs(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("file,kind\na.png,x\n")
    arguments = [
        "train",
        str(tmp_path / "t.csv"),
        "--image",
        "file",
        "--label",
        "kind",
        "-o",
        "out",
        "--units",
        "years",
    ]
    assert cli.main(arguments) == 2
    assert "--units takes COL=UNIT, got 'years'" in capsys.readouterr().err


def test_without_an_extra_the_command_names_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "pandas", None)
    (tmp_path / "t.csv").write_text("file,kind\na.png,x\n")
    assert cli.main(["train", str(tmp_path / "t.csv"), "--image", "file", "--label", "kind", "-o", "out"]) == 2
    assert "alignedfusion train needs pandas: pip install 'alignedfusion[train]'" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "load"), [("crepes", import_crepes), ("peft", import_peft)])
def test_an_extra_that_is_missed_late_is_named_too(package, load, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("alignedfusion.commands.export._export", lambda options: load())
    assert cli.main(["export", "run", "-o", "model.onnx"]) == 2
    assert f"alignedfusion export needs {package}: pip install 'alignedfusion[" in capsys.readouterr().err
