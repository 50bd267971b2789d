"""The examples of the package: listed, run by the command, and copied."""

import base64
import json
import re
import runpy
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from alignedfusion.commands import examples as example_files
from alignedfusion.commands import main as cli
from alignedfusion.datasets import phantom
from alignedfusion.deployment.prediction import predict_case
from alignedfusion.presets import Backbone, standard

ROOT = Path(__file__).parents[2]
EXTRAS = ("accelerate", "matplotlib", "openai", "pandas", "pyarrow", "pycocotools", "ray", "sklearn", "torchmetrics")
ON_CORE = (
    "fuse_torchvision_detector",
    "own_backbone_and_head",
    "quickstart",
    "reports_to_prediction",
    "serve_model",
    "three_modalities",
)


def command(*arguments, without=()):
    """Run the command in a separate process, in which some modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({without!r})); "
        "import alignedfusion.commands.main as c; sys.exit(c.main())"
    )
    return [sys.executable, "-c", code, *arguments]


@pytest.fixture
def run(tmp_path):
    """Runs an example in an empty folder as `alignedfusion examples run` does, and returns what it prints."""

    def run(*arguments, without=EXTRAS):
        line = command("examples", "run", *arguments, without=without)
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def share(out, row, column=0):
    """A number in percent from the row of a printed table that begins with `name`."""
    (line,) = re.findall(rf"^ *{re.escape(row)}  .*$", out, flags=re.MULTILINE)
    return float(re.findall(r"([\d.]+)(?:%|$| )", line.strip().removeprefix(row))[column])


def most_frequent(out):
    return float(re.search(r"most frequent class ([\d.]+)%", out).group(1))


# With few cases; below with their defaults.


SHORT = {
    "quickstart": ["--cases", "300", "--epochs", "4"],
    "three_modalities": ["--cases", "250", "--epochs", "8"],
    "reports_to_prediction": [
        *("--cases", "300", "--epochs", "4"),
        *("--text", "A 70-year-old farmer. The spot on his cheek itches but has not grown."),
    ],
}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """What the examples print with few cases, run one after another in one process that imports torch only once."""
    lines = [["examples", "run", name, *arguments] for name, arguments in SHORT.items()]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import alignedfusion.commands.main as c\n"
        f"for line in {lines!r}: print('<next>'); assert c.main(line) == 0"
    )
    folder = tmp_path_factory.mktemp("examples")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, *outputs = done.stdout.split("<next>\n")
    return dict(zip(SHORT, outputs, strict=True))


def test_quickstart_beats_chance_and_fills_unmentioned_attributes(short):
    out = short["quickstart"]
    assert share(out, "0%") > most_frequent(out) + 20
    assert share(out, "100%") > most_frequent(out) + 5
    assert "two reports as codes, -1 where unmentioned: [[1, -1, -1, -1, -1, -1, -1, 3, -1]," in out
    shares = [share(out, name) for name in phantom.CLASS_NAMES]
    assert sum(shares) == pytest.approx(100.0, abs=0.21)  # four rounded figures
    told = {"growth", "age"}
    for name in phantom.SCHEMA.names:
        assert bool(re.search(rf"^  {name} .*in truth", out, flags=re.MULTILINE)) is (name not in told)


def test_three_modalities_predict_with_any_of_them_missing(short):
    out = short["three_modalities"]
    alone = share(out, "ultrasound and report")
    assert share(out, "nothing") > alone + 10
    assert min(alone, share(out, "photo and ultrasound")) > 30


def test_reports_become_a_table_and_a_prediction(short):
    out = short["reports_to_prediction"]
    assert share(out, "with reports") > share(out, "without") + 5
    assert (
        "read: grew negative ('grown'), itch positive ('itches'), region face ('cheek'), age 70 ('70-year-old')" in out
    )
    assert ": UN" in out
    assert sum(map(float, re.findall(r"[a-z]+ ([\d.]+)%", out.splitlines()[-1]))) == pytest.approx(100.0, abs=0.21)


def test_every_sentence_of_the_synthetic_reports_is_extracted_correctly():
    script = runpy.run_path(str(ROOT / "examples" / "reports_to_prediction.py"))
    extractor = script["RuleExtractor"](script["LEXICON"])
    meant = [
        ("grew", script["GROWTH"], {"growing": "positive", "stable": "negative"}),
        ("itch", script["ITCHING"], {"present": "positive", "absent": "negative"}),
    ]
    for attribute, sentences, values in meant:
        for value, texts in sentences.items():
            for text in texts:
                assert extractor.extract(text)[attribute].value == values[value], text
    for texts in script["SITE"].values():
        assert all(extractor.extract(text)["region"].value for text in texts)


def test_a_copy_of_own_backbone_and_head_runs_anywhere(tmp_path, monkeypatch, capsys):
    path = example_files.copy("own_backbone_and_head", str(tmp_path / "mine.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, "--cases", "300", "--epochs", "4"])
    runpy.run_path(path.name, run_name="__main__")
    out = capsys.readouterr().out
    whole = share(out, "0% of the report missing")
    assert whole < share(out, "always the median") - 0.5  # years
    assert whole < share(out, "100% of the report missing")


def write_table(folder, n):
    """Drawn lesions as files and a table, and weights of a backbone."""
    drawn = phantom.make(n, image_size=32, missing=0.2)
    lines = ["file,kind,border,growth,itching,site"]
    for number, (pixels, codes, label) in enumerate(zip(drawn.images, drawn.codes, drawn.labels, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = phantom.SCHEMA.decode(codes[None])[0]
        cells = [row[name] or "" for name in ("border", "growth", "itching", "site")]
        lines.append(",".join([f"{number}.png", phantom.CLASS_NAMES[label], *cells]))
    lines.append(",nevus,smooth,,,")  # a case without an image is left out
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "weights.pth")


def test_fusions_are_compared_on_a_user_s_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path, 120)
    columns = ["--data", "cases.csv", "--image", "file", "--label", "kind"]
    backbone = ["--backbone", "test_vit", "--weights", "weights.pth"]
    methods = ["--methods", "image only", "alignedfusion"]
    line = ["examples", "run", "compare_fusions", *columns, *backbone, *methods, "--seeds", "2", "--epochs", "4"]
    assert cli.main(line) == 0
    out = capsys.readouterr().out
    training, test = map(int, re.search(r"(\d+) training cases, (\d+) test cases", out).groups())
    assert training + test == 120
    image_only = [share(out, "image only", column) for column in range(0, 6, 2)]
    assert len(set(image_only)) == 1  # it ignores reports
    assert share(out, "alignedfusion") > most_frequent(out)


def test_without_an_extra_the_example_names_it(monkeypatch):
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("compare_fusions", "train_a3d_deeplesion"):
        with pytest.raises(SystemExit, match=r"this example needs .*: pip install 'alignedfusion\[train\]'"):
            cli.main(["examples", "run", name])


def test_the_server_tries_itself(capsys):
    assert cli.main(["examples", "run", "serve_model", "--try", "--cases", "64"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out[out.index("{") :])
    assert set(answer["classes"]) == set(phantom.CLASS_NAMES)
    assert set(answer["attributes"]) == set(phantom.SCHEMA.names) - {"growth"}


def huge_png(side):
    """A PNG of side x side pixels, by its header alone."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def status_of(url, length):
    """The status of a request with this Content-Length and no body."""
    with socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(url).port), timeout=60) as connection:
        connection.sendall(f"POST / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
        return int(connection.makefile().readline().split()[1])


def test_a_served_model_answers_as_predict_does_and_stops_on_ctrl_c(tmp_path):
    model = standard(
        phantom.SCHEMA, phantom.CLASS_NAMES, backbone=Backbone("test_vit", pretrained=False, image_size=64), dim=64
    )
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(phantom.make(1).images[0]).save(tmp_path / "case.png")
    line = command("examples", "run", "serve_model", "--model", "model", "--port", "0", without=EXTRAS)
    server = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline()).group()
        image = base64.b64encode((tmp_path / "case.png").read_bytes()).decode()

        def ask(body):
            with urllib.request.urlopen(url, body.encode(), timeout=60) as reply:
                return json.load(reply)

        told = {"growth": "growing", "age": 54}
        answer = ask(json.dumps({"image": image, "attributes": told}))
        expected = predict_case(tmp_path / "model", [tmp_path / "case.png"], told)
        assert answer == expected  # the same keys, the same rounded probabilities
        assert set(answer) == {"predicted", "classes", "attributes"}
        assert set(answer["attributes"]) == set(phantom.SCHEMA.names) - set(told)

        for body, words in {
            json.dumps({"image": image, "attributes": {"groth": "growing"}}): "did you mean 'growth'",
            json.dumps({"image": image, "attributes": {"growth": "slow"}}): "is not a known value",
            json.dumps({"image": "no base64"}): "not base64 of a PNG",
            json.dumps({"attributes": {}}): "send {",
            "not json": "Expecting value",
            "[" * 100_000: "nested too deeply",
            json.dumps({"image": image, "attributes": [1]}): "attributes must be an object",
            json.dumps({"image": image, "attributes": {"age": 10**400}}): "age",
            json.dumps(
                {"image": base64.b64encode(huge_png(9_000)).decode()}
            ): "81,000,000 pixels; 50,000,000 is the most",
            json.dumps(
                {"image": base64.b64encode(huge_png(90_000)).decode()}
            ): "too many pixels; 50,000,000 is the most",
        }.items():
            with pytest.raises(urllib.error.HTTPError, match="400") as caught:
                ask(body)
            with caught.value as reply:
                assert words in json.load(reply)["error"]
        for length, status in (("+5", 411), ("5_0", 411), ("²", 411), ("9" * 4000, 413), ("-1", 411)):
            assert status_of(url, length) == status
        assert ask(json.dumps({"image": image}))["classes"]  # the server still runs
    finally:
        server.send_signal(signal.SIGINT)
        out, errors = server.communicate(timeout=60)
    assert (server.returncode, out.strip(), errors) == (0, "stopped", "")


