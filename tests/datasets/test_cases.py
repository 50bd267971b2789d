import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from alignedfusion.datasets.cases import FileCases, TensorCases, collate

CODES = torch.tensor([[0, 1], [-1, 2], [1, -1]])
LABELS = torch.tensor([1, 0, 1])


def test_tensor_cases_give_what_the_model_takes():
    cases = TensorCases({"a": torch.arange(3), "b": torch.arange(3) * 10}, CODES, LABELS)
    assert len(cases) == 3
    batch = collate([cases[0], cases[2]])
    assert batch["image"]["b"].tolist() == [0, 20]
    assert batch["codes"].tolist() == [[0, 1], [1, -1]]
    assert batch["labels"].tolist() == [1, 1]


def test_tensor_cases_refuse_another_number_of_images():
    with pytest.raises(ValueError, match=r"every case needs its images.*'image': 2.*3 codes and 3 labels"):
        TensorCases(torch.zeros(2, 5, 7), CODES, LABELS)


def test_file_cases_read_images_and_say_which_are_absent(tmp_path):
    Image.new("RGB", (5, 2), (255, 0, 0)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.ones((11, 13), dtype=np.float16))
    paths = {"photo": [tmp_path / "a.png"] * 3, "tokens": [tmp_path / "b.npy", None, tmp_path / "b.npy"]}
    batch = collate([FileCases(paths, CODES, LABELS, to_tensor)[i] for i in range(3)])
    assert batch["image"]["photo"].shape == (3, 3, 2, 5)
    assert batch["image"]["photo"][0, :, 0, 0].tolist() == [1, 0, 0]
    assert batch["image"]["tokens"].dtype == torch.float32
    assert batch["image"]["tokens"].sum((1, 2)).tolist() == [143, 0, 143]
    assert {name: mask.tolist() for name, mask in batch["is_present"].items()} == {
        "photo": [True, True, True],
        "tokens": [True, False, True],
    }


def test_file_cases_without_a_gap_need_no_mask(tmp_path):
    np.save(tmp_path / "b.npy", np.ones((11, 13)))
    case = FileCases({"image": [tmp_path / "b.npy"] * 3}, CODES, LABELS, None)[1]
    assert case["image"].shape == (11, 13)
    assert set(case) == {"image", "codes", "labels"}


def test_an_image_without_a_transform_is_refused(tmp_path):
    Image.new("RGB", (5, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png' is an image, but this model takes precomputed tokens"):
        FileCases({"image": [tmp_path / "a.png"] * 3}, CODES, LABELS, None)[0]
