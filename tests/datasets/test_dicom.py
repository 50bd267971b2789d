from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from alignedfusion.datasets.dicom import is_dicom, read_dicom
from alignedfusion.datasets.images import check_images, read_image


def write(path, values, **elements):
    """A DICOM file with 16-bit stored values (frames, H, W) or (H, W)."""
    values = np.asarray(values, dtype=np.uint16)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = values.shape[-2:]
    if values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    for name, value in elements.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def gray(path, **options):
    image = np.asarray(read_dicom(path, **options))
    assert (image == image[..., :1]).all()  # three equal channels
    return image[..., 0].tolist()


def test_a_window_maps_rescaled_values(tmp_path):
    # Stored 0 to 2000 are -1000 to 1000 HU. Width 401 around 40.5 is -160 to 240 HU: (0 + 160) / 400 of 255 = 102.
    path = write(
        tmp_path / "ct.dcm",
        [[0, 840, 1000, 1240, 2000]],
        RescaleSlope=1,
        RescaleIntercept=-1000,
        WindowCenter=40.5,
        WindowWidth=401,
    )
    assert gray(path) == [[0, 0, 102, 255, 255]]
    several = {"RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": [40.5, 0], "WindowWidth": [401, 10]}
    assert gray(write(tmp_path / "two.dcm", [[840, 1240]], **several)) == [[0, 255]]  # the first of two windows


def test_without_a_window_the_minimum_and_maximum_are_black_and_white(tmp_path):
    assert gray(write(tmp_path / "x.dcm", [[100, 150, 200]])) == [[0, 128, 255]]
    padded = write(tmp_path / "p.dcm", [[0, 100, 200]], PixelPaddingValue=0)
    assert gray(padded) == [[0, 0, 255]]
    assert gray(write(tmp_path / "flat.dcm", [[7, 7]])) == [[0, 0]]


def test_monochrome1_is_inverted(tmp_path):
    path = write(tmp_path / "x.dcm", [[100, 150, 200]], PhotometricInterpretation="MONOCHROME1")
    assert gray(path) == [[255, 127, 0]]


def test_a_file_of_several_frames_asks_for_one(tmp_path):
    path = write(tmp_path / "x.dcm", [[[0, 100]], [[50, 0]], [[0, 0]]])
    with pytest.raises(ValueError, match=r"x.dcm': it has 3 frames: name one, read_dicom\(path, frame=...\), or save"):
        read_dicom(path)
    assert gray(path, frame=1) == [[255, 0]]
    with pytest.raises(ValueError, match=r"it has 3 frames, 0 to 2, got frame=3"):
        read_dicom(path, frame=3)


@pytest.mark.parametrize(
    ("name", "size", "is_color"),
    [
        ("CT_small.dcm", (128, 128), False),
        ("MR_small_RLE.dcm", (64, 64), False),
        ("MR_small_bigendian.dcm", (64, 64), False),
        ("SC_rgb_rle_16bit.dcm", (100, 100), True),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", (100, 100), True),  # YBR_FULL_422
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100), True),
    ],
)
def test_files_of_many_kinds_are_read(name, size, is_color):
    path = get_testdata_file(name, download=False)
    image = read_image(path)
    pixels = np.asarray(image).astype(int)
    assert (image.mode, image.size) == ("RGB", size)
    assert pixels.max() == 255
    assert (np.ptp(pixels, axis=2).max() > 100) == is_color


def test_the_same_colours_in_two_spaces_are_the_same():
    rgb, ybr = (
        np.asarray(read_dicom(get_testdata_file(f"SC_rgb_{name}.dcm", download=False))).astype(int)
        for name in ("rle", "dcmtk_+eb+cy+n1")
    )
    assert abs(rgb - ybr).mean() < 3  # JPEG; luminance and chroma read as red, green and blue differ by far more


def test_files_without_an_image_and_unknown_compressions_are_named(tmp_path):
    plan = get_testdata_file("rtplan.dcm", download=False)
    compressed = get_testdata_file("JPEGLSNearLossless_08.dcm", download=False)
    for path, message in ((plan, "it holds no image"), (compressed, "JPEG-LS")):
        with pytest.raises(ValueError, match=f"cannot read the DICOM file '{path}': .*{message}"):
            read_image(path)
    (tmp_path / "text.dcm").write_text("not an image")
    with pytest.raises(ValueError, match=r"cannot read the DICOM file .*text\.dcm"):
        read_image(tmp_path / "text.dcm")
    with pytest.raises(ValueError, match=r"2 image files cannot be used: .*rtplan.dcm.*it holds no image.*text.dcm"):
        check_images([Path(plan), tmp_path / "text.dcm", Path(get_testdata_file("CT_small.dcm", download=False))])


def test_dicom_files_are_recognised_without_a_suffix(tmp_path):
    path = write(tmp_path / "IM0001", [[1, 2]])
    assert is_dicom(path)
    assert np.asarray(read_image(path))[..., 0].tolist() == [[0, 255]]
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    assert not is_dicom(tmp_path / "x.png")
    assert not is_dicom(tmp_path / "gone")
    assert pydicom.dcmread(path).Rows == 1


def test_a_volume_is_no_image(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"")
    with pytest.raises(
        ValueError, match="a NIfTI file holds a volume: save a slice as an image, or read it with MONAI"
    ):
        read_image(tmp_path / "x.nii.gz")
