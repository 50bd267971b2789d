import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from derm7pt_tokens import ManyViews, load_tokens

DIAGNOSES = ("clark nevus", "melanoma (in situ)", "seborrheic keratosis", "basal cell carcinoma", "lentigo")
IMAGES = ("derm", "clinic")


@pytest.fixture
def tokens(tmp_path):
    """Token files of 7 training and 3 validation cases: N = 5, F = 11."""
    draw = np.random.default_rng(0)
    for split, rows in (("train", 7), ("valid", 3)):
        arrays = {m: draw.normal(size=(rows, 5, 11)).astype(np.float16) for m in IMAGES}
        if split == "train":
            arrays |= {f"{m}_augmented": draw.normal(size=(rows, 3, 5, 11)).astype(np.float16) for m in IMAGES}
        np.savez(tmp_path / f"{split}.npz", **arrays)
        frame = pd.DataFrame({"diagnosis": [DIAGNOSES[i % 5] for i in range(rows)], "split": split})
        frame.to_csv(tmp_path / f"{split}.csv", index=False)
    return load_tokens(tmp_path)


def test_token_files_are_read_in_order(tokens):
    assert tokens.class_names[tokens.labels[7 + 2]] == "seborrheic keratosis"
    assert tokens.image["clinic"].shape == (10, 5, 11)
    assert tokens.views["derm"].shape == (10, 4, 5, 11)
    assert torch.equal(tokens.views["derm"][2, 0], tokens.image["derm"][2])
    assert torch.equal(tokens.views["derm"][9, 3], tokens.image["derm"][9])  # a validation case repeats its image


def test_each_access_draws_one_view_for_both_images(tokens):
    views = {m: each[[2, 9]] for m, each in tokens.views.items()}
    cases = ManyViews(views, torch.zeros(2, 3, dtype=torch.int64), tokens.labels[[2, 9]])
    drawn = set()
    for _ in range(60):
        image = cases[0]["image"]
        view = next(v for v in range(4) if torch.equal(image["derm"], tokens.views["derm"][2, v]))
        assert torch.equal(image["clinic"], tokens.views["clinic"][2, view])
        drawn.add(view)
    assert drawn == {0, 1, 2, 3}
