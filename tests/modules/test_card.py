import pytest
import yaml

from alignedfusion import AlignedFusionClassifier
from alignedfusion.modules import card


def test_saving_writes_a_card_that_names_classes_and_attributes_and_whose_code_runs(
    schema, build, tmp_path, monkeypatch
):
    build(schema, class_names=[f"class {i}" for i in range(17)]).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert card.is_generated(text)
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "alignedfusion"
    assert "17 classes (class 0, class 1" in text
    assert "| elevation | flat, palpable, nodular |" in text
    assert "Metrics" not in text  # nothing was measured

    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(text.split("```python\n")[1].split("```")[0], "README.md", "exec"), names)  # generated above
    assert names["output"].logits.shape == (1, 17)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("multilabel", "Predicts for each of 17 labels (0, 1, "),
        ("regression", "Predicts 17 numbers (0, 1, "),
    ],
)
def test_cards_of_other_tasks_name_what_is_predicted(task, text, schema, build, tmp_path, monkeypatch):
    build(schema, task=task).save_pretrained(tmp_path)
    written = (tmp_path / "README.md").read_text("utf-8")
    assert text in written
    assert "class" not in written.split("## Intended use")[1].split("## How to use")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(written.split("```python\n")[1].split("```")[0], "README.md", "exec"), names)  # generated above
    assert names["output"].logits.shape == (1, 17)


def test_a_card_is_kept_if_it_was_edited_or_the_model_is_the_same(schema, build, tmp_path):
    model = build(schema)
    model.save_pretrained(tmp_path)
    path = tmp_path / "README.md"
    measured = card.render(model, measured=["## Metrics\n\n75.0 %"])
    path.write_text(measured, "utf-8")
    AlignedFusionClassifier.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert path.read_text("utf-8") == measured  # the same weights

    model.branch_weights.mul_(2)
    model.save_pretrained(tmp_path)
    assert "75.0 %" not in path.read_text("utf-8")

    path.write_text("Mine.\n", "utf-8")
    build(schema, depth=1).save_pretrained(tmp_path)
    assert path.read_text("utf-8") == "Mine.\n"

    path.unlink()
    build(schema, depth=1).save_pretrained(tmp_path)
    assert card.is_generated(path.read_text("utf-8"))
