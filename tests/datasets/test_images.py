from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alignedfusion.datasets.images import check_images, image_paths, read_image


def test_grayscale_becomes_three_equal_channels(tmp_path):
    Image.fromarray(np.array([[0, 100], [200, 255]], dtype=np.uint8)).save(tmp_path / "x.png")
    pixels = np.asarray(read_image(tmp_path / "x.png"))
    assert pixels.shape == (2, 2, 3)
    assert (pixels == pixels[..., :1]).all()
    assert pixels[..., 0].tolist() == [[0, 100], [200, 255]]


def test_sixteen_bits_are_scaled_from_their_own_range_and_not_clipped(tmp_path):
    # 12 bits of content, as X-rays have: (1000 - 0) / 4000 * 255 = 63.75
    Image.fromarray(np.array([[0, 1000], [2000, 4000]], dtype=np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png"))[..., 0].tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_constant_image_of_many_bits_is_black(dtype, tmp_path):
    Image.fromarray(np.full((2, 3), 7, dtype=dtype)).save(tmp_path / "x.tif")
    assert np.asarray(read_image(tmp_path / "x.tif")).tolist() == [[[0, 0, 0]] * 3] * 2


def test_what_is_transparent_becomes_black(tmp_path):
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png")).tolist() == [[[200, 100, 50], [0, 0, 0]]]


def test_a_palette_and_a_gray_alpha_image_are_read(tmp_path):
    Image.new("RGB", (3, 2), (10, 20, 30)).quantize(4).save(tmp_path / "p.png")
    assert np.asarray(read_image(tmp_path / "p.png"))[0, 0].tolist() == [10, 20, 30]
    Image.new("LA", (3, 2), (90, 255)).save(tmp_path / "la.png")
    assert np.asarray(read_image(tmp_path / "la.png"))[0, 0].tolist() == [90, 90, 90]


def test_a_photo_is_turned_upright(tmp_path):
    image = Image.new("RGB", (5, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (2, 5)


def test_a_damaged_image_is_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("half.png", "text.png"):
        with pytest.raises(ValueError, match=rf"cannot read the image '.*{name}'"):
            read_image(tmp_path / name)
    check_images([whole])
    message = r"^2 image files cannot be used: .*text.png cannot be read \(UnidentifiedImageError\); .*none.png does not exist$"
    with pytest.raises(ValueError, match=message):
        check_images([whole, tmp_path / "text.png", tmp_path / "none.png", tmp_path / "none.png"])
    with pytest.raises(ValueError, match=r"^7 image files cannot be used: .*4.png does not exist ... and 2 more$"):
        check_images(tmp_path / f"{number}.png" for number in range(7))


def test_tokens_have_two_dimensions(tmp_path):
    np.save(tmp_path / "right.npy", np.zeros((3, 5)))
    np.save(tmp_path / "wrong.npy", np.zeros(5))
    check_images([tmp_path / "right.npy"])
    with pytest.raises(ValueError, match=r"1 image .*wrong.npy holds an array of shape \(5,\), not tokens \(N, F\)"):
        check_images([tmp_path / "right.npy", tmp_path / "wrong.npy"])


@pytest.mark.parametrize("empty", [None, float("nan"), pd.NA])
def test_an_empty_cell_is_an_image_that_the_case_lacks(empty):
    frame = pd.DataFrame({"photo": ["a.png", empty], "scan": [empty, "b.png"]}, dtype=object)
    assert image_paths(frame, ["photo"], "root") == {"image": [Path("root/a.png"), None]}
    found = image_paths(frame, ["photo", "scan"], "root")
    assert found == {"photo": [Path("root/a.png"), None], "scan": [None, Path("root/b.png")]}
