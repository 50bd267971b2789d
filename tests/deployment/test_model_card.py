import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alignedfusion import AlignedFusionClassifier, Attribute, AttributeSchema, IntermediateTokenFusion, VisualTokenizer
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.datasets.columns import CaseColumns
from alignedfusion.datasets.manifest import Manifest
from alignedfusion.deployment import card_results, model_card
from alignedfusion.evaluation import Metrics
from alignedfusion.modules.card import code as inline_code
from alignedfusion.training import TrainingSettings, runs

ROW = {"missing": 0.0, "accuracy": 0.8, "balanced_accuracy": 0.75, "macro_auc": 0.9, "calibration_error": 0.04}
REPORT = {
    "missing": [ROW, {**ROW, "missing": 0.5, "accuracy": 0.6, "macro_auc": float("nan")}],
    "most_frequent_class": 0.4,
    "cases": {"test": 100},
}


class OwnVisual(nn.Linear):
    pass


class OwnFusion(IntermediateTokenFusion):
    pass


COLUMNS = CaseColumns(images="file", label="kind", split="part_of", subgroups="sign")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on 60 cases of token files; a quarter of its `sign` cells is empty."""
    folder = tmp_path_factory.mktemp("private")
    random = np.random.default_rng(0)
    rows = []
    for i in range(60):
        np.save(folder / f"{i}.npy", random.normal(0, 1, (5, 7)).astype(np.float16))
        part = ("train", "train", "train", "valid", "test", "test")[i // 10]
        sign = ("+", "-", None, "-")[i % 4]
        rows.append({"file": f"{i}.npy", "kind": "ab"[i % 3 == 0], "sign": sign, "age": 20.0 + i, "part_of": part})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    manifest = Manifest.read(folder / "cases.csv", COLUMNS, changes={"age": {"units": "years"}})
    runs.train(manifest, folder / "run", dim=64, settings=TrainingSettings(epochs=2), progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def card(run):
    return (run / "README.md").read_text()


def section(card, name):
    return re.search(rf"^## {name}\n\n(.*?)(?=^## |^<!--)", card, flags=re.DOTALL | re.MULTILINE)[1]


def cells(text):
    """The cells of a Markdown table as rendered."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [[html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in row] for row in found if set(row) != {"---"}]


def code(card):
    return re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]


def test_a_run_counts_its_cases_by_split_and_class(card):
    text = section(card, "Training data")
    assert text.startswith(
        "30 training, 10 validation, 20 test cases of the table `cases.csv`, labelled by the column `kind`."
    )
    assert cells(text) == [
        ["class", "training", "validation", "test"],
        ["a", "20", "6", "14"],
        ["b", "10", "4", "6"],  # rows whose number three divides: 0 to 27, 30 to 39, 42 to 57
    ]


def test_the_attributes_of_a_run_are_a_table(card):
    edges = ", ".join(f"{edge:g}" for edge in np.quantile(np.arange(20, 50), [0.25, 0.5, 0.75]))
    assert cells(section(card, "Attributes")) == [
        ["attribute", "values", "unit", "training cases that mention it"],
        ["sign", "+, -", "", "77 %"],  # seven of thirty rows have none
        ["age", f"a number, divided at {edges}", "years", "100 %"],
    ]


def test_the_metrics_are_those_of_the_run(card, run):
    report = json.loads((run / "metrics.json").read_text())
    head, *rows = cells(section(card, "Metrics by missing attributes"))
    names = ["missing", *(name.replace(" ", "_").removeprefix("expected_").lower() for name in head[1:5])]
    assert head[5:] == ["accuracy, image only", "accuracy, attributes only"]
    for row, measured, alone in zip(rows, report["missing"], report["attributes_only"], strict=True):
        expected = [measured[name] if name == "macro_auc" else 100 * measured[name] for name in names]
        expected += [100 * report["image_only"]["accuracy"], 100 * alone["accuracy"]]
        assert [float(cell.rstrip(" %")) for cell in row] == pytest.approx(expected, abs=0.0501)
    assert f"the most frequent class is {100 * report['most_frequent_class']:.1f} % of the test cases" in card


