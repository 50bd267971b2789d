from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alignedfusion.datasets.images import check_images, image_paths, read_image, read_tokens


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
    message = r"^2 image files cannot be used: .*text.png cannot be read \(UnidentifiedImageError\); .*none.png does not exist;"
    with pytest.raises(ValueError, match=message):
        check_images([whole, tmp_path / "text.png", tmp_path / "none.png", tmp_path / "none.png"])
    message = r"^7 image files cannot be used: .*4.png does not exist ... and 2 more; correct the paths or --image-root"
    with pytest.raises(ValueError, match=message):
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


def float_tiff(path, pixels):
    Image.fromarray(np.array(pixels, dtype=np.float32)).save(path)
    return np.asarray(read_image(path))[..., 0].tolist()


def test_a_pixel_that_is_no_number_leaves_the_others_as_they_are(tmp_path):
    # From 10 to 30: (20 - 10) / 20 * 255 = 127.5, rounded to even.
    assert float_tiff(tmp_path / "x.tif", [[10, 20], [30, np.nan]]) == [[0, 128], [255, 0]]
    assert float_tiff(tmp_path / "x.tif", [[10, 20], [30, np.inf]]) == [[0, 128], [255, 255]]
    assert float_tiff(tmp_path / "x.tif", [[10, 20], [30, -np.inf]]) == [[0, 128], [255, 0]]
    with pytest.raises(ValueError, match=r"cannot read the image '.*x.tif': it has no finite pixel"):
        float_tiff(tmp_path / "x.tif", [[np.nan, np.inf]])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp"])
def test_a_truncated_image_is_found_before_training(suffix, tmp_path):
    file = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70), dtype=np.uint8)).save(file)
    check_images([file])
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    with pytest.raises(ValueError, match=rf"1 image files cannot be used: .*x\.{suffix} cannot be read"):
        check_images([file])


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_one_of_several_frames_is_not_taken_silently(suffix, tmp_path):
    frames = [Image.new("L", (9, 7), value) for value in (0, 100, 200)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"it has 3 frames: save the one to be used"):
        check_images([tmp_path / f"x.{suffix}"])
    with pytest.raises(ValueError, match=r"it has 3 frames"):
        read_image(tmp_path / f"x.{suffix}")


def test_a_photo_with_further_views_is_read(tmp_path):
    frames = [Image.new("RGB", (9, 7), (value, 0, 0)) for value in (200, 0)]
    frames[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=frames[1:])
    check_images([tmp_path / "x.jpg"])
    assert np.asarray(read_image(tmp_path / "x.jpg"))[0, 0, 0] == pytest.approx(200, abs=3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_limit_on_pixels_holds_for_all_bit_depths_and_can_be_set(dtype, tmp_path, monkeypatch):
    Image.fromarray(np.zeros((11, 10), dtype=dtype)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 109)
    for read in (read_image, lambda path: check_images([path])):
        with pytest.raises(ValueError, match=r"x.png"):
            read(tmp_path / "x.png")
    monkeypatch.setenv("ALIGNEDFUSION_MAX_PIXELS", "110")
    read_image(tmp_path / "x.png")
    check_images([tmp_path / "x.png"])
    monkeypatch.setenv("ALIGNEDFUSION_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="must be a number of pixels, got 'many'"):
        read_image(tmp_path / "x.png")


def test_tokens_that_cannot_be_used_are_named(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 3), dtype=np.float16))
    assert read_tokens(tmp_path / "x.npy").dtype == np.float32
    for wrong in (np.ones(3), np.ones((0, 3)), np.array([[np.nan]])):
        np.save(tmp_path / "x.npy", wrong)
        with pytest.raises(ValueError, match=r"x\.npy"):
            read_tokens(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"cannot read the tokens '.*x\.npy'"):
        read_tokens(tmp_path / "x.npy")
