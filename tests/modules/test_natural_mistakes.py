"""The mistakes of a first hour, and the messages that name what came, what is wanted and the likely fix."""

import re
import warnings

import numpy as np
import pytest
import torch

from alignedfusion import IntermediateTokenFusion, VisualTokenizer, presets
from alignedfusion.modules.inputs import check_range

CODES = torch.tensor([[0, -1, 2], [1, 0, -1]])
LABELS = torch.tensor([2, 0])
IMAGE = torch.zeros(2, 3, 32, 32)


@pytest.fixture(scope="module")
def model(schema):
    """B = 2 cases, A = 3 attributes, C = 3 classes, images of 32 x 32."""
    backbone = presets.Backbone("vit_tiny_patch16_224", pretrained=False, image_size=32)
    return presets.standard(schema, ["naevus", "melanoma", "other"], backbone=backbone, dim=64)


CODES_WANTED = "codes must be an int64 tensor of shape (B, 3), got "
LABELS_WANTED = "labels must be class indices, an int64 tensor of shape (2,), got "
IMAGES_WANTED = "expected images (B, 3, height, width), got a tensor of shape "
PREPARE = "visual.transform() prepares PIL images: it scales 0 to 255 to 0 to 1, subtracts the mean [0.5, 0.5, 0.5]"

