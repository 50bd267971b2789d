import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from alignedfusion import presets
from alignedfusion.commands import main as cli
from alignedfusion.datasets.cases import collate
from alignedfusion.modules.backbones import Backbone
from alignedfusion.pages import TrackRecord, single_case, table_cases, write_case, write_cases
from alignedfusion.pages.facts import read_facts
from alignedfusion.reports.showing import TableEvidence
from alignedfusion.tables.files import read_table


@pytest.fixture(scope="module")
def frame(folder):
    return read_table(folder / "table.csv")


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "saved"
    model.save_pretrained(path)
    (path / "settings.json").write_text(
        json.dumps({"images": ["file"], "label": "kind", "attributes": list(model.schema.names), "key": None})
    )
    return path


def rows_of(model, frame, folder, rows, **options):
    return table_cases(model, frame, rows, images=["file"], root=folder, **options)


def test_the_facts_are_those_of_a_forward_pass(model, frame, folder):
    cases = rows_of(model, frame, folder, [0, 1, 2, 3, 4])
    batch = collate([case.inputs for case in cases])
    with torch.no_grad():
        out = model(batch["image"], batch["codes"], is_present=batch["is_present"])
    for i, facts in enumerate(read_facts(model, [case.inputs for case in cases])):
        np.testing.assert_allclose(facts.probabilities, out.logits[i].softmax(-1), atol=1e-5)
        total = facts.prior + facts.baseline + sum(facts.images.values()) + facts.attributes.sum(0)
        np.testing.assert_allclose(total, facts.logits, atol=1e-4)
        assert sorted(facts.questions) == [a for a, code in enumerate(batch["codes"][i].tolist()) if code < 0]
        assert facts.uncertainty == pytest.approx(
            torch.distributions.Categorical(logits=out.logits[i]).entropy().item() / np.log(2), abs=1e-4
        )
        steps = [facts.against(term) for term in (facts.prior, facts.baseline, *facts.images.values())]
        assert sum(steps) + facts.against(facts.attributes.sum(0)) == pytest.approx(
            facts.against(facts.logits), abs=1e-3
        )


def test_without_text_a_page_holds_no_text_and_no_file_name(model, frame, folder, tmp_path):
    (case,) = rows_of(model, frame, folder, [3], label="kind")
    page = write_case(model, case, tmp_path / "case.html").read_text("utf-8")
    for secret in ("Pruritus", "chest", "P3.png"):
        assert secret not in page
    assert "This page holds" not in page
    assert frame["kind"][3] in page


def test_with_text_a_page_says_so_and_escapes_it(model, frame, folder, tmp_path):
    evidence = TableEvidence.read(folder / "table.csv.evidence.jsonl")
    (case,) = rows_of(model, frame, folder, [0], key=["file"], evidence=evidence)
    page = write_case(model, case, tmp_path / "case.html").read_text("utf-8")
    assert "This page holds the text of a report and cells that may identify a patient" in page
    assert "P0.png" in page
    assert "&lt;" in page
    assert "<cheek>" not in page
    # "crust: negative" is a value that this model cannot read, and its words are marked all the same.
    assert "The model cannot read the cells of crust" in page


def test_evidence_of_another_table_is_refused(model, frame, folder):
    evidence = TableEvidence.read(folder / "table.csv.evidence.jsonl")
    with pytest.raises(ValueError, match=r"row 0: 'itch' is None in the table and 'positive' in its evidence"):
        rows_of(model, frame.iloc[::-1].reset_index(drop=True).assign(itch="UN"), folder, [0], evidence=evidence)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([5], {}, r"there is no row 5: the table has rows 0 to 4"),
        ([0], {"key": ["patient"]}, "patient"),
    ],
)
def test_rows_and_columns_that_do_not_exist_are_refused(model, frame, folder, rows, options, message):
    with pytest.raises(ValueError, match=message):
        rows_of(model, frame, folder, rows, **options)


def test_a_case_needs_one_image_per_modality(model, folder):
    with pytest.raises(ValueError, match=r"takes one image each of \['image'\], got 2; a case that lacks one is a row"):
        single_case(model, [folder / "P0.png"] * 2, {})
    with pytest.raises(ValueError, match=r"does not exist"):
        single_case(model, [folder / "P9.png"], {})
    with pytest.raises(ValueError, match=r"one image each of \['image'\]; got the columns \['file', 'kind'\]"):
        table_cases(model, read_table(folder / "table.csv"), [0], images=["file", "kind"])


def test_an_absent_image_is_stated(model, frame, folder, tmp_path):
    (case,) = rows_of(model, frame, folder, [4])
    page = write_case(model, case, tmp_path / "case.html").read_text("utf-8")
    assert "This case has no image." in page


def test_the_index_is_sorted_by_uncertainty_and_links_to_every_page(model, frame, folder, tmp_path):
    cases = rows_of(model, frame, folder, [0, 1, 2, 3], label="kind")
    pages = write_cases(model, cases, tmp_path / "many", back="../report.html")
    index = (tmp_path / "many" / "index.html").read_text("utf-8")
    bits = [float(text) for text in re.findall(r"([\d.]+) bits", index)]
    assert bits == sorted(bits, reverse=True)
    assert len(bits) == 4
    assert {*re.findall(r'href="(row-\d+\.html)"', index)} == {page.name for page in pages}
    assert 'href="../report.html"' in index
    assert all('href="index.html"' in page.read_text("utf-8") for page in pages)