def test_the_metrics_of_each_class_are_those_of_the_run(card, run):
    found = Metrics.from_dict(json.loads((run / "metrics.json").read_text())["test"])
    text = section(card, "Metrics")
    assert text.startswith(
        "20 test cases as they are; low and high are the ends of the 95% interval (bootstrap of cases)"
    )
    rows = {row[0]: row[1:] for row in cells(text)}
    assert rows["macro f1"] == [f"{number:.3f}" for number in found.overall["macro_f1"]]
    assert rows["a"][:2] == ["14", f"{100 * found.classes['a']['precision'].value:.1f} %"]
    assert "12.5 % of all cells are unmentioned already" in section(card, "Metrics by missing attributes")


def test_the_subgroups_of_a_run_are_a_table(card, run):
    found = json.loads((run / "metrics.json").read_text())["subgroups"]["sign"]
    text = section(card, "Subgroups")
    assert (
        "Fewer than 50 cases, too few to conclude from: sign + (5), sign - (10), sign (not recorded) (5)."
        in text.replace("\\", "")
    )
    assert [row[:3] for row in cells(text)[1:]] == [
        ["sign", "+", "5 !"],
        ["sign", "-", "10 !"],
        ["sign", "(not recorded)", "5 !"],
    ]
    assert cells(text)[1][3].startswith(f"{100 * found['+']['overall']['accuracy'][0]:.1f} %")


def test_a_hub_reads_the_head_of_a_card(card, run):
    report = json.loads((run / "metrics.json").read_text())
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("alignedfusion", "image-classification", None)
    assert data.model_name == "kind from images and incomplete reports"
    assert len(data.eval_results) == 5 * len(report["missing"])
    found = {(e.dataset_config, e.metric_type): e.metric_value for e in data.eval_results}
    for row in report["missing"]:
        config = f"{100 * row['missing']:.0f} % of the attributes missing"
        assert found[config, "accuracy"] == pytest.approx(row["accuracy"], abs=1e-4)
        assert found[config, "roc_auc"] == pytest.approx(row["macro_auc"], abs=1e-4)
    assert {(e.dataset_type, e.dataset_split) for e in data.eval_results} == {("cases.csv", "test")}


def test_no_case_and_no_path_of_this_machine_is_in_a_card(card, run):
    assert str(run.parent) not in card
    assert "/" not in card
    assert not re.search(r"\d+\.npy", card)


def test_the_path_of_local_weights_is_not_in_the_card(schema, build):
    visual = VisualTokenizer("test_vit", 38, pretrained=False)
    settings = {"label": "kind", "model": {"backbone": {"pretrained": "/home/somebody/weights.pth"}}}
    card = model_card.render(build(schema, visual=visual), settings=settings)
    assert "The backbone started from the weights in a local file." in card
    assert "somebody" not in card


def test_the_same_run_writes_the_same_card(run, card):
    model = AlignedFusionClassifier.from_pretrained(run)
    report, settings = (json.loads((run / name).read_text()) for name in ("metrics.json", "settings.json"))
    assert model_card.render(model, report=report, settings=settings) == card


def test_unknown_sections_are_left_out(schema, build):
    card = model_card.render(build(schema))
    assert not re.search(r"^## (Training data|Metrics)|model-index|mention it|None|nan", card, flags=re.MULTILINE)
    assert "not fitted to any cases): image 0.50, report 0.50, fused 0.25" in section(card, "Calibration")
    assert "## Calibration" not in model_card.render(build(schema, unimodal_heads=False))


def test_metrics_without_a_run_are_the_given_ones(schema, build):
    card = model_card.render(build(schema), report=REPORT)
    text = section(card, "Metrics by missing attributes")
    assert "Chance level: the most frequent class is 40.0 % of the test cases." in text
    assert cells(text)[2] == ["50 %", "60.0 %", "75.0 %", "4.0 %", "-"]
    assert "## Training data" not in card
    metrics = [e.metric_type for e in ModelCard(card).data.eval_results]
    assert (metrics.count("accuracy"), metrics.count("roc_auc")) == (2, 1)


