"""Work on a Ray cluster of two nodes gives what one process gives, and goes on where either stopped."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from alignedfusion import AttributeSchema
from alignedfusion.commands import main as cli
from alignedfusion.datasets.token_cache import TokenCache
from alignedfusion.deployment.prediction import PredictBatch, predict_table
from alignedfusion.presets import Backbone, standard
from alignedfusion.reports import ChatClient, ChatExtractor, ExtractBatch, Lexicon, RuleExtractor, extract_table
from alignedfusion.reports.table import evidence_file
from alignedfusion.tables import cluster
from alignedfusion.tables.journal import Journal, read_journal
from alignedfusion.training import token_writer
from alignedfusion.training.token_batches import TokenBatch

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
CASES = 37
SMALL = {"batch_size": 8, "progress": False}


def small(folder):
    return Backbone("test_vit", pretrained=folder / "weights.pth", image_size=48)


@pytest.fixture(scope="module", autouse=True)
def two_nodes():
    """A cluster of two nodes with a core each, both on this machine."""
    import ray.data
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            nodes.add_node(num_cpus=1)
            ray.init(address=nodes.address, log_to_driver=False, configure_logging=False)
            ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its nodes do not find the tests
            yield nodes
        finally:
            ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a table of them with attributes and reports, weights of a backbone, and a saved model."""
    folder = tmp_path_factory.mktemp("cases")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(CASES):
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        effusion, nodule = ("No", "Small", "Possible")[number % 3], ("", "No nodule.", "A nodule.")[number // 3 % 3]
        rows.append(
            {
                "id": number,
                "file": f"{number}.png",
                "itch": ("present", None, "absent")[number % 3],
                "text": f"{effusion} pleural effusion. {nodule}",
            }
        )
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / "cases.parquet")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), folder / "weights.pth")
    schema = AttributeSchema.from_table(frame, ["itch"])
    model = standard(schema, ("a", "b"), backbone=Backbone("test_vit", pretrained=False, image_size=48), dim=64)
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def frame(folder):
    return pd.read_parquet(folder / "cases.parquet").rename(columns={"file": "image"})


def test_the_cluster_has_two_nodes_and_both_work(tmp_path):
    import ray.data

    assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2
    parts = list(cluster.map_on_ray(pd.DataFrame({"x": range(50)}), Where, {"folder": tmp_path}, batch_size=2))
    found = pd.concat(parts)
    assert sorted(found["y"]) == list(range(3, 53))
    assert all(len(part) == 2 for part in parts)
    assert found["node"].nunique() == 2
    assert list(cluster.map_on_ray(pd.DataFrame({"x": []}), Where, {"folder": tmp_path}, batch_size=2)) == []


@pytest.mark.parametrize("when", ["made", "called"])
def test_a_worker_that_fails_says_why(when):
    message = rf"a worker of the Ray cluster failed \(ValueError: not an image, when {when}\); what was finished before is kept"
    with pytest.raises(ValueError, match=message):
        list(cluster.map_on_ray(pd.DataFrame({"x": range(4)}), Fails, {"when": when}, batch_size=2))


class Fails:
    def __init__(self, when):
        self.when = when
        if when == "made":
            raise ValueError(f"not an image, when {when}")

    def __call__(self, batch):
        raise ValueError(f"not an image, when {self.when}")


class Where:
    """Adds the node that it runs on. Each batch waits until both nodes work, so that one cannot take them all."""

    def __init__(self, folder):
        self.folder = folder
        self.node = ray.get_runtime_context().get_node_id()
        (folder / self.node).touch()

    def __call__(self, batch):
        import time

        end = time.monotonic() + 120
        while len(list(self.folder.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        return batch.assign(y=batch["x"] + 3, node=self.node)


def run(*command):
    return cli.main(list(map(str, command)))


def test_extraction_gives_the_same_table_and_evidence(folder, tmp_path):
    line = ["extract", folder / "cases.parquet", "--lexicon", "chest_xray"]
    assert run(*line, "-o", tmp_path / "here.parquet", "--processes", 1) == 0
    assert run(*line, "-o", tmp_path / "there.parquet", "--ray") == 0
    tables = [pd.read_parquet(tmp_path / f"{each}.parquet") for each in ("here", "there")]
    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0]["pleural_effusion"]) == {"negative", "positive", "uncertain"}
    (_, here, _), (_, there, _) = (
        read_journal(evidence_file(tmp_path / f"{each}.parquet")) for each in ("here", "there")
    )
    assert here == there


def test_extraction_is_a_map_of_ones_own(folder, tmp_path):
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    reports = pd.read_parquet(folder / "cases.parquet")
    mapped = ray.data.from_pandas([reports.iloc[:20], reports.iloc[20:]]).map_batches(
        ExtractBatch,
        fn_constructor_args=("chest_xray",),
        fn_constructor_kwargs={"text": ["text"], "prefix": "x_"},
        batch_format="pandas",
        batch_size=5,
        concurrency=2,
    )
    found = mapped.to_pandas().sort_values("id", ignore_index=True)
    expected = extract_table(
        folder / "cases.parquet",
        RuleExtractor("chest_xray"),
        tmp_path / "t.parquet",
        text=["text"],
        prefix="x_",
        progress=False,
    )
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_a_chat_model_is_not_asked_from_a_cluster(folder, tmp_path):
    with (
        ChatClient(base_url="http://127.0.0.1:9/v1", model="m") as client,
        ChatExtractor(Lexicon.load("dermoscopy"), client) as extractor,
        pytest.raises(ValueError, match="ChatExtractor asks a server, which is the bottleneck"),
    ):
        extract_table(folder / "cases.parquet", extractor, tmp_path / "t.csv", on_ray=True, progress=False)


