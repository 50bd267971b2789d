import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alignedfusion import AttributeTokenizer, VisualTokenizer
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.commands import main as cli
from alignedfusion.deployment.export import export, metadata, to_onnx

# Older releases of torch warn about constants in their own programs.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),
    pytest.mark.filterwarnings("ignore:Node .* does not reference an nn.Module"),
]


class OwnVisual(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(13, 38)

    def forward(self, image):
        return self.project(image[: len(image)])


CASES = ["everything", "pixels", "examples given", "report alone"]


def model_and_shapes(case, schema, build):
    """A model, the shape of one case of each image (None: any number of tokens), and arguments of the export."""
    if case == "everything":
        visual = {
            "close-up": VisualTokenizer(None, 38, num_features=13),
            "far": VisualTokenizer(None, 38, num_features=7),
        }
        tokenizer = AttributeTokenizer(schema, 38, text_encoder=torch.randn(10, 23))
        model = build(schema, visual=visual, tokenizer=tokenizer, modalities=(*visual, "report"), depth=1)
        model.set_class_counts(range(17))
        return model, {"close-up": (None, 13), "far": (None, 7)}, {"has_padding": True}
    if case == "pixels":
        visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=64)
        return build(schema, visual=visual), {"image": (3, 64, 64)}, {}
    if case == "examples given":
        visual = {"own": OwnVisual(), "precomputed": VisualTokenizer("test_convnext", 38, pretrained=False)}
        fusion = JointSelfAttention(38, modalities=(*visual, "report"), num_heads=2, depth=1)
        model = build(schema, visual=visual, fusion=fusion, fill=None, unimodal_heads=False)
        image = {"own": torch.randn(2, 5, 13), "precomputed": torch.randn(2, 3, 64)}
        return model, {"own": (None, 13), "precomputed": (None, 64)}, {"image": image}
    fusion = JointSelfAttention(38, modalities=("report",), num_heads=2, depth=1)
    return build(schema, fusion=fusion, fill="two_pass"), {}, {}


class Exported:
    """A model, its file, and inputs for both."""

    def __init__(self, case, schema, build, folder):
        self.case, self.schema = case, schema
        model, self.shapes, arguments = model_and_shapes(case, schema, build)
        self.model = model.eval()
        self.file = folder / "model.onnx"
        to_onnx(self.model, self.file, **arguments)
        self.session = onnxruntime.InferenceSession(self.file)
        self.has_padding = arguments.get("has_padding", False)

    def inputs(self, rows, seed, missing):
        """Random images, codes, absent images and padding; absent and padded inputs are NaN."""
        generator = torch.Generator().manual_seed(seed)
        is_unknown = torch.rand(rows, len(self.schema), generator=generator) < missing
        codes = (torch.rand(is_unknown.shape, generator=generator) * torch.tensor(self.schema.num_values)).long()
        image, is_present, is_valid = {}, {}, {}
        for m, shape in self.shapes.items():
            size = [int(torch.randint(1, 20, (), generator=generator)) if s is None else s for s in shape]
            image[m] = torch.randn(rows, *size, generator=generator)
            is_present[m] = torch.rand(rows, generator=generator) < 0.7
            image[m][~is_present[m]] = torch.nan
            if self.has_padding:
                is_valid[m] = torch.rand(rows, size[0], generator=generator) < 0.7
                image[m][~is_valid[m]] = torch.nan
        return image, codes.masked_fill(is_unknown, -1), is_present, is_valid

    def run_onnx(self, image, codes, is_present, is_valid):
        feed = {
            **image,
            "codes": codes,
            **{f"is_present_{m}": mask for m, mask in is_present.items()},
            **{f"is_valid_{m}": mask for m, mask in is_valid.items()},
        }
        answer = self.session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        names = [output.name for output in self.session.get_outputs()]
        return {name: torch.from_numpy(array) for name, array in zip(names, answer, strict=True)}


@pytest.fixture(scope="module")
def program(exported, tmp_path_factory):
    """The model of the case "everything" as a saved and loaded program, and its file."""
    file = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(export(exported("everything").model, has_padding=True), file)
    return torch.export.load(file).module(), file


@pytest.fixture(scope="module")
def exported(schema, build, tmp_path_factory):
    made = {}

    def exported(case):
        if case not in made:
            made[case] = Exported(case, schema, build, tmp_path_factory.mktemp("export"))
        return made[case]

    return exported


PATTERNS = {"rows": st.integers(1, 7), "seed": st.integers(0, 2**32), "missing": st.sampled_from([0.0, 0.5, 1.0])}


