"""Version, licence, dependencies and contributing notes agree between the files that state them."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import alignedfusion

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "docs" / "CONTRIBUTING.md").read_text()
CHANGELOG = (ROOT / "docs" / "changelog.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def test_one_version():
    assert version("alignedfusion") == alignedfusion.__version__ == CITATION["version"]
    assert 'dynamic = ["version"]' in PYPROJECT


def test_the_changelog_begins_with_this_version_or_what_comes_after_it():
    titles = re.findall(r"^## (.*)$", CHANGELOG, flags=re.MULTILINE)
    assert titles[0] == "Unreleased" or re.fullmatch(
        rf"{re.escape(alignedfusion.__version__)} \(\d{{4}}-\d\d-\d\d\)", titles[0]
    )
    assert len(titles) == len(set(titles))


def test_the_citation_names_the_licence_and_the_paper():
    assert f'license = "{CITATION["license"]}"' in PYPROJECT
    (paper,) = CITATION["references"]
    assert (paper["title"], len(paper["authors"])) == (
        "AlignedFusion: Handling Missing Information in Reports and Inter-Modality Information Imbalance",
        6,
    )


def test_every_file_that_contributing_names_exists():
    named = re.findall(r"`((?:alignedfusion|benchmarks|docs|tests|\.ci)/[\w./]+)`", CONTRIBUTING)
    named = sorted(name for name in set(named) if "NAME" not in name)
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).exists()] == []
    for path in (ROOT / ".ci").iterdir():
        assert f".ci/{path.name}" in CONTRIBUTING
        assert path.stat().st_mode & 0o111, f"{path.name} is not executable"


@pytest.mark.parametrize(
    "package", ["torch", "transformers", "timm", "huggingface_hub", "numpy", "pandas", "scikit-learn"]
)
def test_the_table_of_versions_agrees_with_pyproject(package):
    (lowest,) = re.findall(rf"^\| {package} \| (\S+) \|", CONTRIBUTING, flags=re.MULTILINE)
    assert f'    "{package}>={lowest}",' in PYPROJECT


def test_the_lowest_python_is_that_of_the_package():
    (lowest,) = re.findall(r"^\| Python \| (\S+) \|", CONTRIBUTING, flags=re.MULTILINE)
    assert f'requires-python = ">={lowest}"' in PYPROJECT
    assert f"python{lowest}" in (ROOT / ".ci" / "lowest").read_text()


def test_the_workflow_runs_the_scripts_on_the_lowest_and_the_newest_python():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    (versions,) = re.findall(r"^\| Python \| (\S+) \| (\S+) \|", CONTRIBUTING, flags=re.MULTILINE)
    assert [jobs[name]["container"] for name in ("lowest", "newest")] == [f"python:{version}" for version in versions]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert {name: lines[-1] for name, lines in commands.items()} == {
        "newest": "bash .ci/run",
        "lowest": "bash .ci/lowest",
    }
    for line in commands["newest"] + commands["lowest"]:
        subprocess.run(["bash", "-n", "-c", line], check=True)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_valid_and_ask_for_no_patient_data(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    assert "No patient data" in path.read_text()


@pytest.mark.parametrize("script", ["run", "lowest", "release"])
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / script)], check=True)
