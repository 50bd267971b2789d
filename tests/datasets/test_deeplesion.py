import csv
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from alignedfusion import UNKNOWN
from alignedfusion.datasets import deeplesion
from alignedfusion.datasets.deeplesion import make_synthetic, planes
from alignedfusion.datasets.deeplesion.key_slices import COLUMNS

ROW = {
    "File_name": "000091_03_01_093.png",
    "Patient_index": "91",
    "Study_index": "3",
    "Series_ID": "1",
    "Key_slice_index": "93",
    "Measurement_coordinates": "2, 3, 8, 3, 5, 1, 5, 5",
    "Bounding_boxes": "2.5, 1, 9, 6.25",
    "Lesion_diameters_Pixel_": "6, 4",
    "Normalized_lesion_location": "0.4, 0.3, 0.25",
    "Coarse_lesion_type": "-1",
    "Possibly_noisy": "0",
    "Slice_range": "87, 99",
    "Spacing_mm_px_": "0.75, 0.75, 5",
    "Image_size": "13, 11",
    "DICOM_windows": "-175, 275",
    "Patient_gender": "F",
    "Patient_age": "62",
    "Train_Val_Test": "1",
}
HEIGHT, WIDTH = 11, 13


def ramp(z):
    """Hounsfield units of slice z: linear in z, different in every pixel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return 16 * (z - 93) + 100 + x - 3 * y


@pytest.fixture
def tree(tmp_path):
    """Writes a tree of ramp slices 87 to 99; cells of the one row may differ, further rows may follow."""

    def write(*others, slices=range(87, 100), **cells):
        images = tmp_path / "Images_png" / "000091_03_01"
        images.mkdir(parents=True, exist_ok=True)
        for z in slices:
            Image.fromarray((ramp(z) + 32768).astype(np.uint16)).save(images / f"{z:03d}.png")
        with (tmp_path / "DL_info.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows([ROW | cells, *(ROW | other for other in others)])
        return tmp_path

    return write


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp("deeplesion"), patients=24, image_size=64)


def load_with_leaks(folder):
    with pytest.warns(UserWarning, match="is a leak"):
        return deeplesion.load(folder, source="annotation")


def only(data):
    (key,) = data.slices
    return key


def test_one_row_by_hand(tree):
    data = load_with_leaks(tree())
    key = only(data)
    assert (key.file, key.series, key.index, key.path) == (
        "000091_03_01_093.png",
        "000091_03_01",
        93,
        "000091_03_01/093.png",
    )
    assert (key.patient, key.split, key.is_noisy) == (91, "train", False)
    assert key.boxes == ((1.5, 0.0, 8.0, 5.25),)  # the file counts pixels from 1
    assert key.diameters_mm == ((4.5, 3.0),)
    assert (key.pixel_mm, key.slice_mm, key.lesion_types) == (0.75, 5.0, (None,))
    assert key.attributes == {"age": 62.0, "gender": "female", "location": 0.25, "size": 4.5}


def test_lesions_of_one_slice_are_one_record(tree):
    second = {"Bounding_boxes": "1, 1, 3, 3", "Lesion_diameters_Pixel_": "8, 2", "Possibly_noisy": "1"}
    third = {"Coarse_lesion_type": "5", "Normalized_lesion_location": "0.4, 0.3, 0.75"}
    key = only(load_with_leaks(tree(second, third)))
    assert key.boxes == ((1.5, 0, 8, 5.25), (0, 0, 2, 2), (1.5, 0, 8, 5.25))
    assert key.lesion_types == (None, None, "lung")
    assert key.is_noisy
    assert key.attributes["size"] == 6.0  # the largest: 8 pixels of 0.75 mm
    assert key.attributes["location"] == pytest.approx((0.25 + 0.25 + 0.75) / 3)


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ({"Patient_age": "NaN"}, "age"),
        ({"Patient_age": ""}, "age"),
        ({"Patient_age": "0"}, "age"),
        ({"Patient_age": "-1"}, "age"),
        ({"Patient_gender": " "}, "gender"),
        ({"Patient_gender": "nan"}, "gender"),
        ({"Normalized_lesion_location": "NaN, NaN, NaN"}, "location"),
        ({"Normalized_lesion_location": "-1, -1, -1"}, "location"),
        ({"Lesion_diameters_Pixel_": ""}, "size"),
        ({"Lesion_diameters_Pixel_": "NaN, NaN"}, "size"),
        ({"Spacing_mm_px_": "NaN, NaN, 5"}, "size"),
    ],
)
def test_what_is_missing_is_unmentioned_and_nothing_else(tree, cells, name):
    key = only(load_with_leaks(tree(**cells)))
    assert [known for known, value in key.attributes.items() if value is None] == [name]
    schema = load_with_leaks(tree()).schema()
    codes = schema.encode([key.attributes])
    assert [schema.names[i] for i in (codes[0] == UNKNOWN).nonzero()[:, 0]] == [name]


@pytest.mark.parametrize("spacing", ["NaN", "-5", "0", "", "inf"])
def test_an_unknown_distance_between_slices_repeats_the_key_slice(tree, spacing):
    data = deeplesion.load(tree(Spacing_mm_px_=f"0.75, 0.75, {spacing}"))
    assert only(data).slice_mm is None
    planes = deeplesion.read_planes(data.images, only(data))
    assert torch.equal(planes, torch.tensor(ramp(93)).float().expand(7, -1, -1))


def test_splits_and_types(tree):
    for number, split in (("1", "train"), ("2", "valid"), ("3", "test")):
        assert only(deeplesion.load(tree(Train_Val_Test=number))).split == split
    types = [only(deeplesion.load(tree(Coarse_lesion_type=str(i)))).lesion_types[0] for i in range(1, 9)]
    assert types == list(deeplesion.LESION_TYPES)


@pytest.mark.parametrize("spacing", [5.0, 4.0, 3.0, 2.5, 2.0, 1.25, 1.0])
def test_linear_planes_of_a_ramp_are_exact(tree, spacing):
    data = deeplesion.load(tree(Spacing_mm_px_=f"0.75, 0.75, {spacing}"))
    planes = deeplesion.read_planes(data.images, only(data))
    expected = np.stack([ramp(93 + mm / spacing) for mm in (-6, -4, -2, 0, 2, 4, 6)])
    assert planes.dtype == torch.float32
    assert torch.equal(planes, torch.from_numpy(expected).float())  # in the order of slice numbers


def test_other_numbers_and_distances_of_planes(tree):
    data = deeplesion.load(tree())
    planes = deeplesion.read_planes(data.images, only(data), num_slices=3, spacing_mm=8)
    assert torch.equal(planes, torch.from_numpy(np.stack([ramp(93 + mm / 5) for mm in (-8, 0, 8)])).float())
    assert torch.equal(deeplesion.read_planes(data.images, only(data), num_slices=1)[0], torch.tensor(ramp(93)).float())


def test_slices_out_of_range_are_the_nearest_stored_one(tree):
    data = deeplesion.load(tree(slices=range(92, 94), Spacing_mm_px_="0.75, 0.75, 1"))
    planes = deeplesion.read_planes(data.images, only(data))
    expected = [ramp(92)] * 3 + [ramp(93)] * 4
    assert torch.equal(planes, torch.from_numpy(np.stack(expected)).float())


def test_only_the_slices_that_are_needed_are_decoded_once_each(tree, monkeypatch):
    read = []
    original = planes._read_slice
    monkeypatch.setattr(planes, "_read_slice", lambda path: read.append(path.name) or original(path))
    data = deeplesion.load(tree())
    cases = deeplesion.LesionCases(data, data.slices, data.schema())
    assert read == []
    cases[0]
    assert sorted(read) == ["091.png", "092.png", "093.png", "094.png", "095.png"]
    read.clear()
    deeplesion.LesionCases(data, data.slices, data.schema(), num_slices=1)[0]
    assert read == ["093.png"]


def test_windowing_by_hand(tree):
    data = deeplesion.load(tree())
    cases = deeplesion.LesionCases(data, data.slices, data.schema(), image_size=None, window=(96, 104))
    image = cases[0]["image"][3]  # the key slice: 100 + x - 3 y
    assert image[0, 0] == 127.5
    assert image[0, 1] == 255 * 5 / 8
    assert image[1, 0] == 255 / 8
    assert image[0, 4] == 255
    assert image[0, 9] == 255
    assert image[2, 0] == 0
    usual = deeplesion.LesionCases(data, data.slices, data.schema(), image_size=None)[0]["image"][3]
    assert usual[0, 0] == pytest.approx((100 + 1024) / 3074 * 255, abs=1e-4)


def test_a_case(tree):
    data = deeplesion.load(tree({"Bounding_boxes": "0, 0, 14, 12"}))
    schema = data.schema()
    cases = deeplesion.LesionCases(data, data.slices, schema, image_size=26, channel=True)
    case = cases[0]
    assert len(cases) == 1
    assert case["image"].shape == (1, 7, 26, 26)
    assert case["image"].dtype == case["boxes"].dtype == torch.float32
    # Twice as large; the second box is cut to the picture's 13 x 11 pixels.
    assert case["boxes"].tolist() == [[3, 0, 16, 10.5], [0, 0, 24, 20]]
    assert case["labels"].tolist() == [1, 1]
    assert torch.equal(case["codes"], schema.encode([data.slices[0].attributes])[0])
    assert case["codes"].dtype == torch.int64
    assert (case["image"][0, :, 22:] == 0).all()
    assert (case["image"][0, :, :22] > 80).all()
    plain = deeplesion.LesionCases(data, data.slices, schema, image_size=None)[0]
    assert plain["image"].shape == (7, HEIGHT, WIDTH)
    assert plain["boxes"].tolist() == [[1.5, 0, 8, 5.25], [0, 0, 12, 10]]
    torch.testing.assert_close(case["image"][0, :, :22].mean(), plain["image"].mean(), atol=0.1, rtol=0)
    assert pickle.loads(pickle.dumps(cases))[0]["boxes"].tolist() == case["boxes"].tolist()


def test_batches(synthetic):
    data = deeplesion.load(synthetic)
    cases = deeplesion.LesionCases(data, data.split("train"), data.schema(), image_size=64, channel=True)
    batch = next(iter(torch.utils.data.DataLoader(cases, batch_size=5, collate_fn=deeplesion.collate)))
    assert batch["image"].shape == (5, 1, 7, 64, 64)
    assert batch["codes"].shape == (5, 2)
    assert batch["patient"].tolist() == [1, 1, 2, 2, 5]
    assert [len(target["boxes"]) for target in batch["targets"]] == [
        len(each.boxes) for each in data.split("train")[:5]
    ]
    assert {key for target in batch["targets"] for key in target} == {"boxes", "labels"}


def test_leaks_are_off_by_default_and_warn(synthetic):
    assert deeplesion.load(synthetic).attributes == ("age", "gender")
    with pytest.warns(UserWarning, match="is a leak") as caught:
        data = deeplesion.load(synthetic, source="annotation")
    assert [str(each.message).split(":")[0] for each in caught] == ["'location' is a leak", "'size' is a leak"]
    assert data.schema().names == ("age", "gender", "location", "size")
    with pytest.raises(ValueError, match=r"source must be one of \['patient', 'annotation'\], got 'both'"):
        deeplesion.load(synthetic, source="both")


def test_the_schema_is_learned_from_training_patients(synthetic):
    data = deeplesion.load(synthetic)
    schema = data.schema()
    assert schema.attributes[0].units == "years"
    assert schema.attributes[1].values == ("female", "male")
    ages = [each.attributes["age"] for each in data.split("train") if each.attributes["age"]]
    assert schema.attributes[0].edges == tuple(np.quantile(ages, [0.25, 0.5, 0.75]))
    few = data.schema(data.split("train", fraction=0.25))
    assert few.attributes[0].values != schema.attributes[0].values
    assert not few.attributes[0].units  # too few ages for intervals
    with pytest.raises(ValueError, match=r"training patients only; '.*\.png' is not in the training split"):
        data.schema(data.slices)
    cases = deeplesion.LesionCases(data, data.split("test"), few)  # ages that it has not seen
    assert (cases.codes[:, 0] == UNKNOWN).any()


def test_fractions_are_of_patients_and_nested(synthetic):
    data = deeplesion.load(synthetic)
    for seed in range(5):
        quarter, half, full = (
            {each.file: each.patient for each in data.split("train", fraction=fraction, seed=seed)}
            for fraction in (0.25, 0.5, 1.0)
        )
        assert set(quarter) < set(half) < set(full)
        assert [len(set(each.values())) for each in (quarter, half, full)] == [4, 8, 17]
        for each in (quarter, half):  # all slices of a chosen patient, or none
            assert each == {file: patient for file, patient in full.items() if patient in each.values()}
    drawn = [tuple(each.file for each in data.split("train", fraction=0.25, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({each.patient for each in data.split("valid", fraction=0.01)}) == 1
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1, got 25"):
        data.split("train", fraction=25)
    with pytest.raises(ValueError, match=r"name must be one of \['train', 'valid', 'test'\], got 'val'"):
        data.split("val")


def test_a_patient_is_in_one_split(tree, synthetic):
    splits = {(each.patient, each.split) for each in deeplesion.load(synthetic).slices}
    assert len(splits) == 24
    other = {"File_name": "000091_03_01_095.png", "Train_Val_Test": "3"}
    with pytest.raises(ValueError, match="patient 91 is in two splits, train and test"):
        deeplesion.load(tree(other))


def test_the_synthetic_tree_has_every_irregularity(synthetic):
    data = load_with_leaks(synthetic)
    assert len(data.slices) == 48
    raw = list(csv.DictReader((synthetic / "DL_info.csv").read_text().splitlines()))
    assert tuple(raw[0]) == COLUMNS
    assert {row["Patient_age"] for row in raw} >= {"NaN", "0"}
    assert "" in {row["Patient_gender"] for row in raw}
    between = [float(row["Spacing_mm_px_"].split(",")[2]) for row in raw]
    assert any(map(math.isnan, between))
    assert min(between) < 0
    assert {1.0, 1.25, 2.5, 4.0, 5.0} <= set(between)
    assert {len(each.boxes) for each in data.slices} == {1, 2, 3}
    assert {kind for each in data.split("train") for kind in each.lesion_types} == {None}
    assert len({kind for each in data.split("test") + data.split("valid") for kind in each.lesion_types}) > 2
    assert any(each.is_noisy for each in data.slices)
    for name in data.attributes:  # each is missing somewhere, but size: it is read off the picture
        assert any(each.attributes[name] is None for each in data.split("train")) == (name != "size")
    stored = {each.series: sorted(p.name for p in (data.images / each.series).iterdir()) for each in data.slices}
    assert any(names[0] == "040.png" for names in stored.values())
    spacings = {each.patient: {k.slice_mm for k in data.slices if k.patient == each.patient} for each in data.slices}
    assert max(map(len, spacings.values())) == 2


def test_every_synthetic_lesion_is_bright_and_in_its_box(synthetic):
    data = deeplesion.load(synthetic)
    for each in data.slices:
        middle = deeplesion.read_planes(data.images, each, num_slices=1)[0]
        is_lesion = middle > 300
        is_boxed = torch.zeros_like(is_lesion)
        for x1, y1, x2, y2 in each.boxes:
            x1, y1, x2, y2 = map(int, (x1, y1, x2, y2))
            is_boxed[y1 : y2 + 1, x1 : x2 + 1] = True
            assert is_lesion[y1, x1 : x2 + 1].any()
            assert is_lesion[y1 : y2 + 1, x2].any()
        assert not (is_lesion & ~is_boxed).any()


def test_the_synthetic_tree_is_seeded_and_overwrites_nothing(synthetic, tmp_path):
    again = make_synthetic(tmp_path / "a", patients=8, image_size=64)
    other = make_synthetic(tmp_path / "b", patients=8, image_size=64, seed=1)
    text = (synthetic / "DL_info.csv").read_text()
    assert text.startswith((again / "DL_info.csv").read_text())
    assert not text.startswith((other / "DL_info.csv").read_text())
    name = "Images_png/000003_01_01/040.png"
    assert (synthetic / name).read_bytes() == (again / name).read_bytes()
    with pytest.raises(FileExistsError, match=r"DL_info.csv' already exists"):
        make_synthetic(synthetic)
    with pytest.raises(ValueError, match="patients must be at least 8, one per irregularity; got 7"):
        make_synthetic(tmp_path / "c", patients=7)
    with pytest.raises(ValueError, match="image_size must be at least 64, got 32"):
        make_synthetic(tmp_path / "c", image_size=32)


def test_a_folder_of_another_layout_is_refused(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not DeepLesion's layout: it needs DL_info.csv and Images_png/"):
        deeplesion.load(tmp_path / "nowhere")
    folder = tree()
    (folder / "DL_info.csv").rename(folder / "table.csv")
    with pytest.raises(FileNotFoundError, match="is not DeepLesion's layout"):
        deeplesion.load(folder)


def test_a_missing_column_is_named(tree):
    path = tree() / "DL_info.csv"
    path.write_text(path.read_text().replace("Patient_age", "age").replace("Spacing_mm_px_", "Spacing"))
    with pytest.raises(ValueError, match=r"has no column \['Spacing_mm_px_', 'Patient_age'\]; it has \['File_name'"):
        deeplesion.load(path.parent)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"Bounding_boxes": "1, 2, 3"}, "line 2: Bounding_boxes must be 4 numbers, got '1, 2, 3'"),
        ({"Bounding_boxes": ""}, "line 2: Bounding_boxes must be x1, y1, x2, y2 with the second corner not before .*, got ''"),
        ({"Bounding_boxes": "9, 2, 3, 4"}, "line 2: Bounding_boxes must be x1, y1, x2, y2"),
        ({"Patient_age": "062Y"}, "line 2: Patient_age must be 1 number, got '062Y'"),
        ({"Patient_gender": "female"}, "line 2: Patient_gender must be M, F, O or empty, got 'female'"),
        ({"Patient_index": ""}, "line 2: Patient_index must be a number, got ''"),
        ({"Train_Val_Test": "train"}, "line 2: Train_Val_Test must be 1 number, got 'train'"),
        ({"Train_Val_Test": "4"}, "line 2: Train_Val_Test must be 1, 2 or 3, got '4'"),
        ({"Coarse_lesion_type": "9"}, "line 2: Coarse_lesion_type must be 1 to 8, or -1 where it is unknown, got '9'"),
        ({"File_name": "a.jpg"}, "line 2: File_name must be like 000091_03_01_093.png, got 'a.jpg'"),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_read_is_named(tree, cells, message):
    with pytest.raises(ValueError, match=message):
        deeplesion.load(tree(**cells))


def test_key_slices_that_are_not_there(tree):
    other = {"File_name": "000091_03_01_050.png"}
    message = (
        "files of 1 of 2 key slices are not in .*such as '000091_03_01_050.png'; only_with_image=True leaves them out"
    )
    with pytest.raises(FileNotFoundError, match=message):
        deeplesion.load(tree(other))
    assert only(deeplesion.load(tree(other), only_with_image=True)).index == 93
    with pytest.raises(FileNotFoundError, match="files of 1 of 1 key slices"):
        deeplesion.load(tree(**other), only_with_image=True)


def test_files_that_are_no_slices(tree):
    data = deeplesion.load(tree())
    path = data.images / "000091_03_01" / "094.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"094.png' must be a 16-bit grey image, .* its mode is 'L'"):
        deeplesion.read_planes(data.images, only(data))
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"094.png' has another size than its key slice 093.png"):
        deeplesion.read_planes(data.images, only(data))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cannot read the slice '.*094.png'"):
        deeplesion.read_planes(data.images, only(data))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_slices": 6}, "num_slices must be odd and positive, so that the key slice is in the middle; got 6"),
        ({"spacing_mm": 0}, "spacing_mm must be above 0, got 0"),
        ({"window": (50, 50)}, r"window must have a lower value below a higher one, got \(50, 50\)"),
    ],
)
def test_settings_are_checked(tree, settings, message):
    data = deeplesion.load(tree())
    with pytest.raises(ValueError, match=message):
        deeplesion.LesionCases(data, data.slices, data.schema(), **settings)