def assert_same(answer, it, inputs, tolerance):
    image, codes, is_present, is_valid = inputs
    with torch.no_grad():
        out = it.model(image, codes, is_present=is_present, is_valid=is_valid)
    expected = {**out, "probabilities": out.logits.softmax(-1)}
    assert answer.keys() == expected.keys()
    assert answer["logits"].isfinite().all()
    for name in expected:
        torch.testing.assert_close(answer[name], expected[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_file_predicts_as_the_model_with_missing_inputs(case, exported):
    it = exported(case)

    @given(**PATTERNS)
    def check(rows, seed, missing):
        inputs = it.inputs(rows, seed, missing)
        assert_same(it.run_onnx(*inputs), it, inputs, 1e-4)

    check()


def test_the_program_predicts_as_the_model_with_missing_inputs(exported, program):
    it = exported("everything")

    @given(**PATTERNS)
    def check(rows, seed, missing):
        inputs = it.inputs(rows, seed, missing)
        assert_same(program[0](*inputs), it, inputs, 1e-5)

    check()


def test_full_masks_equal_no_masks(exported):
    it = exported("everything")
    image, codes, is_present, is_valid = it.inputs(5, 0, 0.5)
    image = {m: torch.randn(pixels.shape) for m, pixels in image.items()}
    full = ({m: torch.ones_like(mask) for m, mask in masks.items()} for masks in (is_present, is_valid))
    answer = it.run_onnx(image, codes, *full)
    torch.testing.assert_close(answer["logits"], it.model(image, codes).logits.detach(), atol=1e-4, rtol=0)


def test_sizes_and_names_of_the_file(exported):
    session = exported("everything").session
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "close-up": ("tensor(float)", ["batch", "tokens_0", 13]),
        "far": ("tensor(float)", ["batch", "tokens_1", 7]),
        "codes": ("tensor(int64)", ["batch", 3]),
        "is_present_close-up": ("tensor(bool)", ["batch"]),
        "is_present_far": ("tensor(bool)", ["batch"]),
        "is_valid_close-up": ("tensor(bool)", ["batch", "tokens_0"]),
        "is_valid_far": ("tensor(bool)", ["batch", "tokens_1"]),
    }
    assert {o.name: o.shape for o in session.get_outputs()} == {
        "logits": ["batch", 17],
        "probabilities": ["batch", 17],
        "reconstruction": ["batch", 3, 5],
        "intermediate": ["batch", 3, 38],
        "contributions": ["batch", 3, 17],
    }
    assert exported("everything").file.stat().st_size > 4 * sum(
        p.numel() for p in exported("everything").model.parameters()
    )


@pytest.mark.parametrize(("column", "code"), [(0, 3), (1, 2), (2, 5), (0, -2), (1, 2**40)])
def test_a_code_out_of_range_is_an_error(column, code, exported, program):
    it = exported("everything")
    image, codes, is_present, is_valid = it.inputs(3, 0, 0.5)
    codes[1, column] = code
    with pytest.raises(IndexError, match="out of bounds"):
        program[0](image, codes, is_present, is_valid)
    with pytest.raises(Exception, match="invalid index found"):
        it.run_onnx(image, codes, is_present, is_valid)


def test_the_metadata_describe_how_to_encode_a_report(exported):
    stored = exported("pixels").session.get_modelmeta().custom_metadata_map
    known = {key: json.loads(value) for key, value in stored.items()}
    schema, model = exported("pixels").schema, exported("pixels").model
    assert known == json.loads(json.dumps(metadata(model)))
    assert known["class_names"] == [str(c) for c in range(17)]
    assert known["branches"] == ["image", "report", "fused"]
    assert known["preprocessing"]["image"]["input_size"] == [3, 64, 64]
    assert known["preprocessing"]["image"]["mean"] == list(model.visual.preprocessing["mean"])

    def encode(row):
        """Encode a report from the metadata alone."""
        codes = []
        for attribute in known["attributes"]:
            cell = row.get(attribute["name"])
            if cell is None:
                codes.append(known["unknown"])
            elif attribute["kind"] == "numeric":
                codes.append(sum(edge <= cell for edge in attribute["edges"]))
            else:
                codes.append(attribute["values"].index(cell))
        return codes

    rows = [{}, {"elevation": "nodular", "age": 30}, {"ulceration": "present", "age": 29.9}, {"age": 75.0}, {"age": 80}]
    assert [encode(row) for row in rows] == schema.encode(rows).tolist()
    labels = [attribute["values"] for attribute in known["attributes"]]
    assert labels == [list(attribute.values) for attribute in schema]


FORBID = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbid())
"""


def run_without(forbidden, script, *arguments):
    code = f"FORBIDDEN = {sorted(forbidden)}\n{FORBID}\n{script}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_saved_model_predicts_without_transformers_and_timm(schema, build, batch, tmp_path):
    image, codes, _ = batch(schema)
    logits = []
    for name, vectors in (("learned", None), ("text", torch.randn(10, 23))):
        model = build(schema, tokenizer=AttributeTokenizer(schema, 38, text_encoder=vectors)).eval()
        model.save_pretrained(tmp_path / name)
        logits.append(model(image, codes).logits)
    torch.save({"image": image, "codes": codes}, tmp_path / "in.pt")
    script = """
