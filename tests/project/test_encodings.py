import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("alignedfusion", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]


def default_encodings(code):
    """Lines that read or write text in the encoding of the machine."""
    lines = []
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        is_named = any(keyword.arg == "encoding" for keyword in call.keywords) or "utf-8" in texts
        is_file = name in ("read_text", "write_text") or (
            name == "open" and ast.unparse(call.func) not in ("Image.open", "os.open", "gzip.open")
        )
        is_binary = name == "open" and any("b" in text and len(text) <= 3 for text in texts)
        if is_file and not is_named and not is_binary:
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_utf_8(path):
    assert default_encodings(path.read_text("utf-8")) == []


def test_a_default_encoding_is_found():
    code = "open('x')\nPath('x').open('w')\np.read_text()\np.write_text(s)\nopen('x', 'rb')\np.read_text('utf-8')\n"
    assert default_encodings(code) == [1, 2, 3, 4]