def test_tokens_are_the_same_and_those_of_one_engine_serve_the_other(folder, tmp_path):
    paths = sorted(folder.glob("*.png"))
    settings = {**SMALL, "backbone": small(folder)}
    here = token_writer.write(paths, tmp_path / "here", **settings)
    token_writer.write(paths[:10], tmp_path / "there", **settings)
    weights = ["--backbone", "test_vit", "--image-size", "48", "--weights", folder / "weights.pth"]
    assert run("tokens", folder / "cases.parquet", "--image", "file", *weights, "-o", tmp_path / "there", "--ray") == 0
    there = TokenCache(tmp_path / "there")
    assert there.settings == here.settings
    assert len(there) == CASES
    assert there.faults(paths) == []
    mine, theirs = (cache.file.read(cache.rows(paths).tolist()).float() for cache in (here, there))
    assert mine.shape == (CASES, 9, here.settings["shape"][1])
    assert (mine - theirs).abs().max() <= 2**-6 * mine.abs().max()  # a few units of bfloat16's last place


def test_other_weights_on_another_machine_are_refused(folder, tmp_path):
    from alignedfusion.training.token_batches import _BitsBatch

    cache = token_writer.write([], tmp_path / "tokens", **SMALL, backbone=small(folder))
    _BitsBatch(cache.settings)
    with pytest.raises(ValueError, match=r"has other weights of 'test_vit' than the machine that writes"):
        _BitsBatch({**cache.settings, "weights_sha256": "0" * 64})


def test_tokens_go_into_parquet_files(folder, tmp_path):
    import ray.data

    arguments = {"image": "file", "root": folder, "backbone": small(folder)}
    ray.data.read_parquet(str(folder / "cases.parquet")).map_batches(
        TokenBatch,
        fn_constructor_kwargs=arguments,
        batch_size=8,
        concurrency=1,
    ).write_parquet(str(tmp_path / "tokens"))
    rows = ray.data.read_parquet(str(tmp_path / "tokens")).take_all()
    cache = token_writer.write(
        [folder / row["file"] for row in rows],
        tmp_path / "cache",
        **SMALL,
        backbone=small(folder),
        dtype="float16",
    )
    expected = cache.file.read(range(CASES))
    found = torch.from_numpy(np.stack([row["tokens"] for row in rows]))
    assert found.dtype == expected.dtype == torch.float16
    assert (found - expected).abs().max() <= 2**-9 * expected.abs().max()
    assert {row["id"] for row in rows} == set(range(CASES))


def test_a_cluster_goes_on_where_one_process_stopped(folder, frame, tmp_path, monkeypatch):
    arguments = {"root": folder, "batch_size": 8, "progress": False}
    whole = predict_table(folder / "model", frame, tmp_path / "a.csv", **arguments)
    add = Journal.add

    def full_disk(self, lines):
        add(self, lines)
        if "row" in lines[0]:
            raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", full_disk)
        with pytest.raises(OSError, match="no space left"):
            predict_table(folder / "model", frame, tmp_path / "b.csv", **arguments)
    assert len(read_journal(tmp_path / "b.csv.rows.jsonl")[1]) == 8
    again = predict_table(folder / "model", frame, tmp_path / "b.csv", on_ray=True, **arguments)
    pd.testing.assert_frame_equal(again, whole, atol=2e-6, check_dtype=False)


def test_predictions_are_a_map_of_ones_own(folder, frame, tmp_path):
    import ray.data

    mapped = ray.data.from_pandas(frame).map_batches(
        PredictBatch,
        fn_constructor_args=(str(folder / "model"),),
        fn_constructor_kwargs={"root": folder},
        batch_format="pandas",
        batch_size=8,
        concurrency=1,
    )
    found = pd.DataFrame(mapped.take_all()).sort_values("id", ignore_index=True)
    expected = predict_table(folder / "model", frame, tmp_path / "t.csv", root=folder, progress=False)
    pd.testing.assert_frame_equal(found, expected, atol=2e-6, check_dtype=False)


def test_without_an_address_a_cluster_of_its_own_is_started():
    """Not the one that runs on this machine, which may be of another release or another user's."""
    script = "from alignedfusion.tables import cluster\nwith cluster._connected() as ray: print(len(ray.nodes()))"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    line = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["1"]


def test_a_cluster_that_is_not_there_is_named(folder, tmp_path):
    command = ["extract", folder / "cases.parquet", "--lexicon", "chest_xray", "--ray"]
    done = subprocess.run(
        [sys.executable, "-m", "alignedfusion", *map(str, command), "-o", str(tmp_path / "t.csv")],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        check=False,
    )
    assert done.returncode == 2
    assert (
        "alignedfusion extract: cannot work on the Ray cluster at '127.0.0.1:1' (from RAY_ADDRESS): [Errno 111]"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_command_finds_the_cluster_by_its_address(two_nodes, folder, tmp_path):
    """In a process of its own, which leaves the cluster running."""
    line = [
        sys.executable,
        "-m",
        "alignedfusion",
        "predict",
        str(folder / "model"),
        "--image",
        "file",
        "--ray",
    ]
    done = subprocess.run(
        [*line, "--table", str(folder / "cases.parquet"), "-o", str(tmp_path / "p.parquet")],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": two_nodes.address},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    assert len(pd.read_parquet(tmp_path / "p.parquet")) == CASES
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