# The command.


def test_the_list_has_every_example_with_its_summary(capsys):
    assert cli.main(["examples"]) == 0
    out = capsys.readouterr().out
    for path in (ROOT / "examples").glob("*.py"):
        first = path.read_text("utf-8").split('"""')[1].splitlines()[0]
        assert f"{path.stem}\n    {first}\n" in out
    needs = {name: example.needs for name, example in example_files.find_examples().items()}
    for name in ON_CORE:
        assert needs[name].startswith("Needs nothing but alignedfusion itself; ")
        assert needs[name] in out
    assert needs["compare_fusions"].startswith("Needs alignedfusion[train]; ")
    assert "HEAVY" in needs["train_a3d_deeplesion"]


def test_the_readme_lists_them_all_and_its_commands_run(tmp_path, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text().split("## Examples\n")[1].split("\n## ")[0]
    assert set(re.findall(r"\]\(examples/(\w+)\.py\)", section)) == set(example_files.find_examples())
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^alignedfusion (examples(?: copy)?(?: \w+)?)", section, flags=re.MULTILINE)
    assert len(lines) == 3
    for line in (line for line in lines if " run" not in line):  # run above
        assert cli.main(line.split()) == 0
    assert "quickstart" in capsys.readouterr().out


@pytest.fixture
def only(monkeypatch, tmp_path):
    """Replace all examples by one with this text."""

    def only(text):
        path = tmp_path / "mine.py"
        path.write_text(text)
        example = example_files.Example("mine", path, "", "")
        monkeypatch.setattr(example_files, "find_examples", lambda: {"mine": example})

    return only


def test_an_example_gets_its_arguments_as_if_run_by_python(only, capsys, tmp_path):
    only("import sys\nif __name__ == '__main__':\n    print(sys.argv)\n")
    before = list(sys.argv)
    assert cli.main(["examples", "run", "mine", "--help", "-o", "x", "--", "y"]) == 0
    assert capsys.readouterr().out.strip() == str([str(tmp_path / "mine.py"), "--help", "-o", "x", "--", "y"])
    assert sys.argv == before


def test_ctrl_c_ends_an_example_without_a_traceback(only, capsys):
    only("raise KeyboardInterrupt\n")
    with pytest.raises(SystemExit, match="130"):
        cli.main(["examples", "run", "mine"])
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_an_unknown_name_gets_similar_names(capsys):
    for action in ("run", "copy"):
        assert cli.main(["examples", action, "quikstart"]) == 2
        assert "no example 'quikstart'; similar names: quickstart" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"the examples are compare_fusions, .*three_modalities"):
        example_files.find_example("xyz")