@pytest.mark.parametrize("kind", ["tokens", "image", "one for all", "one for each", "report", "plain"])
def test_the_code_of_a_card_runs_in_its_folder(kind, schema, build, tmp_path, monkeypatch):
    backbone = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32)
    both = {"clinical": VisualTokenizer(None, 38, num_features=13), "dermoscopy": backbone}
    model = {
        "tokens": lambda: build(schema),
        "image": lambda: build(schema, visual=backbone),
        "one for all": lambda: build(schema, visual=backbone, modalities=("clinical", "dermoscopy", "report")),
        "one for each": lambda: build(schema, visual=both, modalities=("clinical", "dermoscopy", "report")),
        "report": lambda: build(schema, fusion=JointSelfAttention(38, modalities=("report",), num_heads=2)),
        "plain": lambda: build(schema, fill=None, unimodal_heads=False),
    }[kind]()
    model.save_pretrained(tmp_path)
    card = model_card.write(model, tmp_path).read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code(card), "README.md", "exec"), names)  # generated above
    assert names["output"].logits.shape == (1, 17)
    assert names["codes"].tolist() == [[0, 0, -1]]
    assert torch.equal(names["model"].state_dict()["head.2.weight"], model.state_dict()["head.2.weight"])
    assert ModelCard(card).data.pipeline_tag == ("tabular" if kind == "report" else "image") + "-classification"


def test_a_comment_shows_the_code_for_a_real_image(schema, build):
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32)
    assert 'model.visuals[\'image\'].transform()(Image.open("case.png").convert("RGB"))[None]' in code(
        model_card.render(build(schema, visual=visual))
    )


def test_modules_of_the_owner_must_be_passed(schema, build):
    card = model_card.render(build(schema, visual=OwnVisual(13, 38), fusion=OwnFusion(38, num_heads=2)))
    assert 'from_pretrained(".", visual=OwnVisual(...), fusion=OwnFusion(...))' in code(card)
    assert "modules of its owner" in section(card, "How to use")


def test_an_edited_card_is_kept_and_a_generated_one_is_replaced(schema, build, tmp_path):
    path = model_card.write(build(schema), tmp_path)
    assert model_card.is_generated(path.read_text())
    model_card.write(build(schema), tmp_path, report=REPORT)
    assert "80.0 %" in path.read_text()
    edited = path.read_text().replace("80.0 %", "99.9 %")
    for text in (edited, "", "Mine.\n", path.read_text().partition("<!--")[0]):
        path.write_text(text)
        assert not model_card.is_generated(text)
        model_card.write(build(schema), tmp_path, report=REPORT)
        assert path.read_text() == text
        assert model_card.with_name(text, "clinic/skin") == text


def test_a_card_loads_the_model_by_its_repository_name(schema, build):
    card = model_card.render(build(schema))
    named = model_card.with_name(card, "clinic/skin")
    assert code(named) == code(card).replace('from_pretrained(".")', 'from_pretrained("clinic/skin")') != code(card)
    assert model_card.is_generated(named)
    assert model_card.with_name(named, ".") == card


words = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and text != "UN")


@given(name=words, values=st.lists(words, min_size=1, max_size=4, unique_by=lambda text: " ".join(text.split())))
def test_names_of_any_characters_do_not_break_the_card(name, values, build):
    schema = AttributeSchema([Attribute(name, values=values), Attribute("last", values=("seen", "not seen"))])
    card = model_card.render(
        build(schema, class_names=[f"{name}{i}" for i in range(17)]), settings={"label": name}, report=REPORT
    )
    assert model_card.is_generated(card)
    assert ModelCard(card).data.model_name == f"{' '.join(name.split())} from images and incomplete reports"
    _, first, last = cells(section(card, "Attributes"))
    assert first == [" ".join(name.split()), " ".join(", ".join(schema.attributes[0].values).split()), ""]
    assert last[:2] == ["last", "seen, not seen"]


def test_only_the_first_values_of_many_are_listed(build):
    schema = AttributeSchema([Attribute("site", values=[f"s{i}" for i in range(50)])])
    assert cells(section(model_card.render(build(schema)), "Attributes"))[1][1].endswith("s10, s11 and 38 more")


def test_inline_code_may_have_any_text():
    assert inline_code("a `b`\n c.csv") == "`a 'b' c.csv`"


def test_the_worth_of_the_attributes_is_that_of_the_run(run, card):
    attributes = json.loads((run / "metrics.json").read_text())["permuted"]["attributes"]
    head, *rows = cells(section(card, "Worth of the attributes"))
    assert head[2:] == ["points of accuracy lost", "low", "high"]
    ranked = sorted(attributes.items(), key=lambda item: -item[1]["worth"][0])
    assert rows == [
        [name, f"{100 * row['mentioned']:.0f} %", *(f"{100 * number:.1f}" for number in row["worth"])]
        for name, row in ranked
    ]


def test_a_report_without_permutations_has_no_such_section():
    assert card_results.worth(REPORT) == ""
    assert "image only" not in card_results.results(REPORT)