MISTAKES = {
    # codes
    "rows as codes": (
        {"codes": [{"age": 54}, {}]},
        f"{CODES_WANTED}list: schema.encode(rows) turns a list such as [{{'elevation': 'flat'}}] or a DataFrame into codes",
    ),
    "texts as codes": ({"codes": [["flat", "absent", "54"]]}, f"{CODES_WANTED}list: schema.encode(rows)"),
    "an array of codes": ({"codes": CODES.numpy()}, f"{CODES_WANTED}ndarray: schema.encode(rows)"),
    "codes of one case": (
        {"codes": CODES[0]},
        "got torch.int64 of shape (3,): a single row needs a batch dimension, codes[None]",
    ),
    "codes as int32": ({"codes": CODES.int()}, "got torch.int32 of shape (2, 3): codes.long()"),
    "codes on another device": (
        {"codes": CODES.to("meta")},
        "codes must be on the model's device 'cpu', got 'meta': codes.to('cpu')",
    ),
    # labels
    "names as labels": (
        {"labels": ["naevus", "other"]},
        f"{LABELS_WANTED}list: torch.tensor([model.class_names.index(name) for name in labels])",
    ),
    "a list of labels": ({"labels": [0, 2]}, f"{LABELS_WANTED}list: torch.tensor(labels)"),
    "float labels": ({"labels": LABELS.float()}, f"{LABELS_WANTED}torch.float32 of shape (2,): labels.long()"),
    "one-hot labels": (
        {"labels": torch.eye(3)[LABELS]},
        f"{LABELS_WANTED}torch.float32 of shape (2, 3): these look one-hot, labels.argmax(1) gives indices",
    ),
    "a column of labels": (
        {"labels": LABELS[:, None]},
        f"{LABELS_WANTED}torch.int64 of shape (2, 1): labels.squeeze(1).long()",
    ),
    "labels of other cases": ({"labels": LABELS[:1]}, f"{LABELS_WANTED}torch.int64 of shape (1,)"),
    "labels from 1": (
        {"labels": torch.tensor([1, 3])},
        "label 3 in row 1 is out of range: 3 classes take labels 0 to 2, and -100 is ignored",
    ),
    "label -1": ({"labels": torch.tensor([-1, 2])}, "label -1 in row 0 is out of range"),
    # images
    "an array of images": (
        {"image": np.zeros((2, 3, 32, 32))},
        "images of 'image' must be a tensor, got ndarray: visual.transform() makes tensors of PIL images",
    ),
    "bytes as images": (
        {"image": IMAGE.byte()},
        f"expected prepared images of a float type, got torch.uint8; {PREPARE}",
    ),
    "pixels up to 255": ({"image": IMAGE + 255}, f"images have values up to 255: they are not normalised; {PREPARE}"),
    "channels last": (
        {"image": IMAGE.permute(0, 2, 3, 1)},
        f"{IMAGES_WANTED}(2, 32, 32, 3): channels come second, image.permute(0, 3, 1, 2)",
    ),
    "grayscale images": (
        {"image": IMAGE[:, :1]},
        f"{IMAGES_WANTED}(2, 1, 32, 32): repeat a grayscale image, image.expand(-1, 3, -1, -1), or build the backbone with",
    ),
    "grayscale images without channels": (
        {"image": IMAGE[:, 0]},
        f"{IMAGES_WANTED}(2, 32, 32): grayscale images need channels, image[:, None].expand(-1, 3, -1, -1)",
    ),
    "one image": (
        {"image": IMAGE[0]},
        "got 3 images of 'image' for 2 rows of codes; a single image needs a batch dimension",
    ),
    "images of another size": (
        {"image": torch.zeros(2, 3, 48, 48)},
        "this backbone takes images of 32 x 32 pixels, got 48 x 48; visual.transform() prepares PIL images, and",
    ),
    "images on another device": (
        {"image": IMAGE.to("meta")},
        "image must be on the model's device 'cpu', got 'meta': image.to('cpu')",
    ),
    # masks
    "a mask without its modality": (
        {"is_present": torch.tensor([True, False])},
        "is_present must map modalities to masks, such as {'image': mask}, got Tensor",
    ),
    "a list as mask": (
        {"is_present": {"image": [True, False]}},
        "is_present['image'] must be a bool tensor of shape (2,), got list",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_call_names_what_came_and_what_is_wanted(mistake, model):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**{"image": IMAGE, "codes": CODES, "labels": LABELS, **changes})


def test_the_call_without_a_mistake_works_and_ignores_label_minus_100(model):
    model.eval()
    loss = model(IMAGE[:1], CODES[:1], LABELS[:1]).loss
    torch.testing.assert_close(model(IMAGE, CODES, torch.tensor([2, -100])).loss, loss)


@pytest.mark.parametrize(
    "class_names", [3, "melanoma", ["naevus", "naevus"]], ids=["a number", "one name", "a name twice"]
)
def test_class_names_must_be_names(class_names, schema):
    message = f"names in the order of the labels, such as ['nevus', 'melanoma'], got {class_names!r}"
    for preset in (presets.standard, presets.paper):
        with pytest.raises(ValueError, match=re.escape(message)):
            preset(schema, class_names)
    with pytest.raises(ValueError, match=r"for 3 unnamed classes, range\(3\)"):
        presets.standard(schema, 3)
    assert presets.standard(schema, range(3), images=()).class_names == ("0", "1", "2")


def test_a_fusion_takes_a_mapping():
    fusion, tokens = IntermediateTokenFusion(38), torch.zeros(2, 5, 38)
    for given in (tokens, [tokens, tokens]):
        message = (
            "takes a mapping of modalities to tokens with the keys ['image', 'report'], got " + type(given).__name__
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            fusion(given)


@pytest.mark.parametrize(
    ("tokens", "fix"),
    [
        (
            torch.zeros(2, 38, 5, 7),
            ", got (2, 38, 5, 7): a feature map becomes tokens by map.flatten(2).transpose(1, 2)",
        ),
        (torch.zeros(2, 38, 5), ", got (2, 38, 5): tokens.transpose(1, 2)"),
        (torch.zeros(2, 5, 17), ", got (2, 5, 17): torch.nn.Linear(17, 38) brings them to the width of the fusion"),
        (torch.zeros(2, 38), ", got (2, 38), one vector per row: take the backbone's output before pooling"),
        (torch.zeros(3, 5, 38), ", got (3, 5, 38)"),
    ],
)
def test_tokens_of_another_shape_name_the_fix(tokens, fix):
    report = torch.zeros(2, 3, 38)
    with pytest.raises(ValueError, match=re.escape(f"tokens of 'image' must be (2, N, 38){fix}")):
        IntermediateTokenFusion(38, modalities=("report", "image"))({"image": tokens, "report": report})


def test_a_mask_of_zeros_and_ones_names_the_fix():
    tokens = {"image": torch.zeros(2, 5, 38), "report": torch.zeros(2, 3, 38)}
    with pytest.raises(ValueError, match=r"got torch.int64 of shape \(2,\): mask.bool\(\)$"):
        IntermediateTokenFusion(38)(tokens, is_present={"image": torch.tensor([1, 0])})


@pytest.mark.parametrize(
    ("masks", "named"),
    [
        ({"is_valid": {"image": torch.zeros(2, 4, dtype=torch.bool)}}, r"is_valid\['image'\]"),
        ({"is_present": dict.fromkeys(("image", "report"), torch.tensor([False, False]))}, "is_present"),
    ],
    ids=["is_valid", "is_present"],
)
def test_an_inverted_mask_warns(masks, named, model):
    with pytest.warns(UserWarning, match=f"^{named} is False everywhere, so nothing is read: True marks what is there"):
        model(IMAGE, CODES, **masks)
    with warnings.catch_warnings():  # the right way round it does not
        warnings.simplefilter("error")
        model(IMAGE, CODES, **{name: {m: ~mask for m, mask in given.items()} for name, given in masks.items()})


def test_an_absent_modality_and_its_padding_do_not_warn(model):
    absent = {"is_present": {"image": torch.zeros(2, dtype=torch.bool)}}
    model(IMAGE, CODES, **absent, is_valid={"image": torch.zeros(2, 4, dtype=torch.bool)})


def test_a_normalised_image_passes_the_check_of_its_range():
    visual = VisualTokenizer("test_vit", 38, pretrained=False)
    mean, std = (torch.tensor(visual.preprocessing[name])[:, None, None] for name in ("mean", "std"))
    for pixels in (0.0, 1.0):  # the darkest and the brightest
        check_range(((pixels - mean) / std)[None], visual.preprocessing)
