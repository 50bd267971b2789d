"""Predictions of all rows of a table equal those of single cases, also after interruptions."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from alignedfusion import AlignedFusionClassifier, Attribute, AttributeSchema, IntermediateTokenFusion, VisualTokenizer
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.commands import main as cli
from alignedfusion.datasets.images import read_image
from alignedfusion.deployment.prediction import PredictBatch, predict_case, predict_table
from alignedfusion.evaluation import PredictionSets
from alignedfusion.modules.reconstruction import MaskedTokenReconstructor
from alignedfusion.modules.tokenizers import AttributeTokenizer
from alignedfusion.presets import Backbone, standard

SCHEMA = AttributeSchema(
    [
        Attribute("elevation", values=("flat", "palpable", "nodular")),
        Attribute("itch", values=("absent", "present")),
        Attribute("age", kind="numeric", units="years", edges=(30.0, 60.0)),
    ]
)
ROWS = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model of two images, and a table of 23 cases with missing images and attributes."""
    folder = tmp_path_factory.mktemp("cases")
    torch.manual_seed(0)
    model = standard(
        SCHEMA,
        ("benign", "malignant"),
        backbone=Backbone("test_vit", pretrained=False, image_size=32),
        images=("photo", "scan"),
        dim=64,
    )
    model.set_class_counts([3, 5])
    model.save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        for kind in ("photo", "scan"):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{kind}{number}.png")
        rows.append(
            {
                "id": f"case {number}",
                "photo": f"photo{number}.png" if number % 5 else None,
                "scan": f"scan{number}.png" if number % 3 or number % 5 == 0 else None,
                "elevation": (None, "flat", "nodular")[number % 3],
                "itch": ("present", None)[number % 2],
                "age": None if number % 4 == 0 else 10.0 + 3 * number,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return folder


@pytest.fixture
def frame(folder):
    return pd.read_csv(folder / "cases.csv")


def test_a_row_has_the_prediction_of_the_single_case(folder, frame, tmp_path):
    frame = frame[frame["photo"].notna() & frame["scan"].notna()]
    table = predict_table(folder / "model", frame, tmp_path / "t.csv", root=folder, batch_size=5, progress=False)
    assert list(table.index) == list(frame.index)
    pd.testing.assert_frame_equal(table[list(frame)], frame)
    for (_, row), (_, case) in zip(table.iterrows(), frame.iterrows(), strict=True):
        mentioned = {name: case[name] for name in SCHEMA.names if pd.notna(case[name])}
        alone = predict_case(folder / "model", [folder / case["photo"], folder / case["scan"]], mentioned)
        for name, chance in alone["classes"].items():
            assert row[f"p({name})"] == pytest.approx(chance, abs=6e-5)  # four digits
        assert row["predicted"] == alone["predicted"] == max(alone["classes"], key=alone["classes"].get)
        for name in SCHEMA.names:
            if name in mentioned:
                assert pd.isna(row[f"filled({name})"])
                assert pd.isna(row[f"p(filled({name}))"])
            else:
                guess = max(alone["attributes"][name], key=alone["attributes"][name].get)
                assert row[f"filled({name})"] == guess
                assert row[f"p(filled({name}))"] == pytest.approx(alone["attributes"][name][guess], abs=6e-5)


def test_a_table_has_the_decision_and_the_set_of_the_model(folder, frame, tmp_path):
    model = AlignedFusionClassifier.from_pretrained(folder / "model")
    model.set_class_counts([97, 3])
    model.prior_exponent = 1.0
    rng = np.random.default_rng(0)
    sets = PredictionSets.calibrate(
        rng.dirichlet(np.ones(2), (1, 50)), rng.integers(0, 2, 50), rng.random((1, 50)), offsets=[0.0, 3.0]
    )
    model.prediction_sets = sets.to_dict()
    model.save_pretrained(tmp_path / "model")
    table = predict_table(tmp_path / "model", frame, tmp_path / "t.csv", root=folder, progress=False)
    benign, malignant = table["p(benign)"], table["p(malignant)"]
    assert (table["most_probable"] == np.where(benign > malignant, "benign", "malignant")).all()
    assert (table["predicted"] == np.where(benign / 98 > malignant / 4, "benign", "malignant")).all()
    assert (table["predicted"] != table["most_probable"]).any()
    codes = model.schema.encode(frame, unseen="unknown")
    expected = sets(np.stack([benign, malignant], axis=1), (codes >= 0).double().mean(1).numpy())
    assert [name in cell.split("; ") for cell in table["set"] for name in ("benign", "malignant")] == list(
        expected.ravel()
    )


def with_nan(table):
    """Equality of cells; an empty cell is None or NaN, depending on the release of pandas and the file type."""
    return table.mask(table.isna(), np.nan)


def test_batches_absent_images_and_formats_change_nothing(folder, frame, tmp_path):
    tables = [
        predict_table(
            folder / "model", frame, tmp_path / f"t{size}{suffix}", root=folder, batch_size=size, progress=False
        )
        for size, suffix in ((1, ".csv"), (7, ".parquet"), (64, ".csv"))
    ]
    for table, file in zip(tables, ("t1.csv", "t7.parquet", "t64.csv"), strict=True):
        pd.testing.assert_frame_equal(with_nan(table), with_nan(tables[0]), atol=2e-6)
        read = pd.read_parquet(tmp_path / file) if file.endswith("parquet") else pd.read_csv(tmp_path / file)
        pd.testing.assert_frame_equal(with_nan(read), with_nan(table), check_dtype=False)
    assert set(tables[0]["predicted"]) <= {"benign", "malignant"}
    assert tables[0][["p(benign)", "p(malignant)"]].sum(axis=1).to_numpy() == pytest.approx(1.0, abs=2e-6)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["t1.csv", "t64.csv", "t7.parquet"]


def test_an_interrupted_table_is_continued(folder, frame, tmp_path, monkeypatch):
    whole = predict_table(folder / "model", frame, tmp_path / "a.csv", root=folder, batch_size=5, progress=False)
    batch_sizes = []
    call = PredictBatch.__call__

    def interrupted(self, batch):
        if len(batch_sizes) == 2:
            raise KeyboardInterrupt
        batch_sizes.append(len(batch))
        return call(self, batch)

    arguments = {"root": folder, "batch_size": 5, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(PredictBatch, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_table(folder / "model", frame, tmp_path / "b.csv", **arguments)
    assert not (tmp_path / "b.csv").exists()
    assert (tmp_path / "b.csv.rows.jsonl").stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match=r"b.csv.rows.jsonl' was started with other settings: table was"):
        predict_table(folder / "model", frame.iloc[1:], tmp_path / "b.csv", **arguments)

    rest = []
    monkeypatch.setattr(PredictBatch, "__call__", lambda self, batch: rest.append(len(batch)) or call(self, batch))
    again = predict_table(folder / "model", frame, tmp_path / "b.csv", **arguments)
    assert sum(rest) == ROWS - 10
    pd.testing.assert_frame_equal(again, whole, atol=2e-6)
    assert (tmp_path / "b.csv").exists()
    assert not (tmp_path / "b.csv.rows.jsonl").exists()


def test_values_that_the_model_has_not_seen_count_as_unmentioned(folder, frame, tmp_path):
    strange = frame.assign(elevation="hovering")
    silent = frame.assign(elevation=None)
    tables = [
        predict_table(folder / "model", each, tmp_path / "t.csv", root=folder, max_unread=1.0, progress=False).drop(
            columns=["elevation", "unreadable"]
        )
        for each in (strange, silent)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["filled(elevation)"].notna().all()


def test_a_model_without_images_and_one_without_reconstruction(tmp_path, frame):
    torch.manual_seed(0)
    for reconstructor in (MaskedTokenReconstructor(64), None):
        model = AlignedFusionClassifier(
            None,
            AttributeTokenizer(SCHEMA, 64),
            JointSelfAttention(64, modalities=("report",), depth=1, num_heads=2),
            reconstructor,
            num_classes=3,
        )
        model.save_pretrained(tmp_path / "model")
        table = predict_table(tmp_path / "model", frame, tmp_path / "t.csv", progress=False)
        with torch.no_grad():
            expected = model.eval()(None, SCHEMA.encode(frame)).logits.softmax(-1)
        assert table[["p(0)", "p(1)", "p(2)"]].to_numpy() == pytest.approx(expected.numpy(), abs=2e-6)
        assert ("filled(itch)" in table) is (reconstructor is not None)
        assert len(predict_case(tmp_path / "model", [], {"itch": "present"})["classes"]) == 3


def test_each_image_is_prepared_for_the_module_that_reads_it(folder, frame, tmp_path):
    torch.manual_seed(0)
    visual = {
        "photo": VisualTokenizer("test_vit", 64, pretrained=False, image_size=32),
        "scan": VisualTokenizer("test_resnet", 64, pretrained=False, image_size=64),
    }
    fusion = IntermediateTokenFusion(64, modalities=("photo", "scan", "report"), num_heads=2)
    model = AlignedFusionClassifier(visual, AttributeTokenizer(SCHEMA, 64), fusion, MaskedTokenReconstructor(64), 2)
    model.eval().save_pretrained(tmp_path / "model")
    table = predict_table(tmp_path / "model", frame, tmp_path / "t.csv", root=folder, batch_size=7, progress=False)

    row = next(row for row in range(ROWS) if frame[["photo", "scan"]].notna().all(axis=1)[row])
    images = {m: read_image(folder / frame[m][row]) for m in visual}
    pixels = {m: visual[m].transform()(image)[None] for m, image in images.items()}
    assert {tuple(x.shape) for x in pixels.values()} == {(1, 3, 32, 32), (1, 3, 64, 64)}
    with torch.no_grad():
        expected = model(pixels, SCHEMA.encode(frame.iloc[[row]])).logits.softmax(-1)[0]
    assert table.loc[row, ["p(0)", "p(1)"]].tolist() == pytest.approx(expected.tolist(), abs=2e-6)
    mentioned = {name: frame[name][row] for name in SCHEMA.names if pd.notna(frame[name][row])}
    alone = predict_case(tmp_path / "model", [folder / frame[m][row] for m in visual], mentioned)
    assert list(alone["classes"].values()) == pytest.approx(expected.tolist(), abs=6e-5)


def test_a_modality_that_no_row_of_a_batch_has(folder, frame, tmp_path):
    frame = frame.assign(scan=None)
    table = predict_table(folder / "model", frame, tmp_path / "t.csv", root=folder, batch_size=7, progress=False)
    assert table["predicted"].notna().all()


def test_invalid_tables_are_refused(folder, frame, tmp_path):
    def refuses(message, table=frame, output="t.csv", **arguments):
        with pytest.raises(ValueError, match=message):
            predict_table(folder / "model", table, tmp_path / output, **{"root": folder, "progress": False} | arguments)

    refuses(r"must be a .csv or .parquet file, got 't.xlsx'", output="t.xlsx")
    refuses(r"the table has no column \['itch'\]; it has \['id', 'photo'", frame.drop(columns="itch"))
    refuses(r"the table has no column \['Scan'\]", images=["photo", "Scan"])
    refuses(r"takes one image each of \['photo', 'scan'\]; got the columns \['photo'\]", images=["photo"])
    refuses(r"has columns \['predicted', 'p\(benign\)'\] already", frame.assign(**{"predicted": "x", "p(benign)": 1.0}))
    refuses(r"1 image files cannot be used: .*gone.png does not exist", frame.assign(photo="gone.png"))
    assert not any(tmp_path.iterdir())


def test_the_command_writes_a_table(folder, tmp_path, capsys):
    output = tmp_path / "out.parquet"
    assert cli.main(["predict", str(folder / "model"), "--table", str(folder / "cases.csv"), "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    table = pd.read_parquet(output)
    assert len(table) == ROWS
    assert printed.startswith(f"{output}: 23 cases; predicted ")
    for name, share in table["predicted"].value_counts(normalize=True).items():
        assert f"{name} {share:.1%}" in printed

    # A run stores its image columns, whose names may differ from the model's modalities.
    renamed = tmp_path / "renamed.csv"
    pd.read_csv(folder / "cases.csv").rename(columns={"photo": "a", "scan": "b"}).to_csv(renamed, index=False)
    common = ["--table", str(renamed), "--image-root", str(folder), "-o", str(tmp_path / "r.csv")]
    assert cli.main(["predict", str(folder / "model"), *common]) == 2
    assert "has no column ['photo', 'scan']" in capsys.readouterr().err
    run = shutil.copytree(folder / "model", tmp_path / "run")
    (run / "settings.json").write_text(json.dumps({"images": ["a", "b"]}))
    for named in ([str(folder / "model"), "--image", "a", "b"], [str(run)]):
        assert cli.main(["predict", *named, *common]) == 0
        again = pd.read_csv(tmp_path / "r.csv")
        assert again["p(benign)"].to_numpy() == pytest.approx(table["p(benign)"].to_numpy(), abs=2e-6)


def test_the_command_names_options_that_belong_together(folder, tmp_path, capsys):
    for arguments, message in (
        (["--table", "x.csv"], "--table and -o belong together"),
        (["-o", "x.csv"], "--table and -o belong together"),
        (["--image", "x.png", "--ray"], "--ray belongs to --table"),
        (["--image", "x.png", "--image-root", "x"], "--image-root belongs to --table"),
        (["--table", "x.csv", "-o", "y.csv", "--attributes", "{}"], "--attributes is for one case"),
        (["--attributes", "age"], "--attributes is not JSON"),
        (["--table", str(tmp_path / "none.csv"), "-o", "y.csv"], "there is no table at"),
    ):
        assert cli.main(["predict", str(folder / "model"), *arguments]) == 2
        assert message in capsys.readouterr().err