import torch
from alignedfusion import AlignedFusionClassifier
inputs, *folders, answer = sys.argv[1:]
models = [AlignedFusionClassifier.from_pretrained(folder) for folder in folders]
torch.save([model(**torch.load(inputs)).logits for model in models], answer)
"""
    forbidden = {"transformers", "timm", "huggingface_hub", "pandas", "sklearn", "accelerate", "torchvision"}
    run_without(forbidden, script, *(tmp_path / name for name in ("in.pt", "learned", "text", "out.pt")))
    again = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(again, logits)  # another process may sum in another order


def test_the_import_guard_raises():
    with pytest.raises(AssertionError, match="ImportError: timm is forbidden here"):
        run_without({"timm"}, "import timm.data")


def test_a_program_needs_only_torch(exported, program, tmp_path):
    inputs = exported("everything").inputs(5, 0, 0.5)
    torch.save(inputs, tmp_path / "in.pt")
    script = """
import torch
program = torch.export.load(sys.argv[1]).module()
torch.save(program(*torch.load(sys.argv[2]))["logits"], sys.argv[3])
"""
    run_without({"alignedfusion", "einops"}, script, program[1], tmp_path / "in.pt", tmp_path / "out.pt")
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), program[0](*inputs)["logits"])


def test_the_command_writes_the_same_file(exported, tmp_path, capsys):
    it = exported("report alone")
    it.model.save_pretrained(tmp_path / "run")
    file = tmp_path / "again.onnx"
    assert cli.main(["export", str(tmp_path / "run"), "-o", str(file)]) == 0
    assert capsys.readouterr().out.endswith(f"{file}: {file.stat().st_size / 1e6:.0f} MB\n")
    inputs = it.inputs(3, 0, 0.5)
    answer = onnxruntime.InferenceSession(file).run(["logits"], {"codes": inputs[1].numpy()})[0]
    assert np.array_equal(answer, it.run_onnx(*inputs)["logits"])


def test_a_quantized_file_is_smaller_and_predicts_nearly_the_same(exported, tmp_path):
    it = exported("report alone")
    it.model.save_pretrained(tmp_path / "run")
    file = tmp_path / "small.onnx"
    assert cli.main(["export", str(tmp_path / "run"), "-o", str(file), "--int8"]) == 0
    assert file.stat().st_size < it.file.stat().st_size
    session = onnxruntime.InferenceSession(file)
    known = it.session.get_modelmeta().custom_metadata_map
    assert known.items() <= session.get_modelmeta().custom_metadata_map.items()
    inputs = it.inputs(500, 0, 0.5)
    logits = it.run_onnx(*inputs)["logits"].numpy()
    answer = session.run(["logits"], {"codes": inputs[1].numpy()})[0]
    assert 1e-5 < np.abs(answer - logits).max() < 0.05 * (logits.max() - logits.min())


def test_without_an_extra_the_command_names_it(schema, build, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    fusion = JointSelfAttention(38, modalities=("report",), num_heads=2)
    build(schema, fusion=fusion).save_pretrained(tmp_path)
    assert cli.main(["export", str(tmp_path), "-o", str(tmp_path / "model.onnx")]) == 2
    assert "alignedfusion export needs onnxscript: pip install 'alignedfusion[onnx]'" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(schema, build, tmp_path):
    model = build(schema)
    with pytest.raises(ValueError, match=r"in training mode, where it hides attributes at random: call model.eval\(\)"):
        export(model)
    model.eval()
    with pytest.raises(ValueError, match="pass an example as image: the input of OwnVisual for 'image' is not known"):
        export(build(schema, visual=OwnVisual()).eval())
    for image, counts in ((torch.randn(1, 5, 13), r"\[1\]"), (torch.randn(0, 5, 13), r"\[0\]")):
        with pytest.raises(ValueError, match=f"the same number of cases of each modality, two or more; got {counts}"):
            export(model, image=image)
    with pytest.raises(ValueError, match=r"has_padding is for tokens \(B, N, F\), got images of \['image'\]"):
        export(model, image=torch.randn(2, 3, 8, 8), has_padding=True)
    with pytest.raises(ValueError, match="an image modality is called 'codes'"):
        to_onnx(build(schema, modalities=("codes", "report")).eval(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