def test_copies_are_the_same_and_never_overwrite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, example in example_files.find_examples().items():
        assert cli.main(["examples", "copy", name]) == 0
        assert f"python {name}.py" in capsys.readouterr().out
        assert (tmp_path / f"{name}.py").read_bytes() == example.path.read_bytes()
    (tmp_path / "quickstart.py").write_text("edited")
    assert cli.main(["examples", "copy", "quickstart"]) == 2
    assert "'quickstart.py' exists already" in capsys.readouterr().err
    assert (tmp_path / "quickstart.py").read_text() == "edited"
    (tmp_path / "folder").mkdir()
    assert example_files.copy("quickstart.py", "folder") == Path("folder/quickstart.py")


# With their defaults, and from a wheel.


@pytest.mark.slow
def test_quickstart_as_it_is(run):
    out = run("quickstart")
    complete, half, none = (share(out, rate) for rate in ("0%", "50%", "100%"))
    assert complete > half > none > most_frequent(out) + 20
    assert complete > 75
    for rate in ("25%", "50%", "75%", "100%"):
        assert share(out, rate, 1) > share(out, rate, 2) + 5


@pytest.mark.slow
def test_each_modality_improves_the_accuracy(run):
    out = run("three_modalities")
    for withheld in ("ultrasound", "report", "photo and ultrasound"):
        assert share(out, "nothing") > share(out, withheld) + 2


