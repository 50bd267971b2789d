"""The architecture: which package imports which, held against the table in docs/rooms.py; no circles; light imports."""

import ast
import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import alignedfusion

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "alignedfusion"
FILES = {
    ".".join(("alignedfusion", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if "examples" not in path.relative_to(PACKAGE).parts
}
GROUND = {"_lazy", "__version__"}  # anyone may import these


def load_rooms():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    rooms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rooms)
    return rooms


def imports(source):
    """The modules of this package that some code imports, deferred and type-only imports included, with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((inner if inner in FILES or node.module == "alignedfusion" else node.module, node.lineno))
    return [(name, line) for name, line in found if name and name.split(".")[0] == "alignedfusion" and "." in name]


def forbidden(name, source, may_import):
    """The imports of one module that the table does not allow."""
    room = name.split(".")[1]
    allowed = {room, *may_import[room], *GROUND}
    return [f"{name}:{line} imports {other}" for other, line in imports(source) if other.split(".")[1] not in allowed]


def in_rooms():
    return {
        name: path for name, path in FILES.items() if "." in name and name.split(".")[1] not in {"__main__", "_lazy"}
    }


def test_no_package_imports_what_it_may_not():
    table = load_rooms().MAY_IMPORT
    assert {name.split(".")[1] for name in in_rooms()} == set(table)
    assert [line for name, path in in_rooms().items() for line in forbidden(name, path.read_text("utf-8"), table)] == []


def test_the_table_allows_nothing_that_is_not_needed():
    used = defaultdict(set)
    for name, path in in_rooms().items():
        room = name.split(".")[1]
        used[room] |= {other.split(".")[1] for other, _ in imports(path.read_text("utf-8"))} - {room} - GROUND
    assert {room: set(below) for room, below in load_rooms().MAY_IMPORT.items()} == {
        room: used[room] for room in load_rooms().MAY_IMPORT
    }


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("alignedfusion.datasets.cases", "from alignedfusion.modules.classifier import AlignedFusionClassifier"),
        ("alignedfusion.modules.checkpoint", "    import alignedfusion.baselines.tables"),
        ("alignedfusion.reports.table", "from alignedfusion import sklearn"),
        ("alignedfusion.tables.files", "from alignedfusion.attributes import UNKNOWN"),
    ],
)
def test_a_forbidden_import_is_found(name, line):
    code = f"if True:\n    {line.strip()}\n"
    (message,) = forbidden(name, code, load_rooms().MAY_IMPORT)
    assert message.startswith(f"{name}:2 imports alignedfusion.")


def test_no_module_imports_itself_by_a_detour():
    graph = {name: {other for other, _ in imports(path.read_text("utf-8"))} for name, path in FILES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_every_package_stands_above_what_it_imports_and_the_picture_is_current():
    rooms = load_rooms()
    assert set(rooms._PLACES) == set(rooms.MAY_IMPORT)
    for name, below in rooms.MAY_IMPORT.items():
        assert all(rooms._PLACES[name][1] > rooms._PLACES[other][1] for other in below)
    assert rooms.PICTURE.read_text("utf-8") == rooms.draw(), "run `python docs/rooms.py`"


def test_the_root_holds_the_ground_and_the_rooms():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()} - {"py.typed"}
    ground = {"__init__.py", "__main__.py", "_lazy.py", "presets.py"}
    assert files - {"attributes.py"} == ground
    assert (PACKAGE / "attributes.py").is_file() or (PACKAGE / "attributes" / "__init__.py").is_file()


def loaded(code):
    """The top-level modules that a new interpreter has after some code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    return set(json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout))


HEAVY = {
    "timm",
    "transformers",
    "pandas",
    "matplotlib",
    "sklearn",
    "torchvision",
    "accelerate",
    "openai",
    "ray",
    "onnx",
}


def test_import_is_light():
    assert HEAVY.isdisjoint(loaded("import alignedfusion"))


@pytest.mark.parametrize("room", sorted({name.split(".")[1] for name in in_rooms()} - {"sklearn"}))
def test_importing_a_room_loads_nothing_heavy(room):
    assert HEAVY.isdisjoint(loaded(f"import alignedfusion.{room}"))


def test_reports_are_read_without_torch():
    code = "import sys; sys.modules['torch'] = None\nimport alignedfusion.reports"
    assert "alignedfusion" in loaded(code)


MODULES = sorted(info.name for info in pkgutil.walk_packages(alignedfusion.__path__, "alignedfusion."))


@pytest.mark.parametrize("name", [name for name in MODULES if ".examples" not in name])
def test_every_module_can_be_imported_by_itself(name):
    assert importlib.import_module(name).__doc__