def test_a_model_without_reconstruction_and_on_tokens_has_a_page(build, schema, batch, tmp_path):
    model = build(schema, fill=None, unimodal_heads=False).eval()
    np.save(tmp_path / "tokens.npy", batch(schema, rows=1)[0][0].numpy())
    (case,) = single_case(model, [tmp_path / "tokens.npy"], {"age": 50})
    page = write_case(model, case, tmp_path / "case.html").read_text("utf-8")
    assert "This model does not reconstruct attributes" in page
    assert "precomputed tokens, no picture" in page


def test_the_record_counts_predictions_with_a_similar_probability():
    record = TrackRecord(np.array([0.71] * 12 + [0.79] * 4 + [0.8, 1.0]), np.array([True] * 12 + [False] * 6))
    assert record(0.75) == "Of 16 test predictions with a probability of 70 to 80 %, 12 (75 %) were right."
    assert record(0.8) == "Only 1 test predictions with a probability of 80 to 90 % exist: too few to check it."
    assert record(1.0).startswith("Only 1 test predictions with a probability of 90 to 100 %")


def test_the_command_writes_one_page_or_many(saved, folder, tmp_path, capsys):
    table = ["--table", str(folder / "table.csv")]
    one, many = tmp_path / "new" / "case.html", tmp_path / "many"
    assert cli.main(["explain", str(saved), *table, "--row", "2", "-o", str(one)]) == 0
    assert one.is_file()
    assert cli.main(["explain", str(saved), *table, "--rows", "0-2,4", "-o", str(many), "--with-text"]) == 0
    assert {path.name for path in many.iterdir()} == {"index.html", *(f"row-{i}.html" for i in (0, 1, 2, 4))}
    assert "holds report text" in capsys.readouterr().out
    assert "surface intact" in (many / "row-1.html").read_text("utf-8").lower()  # evidence beside the table is found
    files = ["--image", str(folder / "P0.png"), "--attributes", '{"age": 71}', "-o", str(one)]
    assert cli.main(["explain", str(saved), *files]) == 0
    assert "60 years or more" in one.read_text("utf-8")


def test_the_record_of_a_run_is_that_of_its_predictions(saved, model, folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    table = pd.DataFrame(
        {"kind": ["nevus"] * 30, "predicted": "nevus", **{f"p({name})": 0.25 for name in model.class_names}}
    )
    table["p(nevus)"] = 0.26
    table.to_csv(run / "predictions.csv", index=False)
    record = TrackRecord.of_run(run / "predictions.csv", "kind", model.class_names)
    assert "30 (100 %) were right" in record(0.22)
    assert (
        cli.main(
            ["explain", str(run), "--table", str(folder / "table.csv"), "--row", "0", "-o", str(tmp_path / "x.html")]
        )
        == 0
    )
    assert "test predictions with a probability of" in (tmp_path / "x.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--row", "1"], "--row belongs to --table"),
        (["--with-text"], "--with-text belongs to --table"),
        (["--table", "TABLE"], "needs --row K for one page, or --rows K-L"),
        (["--table", "TABLE", "--row", "0", "--attributes", "{}"], "--attributes is for one case"),
        (["--table", "TABLE", "--row", "0", "--evidence", "E"], "shown only with --with-text"),
        (["--table", "TABLE", "--row", "0", "--evidence", "E", "--with-text"], "there is no evidence at 'E'"),
        (["--attributes", "[1]"], "must be a JSON object"),
    ],
)
def test_options_that_do_not_go_together_are_refused(saved, folder, capsys, options, message):
    words = [str(folder / "table.csv") if word == "TABLE" else word for word in options]
    assert cli.main(["explain", str(saved), *words, "-o", "x.html"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["a", "3-1", "1-", ""])
def test_rows_that_cannot_be_read_are_refused(saved, capsys, rows):
    with pytest.raises(SystemExit):
        cli.main(["explain", str(saved), "--table", "t.csv", "--rows", rows, "-o", "x"])
    assert "rows are written like 0-49 or 3,14,20-25" in capsys.readouterr().err


def test_a_page_follows_the_decision_of_the_model_and_shows_its_set(lesions, folder, tmp_path):
    torch.manual_seed(1)
    backbone = Backbone("test_vit", pretrained=False, image_size=32)
    model = presets.standard(lesions, ("a", "b", "c"), backbone=backbone, dim=32).eval()
    model.set_class_counts([980, 10, 10])
    (case,) = single_case(model, [folder / "P0.png"], {"age": 71})
    page = write_case(model, case, tmp_path / "case.html").read_text("utf-8")
    assert "One case: a," in page
    assert "The most probable class is" not in page
    model.prior_exponent = 1.0  # the prior no longer counts: a rare class is predicted
    (facts,) = read_facts(model, [case.inputs])
    assert model.class_names[facts.predicted] != "a" or facts.ranking[0] == facts.predicted
    page = write_case(model, case, tmp_path / "case.html").read_text("utf-8")
    predicted = model.class_names[facts.predicted]
    assert f"One case: {predicted}," in page
    assert ("The most probable class is a." in page) == (predicted != "a")
