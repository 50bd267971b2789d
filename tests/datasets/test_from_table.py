"""Tables of other libraries as training input, their transforms for the images, their loggers for the log."""

import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import monai.transforms as mt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alignedfusion import UNKNOWN, AttributeSchema, VisualTokenizer
from alignedfusion.datasets.arrow import ArrowCases
from alignedfusion.datasets.cases import FileCases, TensorCases, collate
from alignedfusion.datasets.from_table import cases_from
from alignedfusion.datasets.labels import Labels
from alignedfusion.training import TrainingSettings, fit

CLASSES = ("naevus", "wart", "melanoma")


def brightness(image):
    """A picture's red channel, from whatever holds it, as (1, H, W)."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32)[..., 0].copy())[None]


@pytest.fixture
def frame(tmp_path):
    """7 rows with a picture each: row i is grey of 30 i; two gaps, one in each attribute."""
    for i in range(7):
        Image.new("RGB", (5, 3), (30 * i,) * 3).save(tmp_path / f"{i}.png")
    return pd.DataFrame(
        {
            "file": [f"{i}.png" for i in range(7)],
            "shape": ["round", "oval", None, "round", "oval", "round", "oval"],
            "itch": [True, False, True, None, True, False, False],
            "diagnosis": [CLASSES[i % 3] for i in range(7)],
        }
    )


@pytest.fixture
def columns(frame):
    """The schema of the frame: oval 0, round 1; False 0, True 1."""
    return AttributeSchema.from_table(frame, ["shape", "itch"])


CODES = [[1, 1], [0, 0], [UNKNOWN, 1], [1, UNKNOWN], [0, 1], [1, 0], [0, 0]]
LABELS = [0, 1, 2, 0, 1, 2, 0]


def check(cases):
    """Whether the cases are those of `frame`."""
    assert len(cases) == 7
    assert cases.codes.tolist() == CODES
    assert cases.labels.tolist() == LABELS
    batch = next(iter(DataLoader(cases, 7, collate_fn=collate)))
    assert batch["image"].shape == (7, 1, 3, 5)
    assert batch["image"][:, 0, 2, 4].tolist() == [30.0 * i for i in range(7)]
    assert batch["codes"].tolist() == CODES


def arrow(frame, **features):
    """The frame as a `datasets.Dataset`; keyword arguments give a column another type."""
    table = datasets.Dataset.from_pandas(frame)
    for name, feature in features.items():
        table = table.cast_column(name, feature)
    return table


def test_a_frame_and_a_dataset_give_the_same_cases(frame, columns, tmp_path):
    names = {"image": "file", "label": "diagnosis"}
    whole = {**names, "class_names": CLASSES}
    assert isinstance(cases_from(frame, columns, brightness, **whole, root=tmp_path), FileCases)
    check(cases_from(frame, columns, brightness, **whole, root=tmp_path))
    check(cases_from(arrow(frame), columns, brightness, **whole, root=tmp_path))

    pictures = frame.assign(file=[str(tmp_path / name) for name in frame["file"]])
    check(cases_from(arrow(pictures, file=datasets.Image()), columns, brightness, **whole))
    classes = datasets.ClassLabel(names=list(CLASSES))
    check(cases_from(arrow(pictures, file=datasets.Image(), diagnosis=classes), columns, brightness, **names))


def test_attributes_that_are_class_labels_are_read_by_their_names(frame, columns, tmp_path):
    # Stored as 1 and 0 in the order of the names, which is not that of the schema.
    shapes = datasets.ClassLabel(names=["round", "oval", "square"])
    table = arrow(frame, shape=shapes)
    assert table["shape"][:2] == [0, 1]
    check(cases_from(table, columns, brightness, image="file", label="diagnosis", class_names=CLASSES, root=tmp_path))


def test_cells_that_cannot_be_read_are_counted_and_refused_above_the_limit(frame, columns, tmp_path, caplog):
    frame["shape"] = ["round", "blob", None, "ROUND ", "oval", "round", "oval"]
    arguments = {"image": "file", "root": tmp_path}
    cases = cases_from(frame, columns, brightness, **arguments)
    assert cases.codes[:, 0].tolist() == [1, UNKNOWN, UNKNOWN, 1, 0, 1, 0]
    assert len(caplog.messages) == 1
    assert "attribute 'shape': 1 of 6 recorded cells cannot be read, such as 'blob' (row 1)" in caplog.messages[0]
    with pytest.raises(
        ValueError,
        match=r"1 of 6 recorded cells cannot be read.*raise the limit \(--max-unreadable, max_unread=, now 0.1\)",
    ):
        cases_from(frame, columns, brightness, **arguments, max_unread=0.1)


def test_pictures_kept_in_the_dataset_need_no_file(frame, columns, tmp_path):
    rows = [{**row, "file": Image.open(tmp_path / row["file"]).copy()} for row in frame.to_dict("records")]
    table = datasets.Dataset.from_list(
        rows,
        features=datasets.Features(
            {
                "file": datasets.Image(),
                "shape": datasets.Value("string"),
                "itch": datasets.Value("bool"),
                "diagnosis": datasets.Value("string"),
            }
        ),
    )
    table.save_to_disk(tmp_path / "saved")
    for path in tmp_path.glob("*.png"):
        path.unlink()
    table = datasets.load_from_disk(tmp_path / "saved")
    cases = cases_from(table, columns, brightness, image="file", label="diagnosis", class_names=CLASSES)
    check(cases)
    check(pickle.loads(pickle.dumps(cases)))
    shuffled = cases_from(
        table.select([4, 2]), columns, brightness, image="file", label="diagnosis", class_names=CLASSES
    )
    assert shuffled.codes.tolist() == [CODES[4], CODES[2]]
    assert shuffled[1]["image"].unique().tolist() == [60.0]


def test_sixteen_bits_of_a_dataset_are_read_as_those_of_a_file(tmp_path):
    deep = np.linspace(0, 60000, 15).astype(np.uint16).reshape(3, 5)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    frame = pd.DataFrame({"file": [str(tmp_path / "deep.png")] * 2, "itch": ["yes", "no"]})
    schema = AttributeSchema.from_table(frame, ["itch"])
    one = cases_from(arrow(frame, file=datasets.Image()), schema, brightness, image="file")[0]["image"]
    assert torch.equal(one, cases_from(frame, schema, brightness, image="file")[0]["image"])
    assert one.max() == 255


def test_images_that_rows_lack(frame, columns, tmp_path):
    frame.loc[[0, 4], "file"] = None
    np.save(tmp_path / "t.npy", np.ones((11, 13)))
    frame["tokens"] = ["t.npy", None, "t.npy", "t.npy", "t.npy", "t.npy", None]
    for table in (frame, arrow(frame)):
        cases = cases_from(table, columns, brightness, image=["file", "tokens"], root=tmp_path)
        batch = collate([cases[i] for i in range(7)])
        assert batch["is_present"]["file"].tolist() == [False, True, True, True, False, True, True]
        assert batch["is_present"]["tokens"].tolist() == [True, False, True, True, True, True, False]
        assert batch["image"]["file"].shape == (7, 1, 3, 5)
        assert batch["image"]["file"][[0, 4]].abs().sum() == 0
        assert batch["image"]["tokens"].sum((1, 2)).tolist() == [143, 0, 143, 143, 143, 143, 0]
        assert batch["labels"].tolist() == [0] * 7  # to be predicted


def test_tokens_in_the_dataset_itself_train_a_model(frame, columns, build, tmp_path):
    tokens = np.random.default_rng(0).normal(size=(7, 11, 13)).astype(np.float32)
    table = arrow(frame.assign(file=tokens.tolist()), diagnosis=datasets.ClassLabel(names=list(CLASSES)))
    cases = cases_from(table, columns, None, image="file", label="diagnosis")
    assert isinstance(cases, ArrowCases)
    log = fit(build(columns), cases, cases, tmp_path, TrainingSettings(epochs=1, batch_size=3), progress=False)
    same = TensorCases(torch.from_numpy(tokens), torch.tensor(CODES), torch.tensor(LABELS))
    again = fit(build(columns), same, same, tmp_path, TrainingSettings(epochs=1, batch_size=3), progress=False)
    assert log[0]["loss"] == pytest.approx(again[0]["loss"], rel=1e-5)


def test_what_cannot_be_cases_is_refused(frame, columns, tmp_path):
    names = {"image": "file", "label": "diagnosis", "class_names": CLASSES}
    with pytest.raises(ValueError, match=r"the table has no columns \['picture'\]; it has \['file', 'shape'"):
        cases_from(frame, columns, brightness, image="picture")
    with pytest.raises(ValueError, match=r"keys \['train'\]; pass one split of it, such as dataset\['train'\]"):
        cases_from(datasets.DatasetDict(train=arrow(frame)), columns, brightness, **names)
    with pytest.raises(ValueError, match="IterableDataset has no random access: load the dataset without streaming"):
        cases_from(arrow(frame).to_iterable_dataset(), columns, brightness, **names)
    with pytest.raises(ValueError, match=r"expected a pandas DataFrame or a datasets\.Dataset, got list"):
        cases_from([{"file": "x"}], columns, brightness, **names)
    with pytest.raises(ValueError, match=r"classes of 'diagnosis'.*for numbers pass label=Labels\(\('diagnosis',\)"):
        cases_from(frame, columns, brightness, image="file", label="diagnosis")
    with pytest.raises(
        ValueError,
        match=r"2 rows of column 'diagnosis' have a label that .* \['naevus', 'wart'\]: row 2 \('melanoma'\)",
    ):
        cases_from(frame, columns, brightness, image="file", label="diagnosis", class_names=CLASSES[:2])
    with pytest.raises(ValueError, match="row 1 has an image, but this model takes precomputed tokens"):
        cases_from(arrow(frame), columns, None, **names, root=tmp_path)[1]
    with pytest.raises(ValueError, match="no case has an image of 'image'"):
        cases_from(frame.assign(file=None), columns, brightness, **names)[0]
    broken = arrow(
        pd.DataFrame({"file": [{"bytes": b"no", "path": "x.png"}], "shape": ["oval"], "itch": [True]}),
        file=datasets.Image(),
    )
    with pytest.raises(ValueError, match=r"the image 'x.png' in row 0 cannot be read: cannot identify"):
        cases_from(broken, columns, brightness, image="file")[0]


def test_monai_transforms_prepare_the_images(frame, columns, tmp_path):
    """MONAI gives (channels, H, W), its own subclass of a tensor; the order of its axes is (W, H) unless told otherwise."""
    rest = [mt.ScaleIntensityRange(0, 255, 0, 1), mt.Resize((4, 6))]
    files = mt.Compose(
        [mt.LoadImage(image_only=True, ensure_channel_first=True, reader="PILReader"), mt.Transpose((0, 2, 1)), *rest]
    )
    arrays = mt.Compose([np.array, mt.EnsureChannelFirst(channel_dim=-1), *rest])
    by_path = cases_from(frame, columns, files, image="file", root=tmp_path, read=str)
    by_array = cases_from(frame, columns, arrays, image="file", root=tmp_path)
    by_row = cases_from(arrow(frame), columns, files, image="file", root=tmp_path, read=str)
    expected = torch.arange(7).view(7, 1, 1, 1).expand(7, 3, 4, 6) * 30 / 255
    for cases in (by_path, by_array, by_row):
        batch = collate([cases[i] for i in range(7)])
        assert type(batch["image"]) is torch.Tensor
        torch.testing.assert_close(batch["image"], expected.contiguous())


def test_the_code_of_the_page_gives_one_set_of_images(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "scikit-learn.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    start = next(i for i, block in enumerate(blocks) if "AttributeSchema" in block)
    first, second = blocks[start : start + 2]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    frame = pd.DataFrame({"age": [20, 30], "sex": ["f", None], "file": [path] * 2, "label": ["x", "y"]})
    train = arrow(frame.assign(image=path), image=datasets.Image(), label=datasets.ClassLabel(names=["x", "y"]))
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=224)
    scale = {name: visual.preprocessing[name] for name in ("mean", "std")}
    names = {"train": train, "frame": frame, "model": SimpleNamespace(visual=visual), "names": ["x", "y"], **scale}
    exec(compile(first, "scikit-learn.md", "exec"), names)  # the page is ours
    assert names["cases"][1]["image"].shape == (3, 224, 224)
    by_array, by_file = second.split("files = ")
    exec(compile(by_array, "scikit-learn.md", "exec"), names)
    image = names["cases"][1]["image"]
    exec(compile("files = " + by_file, "scikit-learn.md", "exec"), names)
    torch.testing.assert_close(names["cases"][1]["image"], image, atol=1e-4, rtol=1e-4)
    assert names["cases"].labels.tolist() == [0, 1]


def test_a_model_trains_on_images_that_monai_augments(frame, columns, tmp_path, build):
    transform = mt.Compose(
        [
            np.array,
            mt.EnsureChannelFirst(channel_dim=-1),
            mt.RandFlip(prob=0.5, spatial_axis=1),
            mt.RandGaussianNoise(prob=0.5, std=3.0),
            mt.Resize((32, 32)),
            mt.NormalizeIntensity(subtrahend=128.0, divisor=64.0),
        ]
    )
    cases = cases_from(frame, columns, transform, image="file", label="diagnosis", class_names=CLASSES, root=tmp_path)
    visual = VisualTokenizer("test_vit", 38, pretrained=False, image_size=32)
    log = fit(
        build(columns, visual=visual),
        cases,
        None,
        tmp_path / "run",
        TrainingSettings(epochs=2, batch_size=4),
        progress=False,
    )
    assert len([entry for entry in log if "loss" in entry]) == 2


@pytest.fixture
def plain(columns):
    return TensorCases(torch.randn(7, 11, 13), torch.tensor(CODES), torch.tensor(LABELS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own code
def test_tensorboard_gets_the_log(columns, plain, build, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = fit(
        build(columns),
        plain,
        plain,
        tmp_path,
        TrainingSettings(epochs=3, batch_size=4),
        progress=False,
        report_to="tensorboard",
    )
    (run,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([entry["loss"] for entry in log if "loss" in entry])
    assert len(losses) == len(events.Scalars("eval/cross_entropy")) == 3


def test_mlflow_gets_the_log(columns, plain, build, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lesions")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log = fit(
        build(columns),
        plain,
        plain,
        tmp_path,
        TrainingSettings(epochs=3, batch_size=4, learning_rate=2e-3),
        progress=False,
        report_to=["mlflow"],
    )
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("lesions").experiment_id])
    assert run.info.status == "FINISHED"
    assert float(run.data.params["learning_rate"]) == 2e-3
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert losses == pytest.approx([entry["loss"] for entry in log if "loss" in entry])


def test_several_labels_and_numbers_of_a_table(schema):
    frame = pd.DataFrame(
        {"elevation": ["flat", None], "ulceration": None, "age": [54, 61], "file": ["a.npy", "b.npy"]}, index=[7, 7]
    )
    frame = frame.assign(edema=["yes", None], weight=["63.5", "70"])
    several = Labels(("edema", "weight"), "regression", ("edema", "weight"))
    with pytest.raises(ValueError, match="1 cells of the label column 'edema' are no numbers"):
        cases_from(frame, schema, None, image="file", label=several)
    labels = Labels(("edema",), "multilabel", ("edema",))
    assert cases_from(frame, schema, None, image="file", label=labels).labels.tolist() == [[1], [-1]]
    rows = datasets.Dataset.from_pandas(frame, preserve_index=False)
    assert cases_from(rows, schema, None, image="file", label=labels).labels.tolist() == [[1], [-1]]
    numbers = Labels(("weight",), "regression", ("weight",))
    assert cases_from(rows, schema, None, image="file", label=numbers).labels.tolist() == [[63.5], [70.0]]
    with pytest.raises(ValueError, match=r"the table has no columns \['edema'\]"):
        cases_from(frame.drop(columns="edema"), schema, None, image="file", label=labels)