@pytest.mark.slow
def test_reports_help_as_it_is(run):
    out = run("reports_to_prediction")
    assert share(out, "with reports") > share(out, "without") + 8


@pytest.mark.slow
def test_the_age_needs_the_report(run):
    out = run("own_backbone_and_head")
    errors = [share(out, f"{rate}% of the report missing") for rate in (0, 50, 100)]
    assert errors == sorted(errors)
    assert errors[0] < share(out, "always the median") - 1.5


@pytest.mark.slow
def test_every_fusion_beats_single_modalities_on_drawn_lesions(run):
    out = run("compare_fusions", without=())
    parts = max(share(out, "image only", 2), share(out, "attributes only", 2))
    for fusion in ("sum", "concatenation", "cross-attention", "joint self-attention", "alignedfusion"):
        assert share(out, fusion, 2) > parts + 2  # at 50 % missing


@pytest.mark.slow
def test_the_wheel_contains_the_examples(tmp_path):
    line = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    files = {
        p.relative_to(ROOT) for p in (ROOT / "examples").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    there = {
        p.relative_to(site / "alignedfusion") for p in (site / "alignedfusion" / "examples").rglob("*") if p.is_file()
    }
    assert there == files

    line = [
        sys.executable,
        "-m",
        "alignedfusion",
        "examples",
        "run",
        "quickstart",
        "--cases",
        "64",
        "--epochs",
        "1",
    ]
    done = subprocess.run(
        line, cwd=site, capture_output=True, text=True, check=True
    )  # not the checkout: cwd comes first
    assert "in truth" in done.stdout
    where = "import alignedfusion.commands.examples as e; print(e.find_example('quickstart').path)"
    path = subprocess.run([sys.executable, "-c", where], cwd=site, capture_output=True, text=True, check=True).stdout
    assert Path(path.strip()) == site / "alignedfusion" / "examples" / "quickstart.py"
