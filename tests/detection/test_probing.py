import re
from collections import OrderedDict, namedtuple

import pytest
import timm
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision.models import swin_transformer
from torchvision.ops import Permute

from alignedfusion import AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion, FusedDetector
from alignedfusion.detection.probing import find_maps, is_map

Levels = namedtuple("Levels", ["fine", "coarse"])


class Encoder(nn.Module):
    """Returns what encoders return beside their maps: the image, an empty level, positions and masks."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(3, 5, 3, padding=1)
        self.coarse = nn.Conv2d(5, 13, 3, stride=2, padding=1)

    def forward(self, image):
        fine = self.fine(image)
        coarse = self.coarse(fine)
        positions = torch.ones(1, 7, *fine.shape[2:])
        empty = image.new_zeros(len(image), 0, 4, 4)
        return [image, empty, OrderedDict(maps=Levels(fine, coarse), mask=fine[:, 0] > 0), {"position": positions}]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return self.encoder(image)


IMAGE = torch.randn(3, 3, 8, 10, generator=torch.Generator().manual_seed(3))
ALL = [3, 5, 13, 7]  # channels of the image, the two maps and the positions

CHOICES = {
    "all but the image": (None, (1, 2, 3), [5, 13, 7]),
    "by index": ([1], (1,), [5]),
    "from the end": ([-2], (2,), [13]),
    "in another order": ([2, 1], (2, 1), [13, 5]),
    "by the key of a mapping": (["maps"], (1, 2), [5, 13]),
    "by the field of a tuple": (["coarse"], (2,), [13]),
    "by index and key": ([0, "position"], (0, 3), [3, 7]),
    "everything": (range(4), None, ALL),
}


@pytest.mark.parametrize(("chosen", "indices", "channels"), CHOICES.values(), ids=CHOICES)
def test_maps_are_chosen_by_index_or_name(chosen, indices, channels):
    found = find_maps(Network(), "encoder", IMAGE, chosen=chosen)
    assert found[0] == indices
    assert [each.shape[1] for each in found[1]] == channels


def test_only_the_chosen_maps_are_changed(schema):
    network = Network().eval()
    plain = tree_leaves(network(IMAGE))
    tokenizer = AttributeTokenizer(schema, 38)
    for maps, changed in ((None, {2, 3, 5}), (["coarse"], {3}), ([2, 1], {2, 3}), (range(4), {0, 2, 3, 5})):
        fusion = FeatureMapFusion.for_model(network, tokenizer, at="encoder", example=IMAGE, maps=maps, num_heads=2)
        for write in fusion.write:
            nn.init.normal_(write.value.weight)
        model = FusedDetector(network, fusion, at="encoder")
        expanded = maps is None or 3 in maps  # positions are one row for all images: they take one row of codes
        out = tree_leaves(model(IMAGE[:1] if expanded else IMAGE, codes=[{"elevation": "flat"}]))
        before = tree_leaves(network.encoder.forward(IMAGE[:1])) if expanded else plain
        assert {i for i, (a, b) in enumerate(zip(out, before, strict=True)) if not torch.equal(a, b)} == changed
        model.remove()


def test_what_is_a_map():
    assert all(is_map(torch.zeros(shape)) for shape in ((2, 1, 3, 5), (0, 3, 7, 7), (2, 3, 1, 5, 7)))
    assert not any(is_map(torch.zeros(shape)) for shape in ((2, 0, 3, 5), (2, 3, 5), (2, 3), (1, 2, 3, 4, 5, 6)))
    assert not is_map(torch.zeros(2, 3, 5, 7, dtype=torch.int64))
    assert not is_map(None)


def test_a_module_that_returns_its_input_in_place_still_has_a_map():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True))
    indices, maps = find_maps(model, "1", IMAGE)
    assert indices is None
    assert maps[0].shape == (3, 5, 8, 10)


def test_probing_leaves_the_model_as_it_was():
    model = Network()
    model.encoder.fine.eval()  # such as a frozen batch norm
    find_maps(model, "encoder", IMAGE)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert not any(module._forward_hooks for module in model.modules())


def test_channels_last_are_refused():
    small = {"img_size": 32, "window_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
    settings = {"features_only": True, "pretrained": False, "out_indices": (0, 1), **small}
    of_timm = timm.create_model("swin_tiny_patch4_window7_224", **settings)
    of_torchvision = swin_transformer.SwinTransformer([4, 4], 24, [1, 1], [1, 2], [2, 2]).features
    for swin, size in ((of_timm, (1, 4, 4, 16)), (of_torchvision, (1, 4, 6, 48))):
        image = torch.rand(1, 3, 32, 32 if swin is of_timm else 48)
        with pytest.raises(
            ValueError, match=rf"returns maps with the channels last, such as {re.escape(str(size))}: put"
        ):
            find_maps(swin, "", image)
    # A layer norm does not make a map channels-last.
    convnext = timm.create_model("convnext_atto", features_only=True, pretrained=False)
    assert [each.shape[1] for each in find_maps(convnext, "", torch.rand(1, 3, 64, 64))[1]] == [40, 80, 160, 320]
    assert find_maps(nn.Sequential(of_torchvision, Permute([0, 3, 1, 2])), "", image)[1][0].shape == (1, 48, 4, 6)


def test_what_is_not_there_is_named():
    listed = (
        r"known are \['0:  \(3, 3, 8, 10\)', '1: maps.fine \(3, 5, 8, 10\)', '2: maps.coarse \(3, 13, 4, 5\)', '3: pos"
    )
    for name in (4, -5, "neck"):
        with pytest.raises(ValueError, match=rf"there is no map {name!r}; {listed}"):
            find_maps(Network(), "encoder", IMAGE, chosen=[name])
    for chosen in ([], [1, -3], [1, "maps"]):
        with pytest.raises(ValueError, match=r"maps must name one or more different maps, got \["):
            find_maps(Network(), "encoder", IMAGE, chosen=chosen)
    with pytest.raises(ValueError, match=r"submodule 'unused' does not run in a forward pass"):
        find_maps(Network(), "unused", IMAGE)
