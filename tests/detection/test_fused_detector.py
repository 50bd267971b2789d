"""Detectors of other libraries, each with a small random backbone; then a toy, for everything around a call."""

import copy
import io
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.checkpoint import checkpoint

from alignedfusion import UNKNOWN, Attribute, AttributeSchema, AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion, FusedDetector
from alignedfusion.detection.fused_detector import LOSS

# MONAI rounds a tensor with NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
CODES = torch.tensor([[2, 1, 4], [0, UNKNOWN, 3], [UNKNOWN, UNKNOWN, UNKNOWN]])
BOXES = torch.tensor([[5.0, 7.0, 41.0, 53.0], [17.0, 11.0, 61.0, 37.0]])


class Case(NamedTuple):
    """A detector and how it is called.

    `heads` names submodules whose output comes straight from the maps; `losses` is what training returns: "dict", "hf"
    (an output with a loss), or None for a network that returns maps.
    """

    detector: nn.Module
    at: str
    example: Any
    targets: Any
    heads: tuple[str, ...]
    losses: str | None = "dict"

    def __call__(self, model: nn.Module, targets: Any = None, **named: Any) -> Any:
        if self.losses == "hf":
            return model(pixel_values=self.example, labels=targets, **named)
        return model(self.example, **named) if targets is None else model(self.example, targets, **named)

    def loss(self, model: nn.Module, **named: Any) -> torch.Tensor:
        if self.losses is None:
            with model.use_codes(named["codes"]) as call:
                return sum(m.square().mean() for m in self(model, self.targets)) + call.loss
        out = self(model, self.targets, **named)
        return out.loss if self.losses == "hf" else sum(out.values())


def torchvision_case(kind):
    from torchvision.models import detection, mobilenet_v3_small
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import MultiScaleRoIAlign

    body = mobilenet_v3_small(weights=None, width_mult=0.5).features
    with torch.no_grad():
        layers = {"1": "0", "3": "1", "8": "2"}
        channels = [body[: int(i) + 1](torch.zeros(1, 3, 32, 32)).shape[1] for i in layers]
    backbone = BackboneWithFPN(body, layers, channels, out_channels=32)
    settings = {"num_classes": 3, "min_size": 64, "max_size": 96}
    scales = ((8,), (16,), (32,), (64,))
    if "rcnn" in kind.lower():
        settings |= {
            "rpn_anchor_generator": AnchorGenerator(scales, ((1.0,),) * 4),
            "box_head": nn.Sequential(nn.Flatten(), nn.Linear(32 * 9, 32)),
            "box_predictor": detection.faster_rcnn.FastRCNNPredictor(32, 3),
            "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2"], 3, 2),
            "rpn_post_nms_top_n_train": 20,
            "rpn_post_nms_top_n_test": 20,
        }
        settings["num_classes"] = None
    else:
        settings["anchor_generator"] = AnchorGenerator(scales, ((1.0,),) * 4)
    if kind == "MaskRCNN":
        settings |= {
            "mask_roi_pool": MultiScaleRoIAlign(["0", "1", "2"], 3, 2),
            "mask_head": detection.mask_rcnn.MaskRCNNHeads(32, (16,), 1),
            "mask_predictor": detection.mask_rcnn.MaskRCNNPredictor(16, 16, 3),
        }
    targets = [{"boxes": BOXES, "labels": torch.tensor([1, 2]), "masks": torch.ones(2, 64, 80).byte()}] * 3
    head = "rpn.head" if "rcnn" in kind.lower() else "head"
    detector = getattr(detection, kind)(backbone, **settings)
    return Case(detector, "backbone", list(torch.rand(3, 3, 64, 80)), targets, (head,))


def timm_case():
    import timm

    model = timm.create_model("mobilenetv3_small_050", features_only=True, pretrained=False, out_indices=(1, 2))
    return Case(model, "", torch.rand(3, 3, 64, 80), None, (), None)  # "" is the network itself


def monai_case():
    pytest.importorskip("monai")
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.networks.retinanet_network import RetinaNet
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
    from monai.networks.blocks.backbone_fpn_utils import BackboneWithFPN
    from monai.networks.nets.resnet import ResNet

    body = ResNet("basic", [1, 1, 1, 1], [8, 8, 8, 8], 3, 1, conv1_t_size=3, conv1_t_stride=2, no_max_pool=True)
    backbone = BackboneWithFPN(body, {"layer1": "0", "layer2": "1"}, [8, 8], out_channels=8)
    network = RetinaNet(3, num_classes=2, num_anchors=1, feature_extractor=backbone, size_divisible=4)
    detector = RetinaNetDetector(network, AnchorGeneratorWithAnchorShape((1, 2, 4), ((8, 6, 4),)))
    detector.set_atss_matcher(num_candidates=4)
    targets = [{"boxes": torch.tensor([[2.0, 3, 5, 9, 11, 13]]), "labels": torch.tensor([1])}] * 3
    heads = ("network.classification_head", "network.regression_head")
    return Case(detector, "network.feature_extractor", list(torch.rand(3, 1, 16, 20, 24)), targets, heads)


def hugging_face_case(kind):
    import transformers

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1] * 4, "layer_type": "basic"}
    small = {"d_model": 16, "num_queries": 5, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_layers": 1}
    small |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_labels": 3, "dropout": 0.0}
    if kind == "DETR":
        backbone = transformers.ResNetConfig(**sizes, out_features=["stage4"])
        own = {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False}  # older releases ask
        config = transformers.DetrConfig(backbone_config=backbone, encoder_layers=1, **own, **small)
        detector = transformers.DetrForObjectDetection(config)
    else:
        backbone = transformers.RTDetrResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])
        widths = {"encoder_in_channels": [12, 16, 20], "decoder_in_channels": [16] * 3, "encoder_hidden_dim": 16}
        config = transformers.RTDetrConfig(backbone_config=backbone, num_denoising=0, **widths, **small)
        detector = transformers.RTDetrForObjectDetection(config)
    targets = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.4]])}] * 3
    heads = ("model.encoder",)
    return Case(detector, "model.backbone", torch.rand(3, 3, 64, 96), targets, heads, "hf")


def a3d_case():
    from alignedfusion.detection.a3d import a3d_detector

    detector = a3d_detector(num_slices=2, pretrained=False, head_width=16, anchor_sizes=(16, 32))
    targets = [{"boxes": torch.tensor([[3.0, 5.0, 23.0, 29.0]]), "labels": torch.tensor([1])}] * 3
    return Case(detector, "backbone", list(255 * torch.rand(3, 2, 32, 48)), targets, ("rpn.head",))


CASES: dict[str, Callable[[], Case]] = {
    "torchvision Faster R-CNN": lambda: torchvision_case("FasterRCNN"),
    "torchvision Mask R-CNN": lambda: torchvision_case("MaskRCNN"),
    "torchvision RetinaNet": lambda: torchvision_case("RetinaNet"),
    "torchvision FCOS": lambda: torchvision_case("FCOS"),
    "timm features_only": timm_case,
    "MONAI 3-D RetinaNet": monai_case,
    "Hugging Face DETR": lambda: hugging_face_case("DETR"),
    "Hugging Face RT-DETR": lambda: hugging_face_case("RT-DETR"),
    "A3D": a3d_case,
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    torch.manual_seed(0)
    return request.param()


def plug_in(case, schema, **settings):
    torch.manual_seed(1)
    tokenizer = AttributeTokenizer(schema, 38)
    fusion = FeatureMapFusion.for_model(
        case.detector, tokenizer, at=case.at, example=example(case), num_heads=2, **settings
    )
    return FusedDetector(case.detector, fusion, at=case.at)


def example(case):
    return {"pixel_values": case.example} if case.losses == "hf" else case.example


def same(first, second):
    """Whether two outputs are the same bit for bit, in the same structure."""
    (a, structure), (b, other) = tree_flatten(first), tree_flatten(second)
    return structure == other and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


def watch(model, case):
    """A list that the fused maps and the heads' outputs of each call go to, as one list of tensors with a row per image."""
    seen = []

    def keep(module, inputs, output):
        seen.append([x for x in tree_leaves(output) if isinstance(x, torch.Tensor) and x.is_floating_point()])

    for name in (case.at, *case.heads):
        model.detector.get_submodule(name).register_forward_hook(keep)
    return seen


def test_at_step_0_nothing_has_changed(case, schema):
    plain = copy.deepcopy(case.detector).eval()
    keys, checkpoint = list(plain.state_dict()), plain.state_dict()
    with torch.no_grad():
        before = case(plain)
        model = plug_in(case, schema).eval()
        for codes in (CODES, CODES.clamp(min=0), None):
            after = case(model, codes=codes)
            assert type(after) is type(before)
            assert same(after, before)
        with model.use_codes(CODES):
            assert same(case(model.detector), before)
    assert list(model.detector.state_dict()) == keys
    own = {f"detector.{name}" for name in keys} | {f"fusion.{name}" for name in model.fusion.state_dict()}
    assert set(model.state_dict()) == own
    model.detector.load_state_dict(checkpoint)


def test_after_one_step_a_row_reacts_to_its_own_attributes_and_to_no_other(case, schema):
    model = plug_in(case, schema).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    case.loss(model, codes=CODES).backward()
    optimizer.step()
    model.eval()
    seen = watch(model, case)
    other = CODES.clone()
    other[1] = torch.tensor([1, 0, 0])
    with torch.no_grad():
        for codes in (CODES, other):
            case(model, codes=codes)
    half = len(seen) // 2
    assert half == 1 + len(case.heads)
    for first, second in zip(seen[:half], seen[half:], strict=True):
        rows = [(a, b) for a, b in zip(first, second, strict=True) if len(a) == 3]
        assert rows
        assert all(a.isfinite().all() for a, _ in rows)
        assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in rows)
        assert any(not torch.equal(a[1], b[1]) for a, b in rows)


def test_training_adds_the_reconstruction_loss(case, schema):
    model = plug_in(case, schema, hide_probability=0.5).train()
    torch.manual_seed(2)
    with model.use_codes(CODES) as call:
        plain = case(model.detector, case.targets)
    assert call.loss > 0
    running = {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    if case.losses is None:
        with pytest.raises(ValueError, match=r"returned a list in training, which has no place for the reconstruction"):
            case(model, codes=CODES)
        return
    torch.manual_seed(2)
    out = case(model, case.targets, codes=CODES)
    assert all(value.isfinite().all() for value in running.values())
    assert type(out) is type(plain)
    if case.losses == "dict":
        assert set(out) == {*plain, LOSS}
        assert out[LOSS] == call.loss
        assert all(torch.allclose(out[name], value) for name, value in plain.items())
    else:
        assert list(out) == list(plain)
        torch.testing.assert_close(out.loss, plain.loss + call.loss)
        assert out["loss"] is out.loss
    case.loss(model, codes=CODES).backward()
    assert model.fusion.reconstructor.query[1].weight.grad.abs().sum() > 0


class Toy(nn.Module):
    """A fully convolutional detector: logits, or in training with targets a dict of losses."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.GELU())
        self.head = nn.Conv2d(5, 2, 1)
        self.fails = False

    def forward(self, images, targets=None):
        logits = self.head(self.backbone(images))
        if self.fails:
            raise KeyError("the detector's own")
        return logits if targets is None else {"loss_box": (logits - targets).square().mean()}


def toy(side="output", at="backbone", seed=0, **settings):
    """A fused toy with an output layer that is not zero; it needs no fixture, so that other processes can build it."""
    attributes = [Attribute("a", values=("x", "y", "z")), Attribute("b", values=("0", "1"))]
    schema = AttributeSchema([*attributes, Attribute("age", kind="numeric", edges=(30.0, 45.0, 60.0, 75.0))])
    torch.manual_seed(seed)
    fusion = FeatureMapFusion(AttributeTokenizer(schema, 14), [5], num_heads=2, **settings)
    nn.init.normal_(fusion.write[0].value.weight)
    return FusedDetector(Toy(), fusion, at=at, side=side).eval()


def images(rows=3):
    return torch.randn(rows, 3, 7, 11, generator=torch.Generator().manual_seed(5))


def some_codes(count, rows=3):
    generator = torch.Generator().manual_seed(6)
    limits = torch.tensor([3, 2, 5])
    return [(torch.rand(rows, 3, generator=generator) * (limits + 1)).long() - 1 for _ in range(count)]


def by_hand(model, x, codes):
    """The output of the toy, with its maps fused by hand."""
    with torch.no_grad():
        maps = nn.functional.gelu(model.detector.backbone[0](x))
        return model.detector.head(model.fusion(maps, codes).maps)


def test_it_is_fusing_the_maps_and_nothing_else():
    model, x = toy(), images()
    for codes in [*some_codes(3), None]:
        out = model(x, codes=codes)
        assert torch.equal(out, by_hand(model, x, codes))
        with model.use_codes(codes):
            assert torch.equal(model.detector(x), out)
            assert torch.equal(model(x), out)  # no need to know which of the two is called
    unmentioned = torch.full((3, 3), UNKNOWN)
    assert torch.equal(model(x), model(x, codes=unmentioned))
    assert torch.equal(model.detector(x), model(x))
    assert not torch.equal(model(x), model.detector.head(nn.functional.gelu(model.detector.backbone[0](x))))


def test_an_argument_goes_before_the_context_and_the_inner_context_before_the_outer():
    model, x = toy(), images()
    first, second, third = some_codes(3)
    with model.use_codes(first):
        assert torch.equal(model(x, codes=second), by_hand(model, x, second))
        with model.use_codes(third):
            assert torch.equal(model(x), by_hand(model, x, third))
        assert torch.equal(model(x), by_hand(model, x, first))
    assert torch.equal(model(x), by_hand(model, x, None))


def test_the_input_of_a_module_can_be_fused():
    model, x = toy(), images()
    before = toy(side="input", at="head")
    before.load_state_dict(model.state_dict())
    for codes in some_codes(2):
        assert torch.equal(before(x, codes=codes), model(x, codes=codes))

    class Named(Toy):
        def forward(self, images):
            return self.take(levels=[self.backbone(images)], size=(7, 11))

        def take(self, **named):
            return self.neck(**named)

    class Neck(nn.Module):
        def forward(self, levels, *, size):
            assert size == (7, 11)
            assert type(levels) is list
            return levels[0]

    named = Named()
    named.neck = Neck()
    keyword = FusedDetector(named, model.fusion, at="neck", side="input").eval()
    codes = some_codes(1)[0]
    expected = model.fusion(named.backbone(x), codes).maps
    assert torch.equal(keyword(x, codes=codes), expected)
    fusion = FeatureMapFusion.for_model(
        named, model.fusion.tokenizer, at="neck", side="input", example=x, num_heads=2, read="pooled"
    )
    assert fusion.channels == (5,)
    assert "at='neck', side='input'" in repr(keyword)


def test_places_are_refused_by_name():
    fusion = toy().fusion
    with pytest.raises(
        ValueError, match=r"no submodule 'backbne'; the submodules of the model are \['backbone', 'head'\]"
    ):
        FusedDetector(Toy(), fusion, at="backbne")
    with pytest.raises(ValueError, match=r"no submodule 'backbone.7'; the submodules of 'backbone' are \['0', '1'\]"):
        FusedDetector(Toy(), fusion, at="backbone.7")
    with pytest.raises(ValueError, match=r"side must be 'output' or 'input', got 'both'"):
        FusedDetector(Toy(), fusion, at="backbone", side="both")
    with pytest.raises(ValueError, match=r"got 2 rows of codes for maps of 3 images"):
        toy()(images(), codes=some_codes(1, rows=2)[0])


def returning(output, **settings):
    """A fused toy in training whose detector returns this output."""
    model = toy(**{"hide_probability": 1.0, **settings}).train()
    model.detector.forward = lambda images: (model.detector.backbone(images), output)[1]
    return model


def test_outputs_with_a_place_get_the_loss():
    model, x = toy(hide_probability=1.0), images()
    codes = some_codes(1)[0]
    out = model.train()(x, torch.zeros(3, 2, 7, 11), codes=codes)
    assert set(out) == {"loss_box", LOSS}
    assert out[LOSS] > 0
    assert set(model.eval()(x, torch.zeros(3, 2, 7, 11), codes=codes)) == {"loss_box"}

    given = {"loss": torch.tensor(2.0), "logits": x}
    out = returning(given)(x, codes=codes)
    assert list(out) == ["loss", "logits"]
    assert out["loss"] > 2
    assert given["loss"] == 2
    assert returning(given).eval()(x, codes=codes) is given


WITHOUT_PLACE = {
    "tensor": (torch.zeros(2, 3), r"a tensor \(2, 3\)"),
    "tuple": (({"box": torch.tensor(1.0)}, []), "a tuple"),
    "list": ([torch.tensor(1.0)], "a list"),
    "empty dict": ({}, r"a dict with the keys \[\]"),
    "dict of lists": ({"loss": [torch.tensor(1.0)]}, r"a dict with the keys \['loss'\]"),
    "dict of maps": ({"boxes": torch.zeros(2, 4)}, r"a dict with the keys \['boxes'\]"),
}


@pytest.mark.parametrize(("output", "kind"), WITHOUT_PLACE.values(), ids=WITHOUT_PLACE)
def test_the_loss_is_never_lost(output, kind):
    model, x, codes = returning(output), images(), some_codes(1)[0]
    with pytest.raises(ValueError, match=rf"returned {kind} in training, which has no place .* and then `call.loss`"):
        model(x, codes=codes)
    # The one way that works with every output, for the detector and for the wrapped one.
    for called in (model, model.detector):
        with model.use_codes(codes) as call:
            assert called(x) is output
        assert call.loss > 0
    assert model.eval()(x, codes=codes) is output
    with torch.no_grad():
        assert model.train()(x, codes=codes) is output  # nothing is learned
    assert returning(output, hide_probability=0.0)(x, codes=codes) is output  # nothing is hidden


def test_add_loss_can_be_overridden():
    class Pairs(FusedDetector):
        def add_loss(self, output, loss):
            return output[0] + loss, output[1]

    plain = returning(None)
    model = Pairs(returning((torch.tensor(2.0), "boxes")).remove(), plain.fusion, at="backbone").train()
    total, boxes = model(images(), codes=some_codes(1)[0])
    assert total > 2
    assert boxes == "boxes"
    assert model.eval()(images())[0] == 2


def test_an_open_call_collects_the_losses_of_all_calls_in_it():
    model, x = toy(hide_probability=1.0).train(), images()
    codes = some_codes(1)[0]
    with model.use_codes(codes) as once:
        out = model(x, torch.zeros(3, 2, 7, 11))
    assert set(out) == {"loss_box"}  # the loss is in the call, and counted once
    with model.use_codes(codes) as twice:
        model(x)
        model.detector(x)
    torch.testing.assert_close(twice.loss, 2 * once.loss)


def test_the_loss_of_a_module_that_runs_twice_counts_twice():
    class Twice(Toy):
        def forward(self, images):
            return {"loss_box": (self.backbone(images) + self.backbone(images)).mean()}

    model = toy(hide_probability=1.0)
    twice = FusedDetector(Twice(), model.fusion, at="backbone").train()
    codes, x = some_codes(1)[0], images()
    out = twice(x, codes=codes)
    once = model.fusion(nn.functional.gelu(twice.detector.backbone[0](x)), codes)
    torch.testing.assert_close(out[LOSS], 2 * once.loss)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda detector: pickle.loads(pickle.dumps(detector)),
    "average": AveragedModel,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_of_the_inner_detector_raises_until_it_is_wrapped(duplicate):
    model, x = toy(), images()
    twin, codes = duplicate(model.detector), some_codes(1)[0]
    message = (
        "a copy of one inside a FusedDetector, and the copy has no fusion: copy, average or save the FusedDetector"
    )
    with pytest.raises(RuntimeError, match=message):
        twin(x)
    with pytest.raises(RuntimeError, match=message), model.use_codes(codes):
        twin(x)
    assert torch.equal(model(x, codes=codes), by_hand(model, x, codes))  # the original is as it was

    inner = twin.module if isinstance(twin, AveragedModel) else twin
    again = FusedDetector(inner, copy.deepcopy(model.fusion), at="backbone").eval()
    assert torch.equal(again(x, codes=codes), by_hand(model, x, codes))
    assert len(inner.backbone._forward_hooks) == len(inner.backbone._forward_hooks_with_kwargs) == 1


@pytest.mark.parametrize(("side", "at"), [("output", "backbone"), ("input", "head")])
def test_remove_restores_the_detector(side, at):
    model, x = toy(side=side, at=at), images()
    plain = Toy().eval()
    plain.load_state_dict(model.detector.state_dict())
    fused = model(x)
    assert not torch.equal(fused, plain(x))

    detector = model.remove()

    assert detector is model.detector
    assert torch.equal(detector(x), plain(x))
    assert torch.equal(copy.deepcopy(detector)(x), plain(x))
    for theirs, ours in zip(plain.modules(), detector.modules(), strict=True):
        assert vars(theirs).keys() == vars(ours).keys()
        hooks = [value for name, value in vars(ours).items() if "hooks" in name]
        assert not any(hooks)
    for call in (lambda: model(x), lambda: model.use_codes(None).__enter__()):
        with pytest.raises(RuntimeError, match=r"the fusion was taken off this detector by remove\(\): build a new"):
            call()
    again = FusedDetector(detector, model.fusion, at=at, side=side)
    assert torch.equal(again(x), fused)


def test_wrapping_twice_is_refused():
    model, other, x = toy(), toy(seed=3), images()
    for at in ("backbone", "head"):
        with pytest.raises(
            ValueError, match=r"another FusedDetector \(at='backbone', side='output'\): call its remove"
        ):
            FusedDetector(model.detector, other.fusion, at=at)
    with pytest.raises(ValueError, match="wrapped by another FusedDetector"):
        FusedDetector(nn.Sequential(model.detector), other.fusion, at="0.backbone")
    codes = some_codes(1)[0]
    assert torch.equal(model(x, codes=codes), by_hand(model, x, codes))
    replaced = FusedDetector(model.remove(), other.fusion, at="backbone").eval()
    assert torch.equal(replaced(x, codes=codes), by_hand(replaced, x, codes))


def test_codes_without_effect_are_an_error():
    class Bypass(Toy):
        def forward(self, images, targets=None):
            return self.head(self.backbone.forward(images))  # no hook runs

    model, x, codes = toy(), images(), some_codes(1)[0]
    message = r"no feature maps were fused: the submodule 'backbone' did not run in this thread"
    bypass = FusedDetector(Bypass(), model.fusion, at="backbone").eval()
    for call in (lambda: bypass(x, codes=codes), lambda: bypass(x)):
        with pytest.raises(RuntimeError, match=message):
            call()
    with pytest.raises(RuntimeError, match=message), model.use_codes(codes):
        Toy().eval()(x)
    with pytest.raises(RuntimeError, match=message), model.use_codes(codes):
        bypass.fusion(torch.randn(3, 5, 7, 11))
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match=message), model.use_codes(codes):
        pool.submit(model.detector, x).result()  # a thread has a context of its own
    with pytest.raises(KeyError), model.use_codes(codes):  # the first error is the one to read
        raise KeyError
    with pytest.raises(RuntimeError, match="use DistributedDataParallel"):
        model._replicate_for_data_parallel()


def test_a_part_that_is_checkpointed_is_an_error():
    class Checkpointed(Toy):
        def forward(self, images, targets=None):
            return self.head(checkpoint(self.backbone, images, use_reentrant=self.is_reentrant))

    for is_reentrant in (True, False):
        model = FusedDetector(Checkpointed(), toy().fusion, at="backbone").train()
        model.detector.is_reentrant = is_reentrant
        with model.use_codes(some_codes(1)[0]) as call:
            out = model.detector(images().requires_grad_())
        with pytest.raises(RuntimeError, match=r"'backbone' runs again during backward\(\), where the codes"):
            (out.sum() + call.loss).backward()


@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_a_model_of_its_own(duplicate):
    model, x = toy(), images()
    first, second = some_codes(2)
    if duplicate == "deepcopy":
        twin = copy.deepcopy(model)
    elif duplicate == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, buffer := io.BytesIO())
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert torch.equal(twin(x, codes=first), model(x, codes=first))
    before = model(x, codes=first)
    nn.init.normal_(twin.fusion.write[0].value.weight)
    nn.init.normal_(twin.detector.head.weight)
    assert torch.equal(model(x, codes=first), before)
    assert torch.equal(twin(x, codes=second), by_hand(twin, x, second))
    assert not torch.equal(twin(x, codes=first), before)
    with twin.use_codes(second):  # which is not the original's
        assert torch.equal(model.detector(x), by_hand(model, x, None))
        assert torch.equal(twin.detector(x), by_hand(twin, x, second))
    assert len(twin.detector.backbone._forward_hooks) == 1
    twin.remove()
    assert torch.equal(twin.detector(x), Toy.forward(twin.detector, x))
    assert not twin.detector.backbone._forward_hooks
    assert torch.equal(model(x, codes=first), before)


def test_a_shallow_copy_does_not_take_the_hook():
    model, x, codes = toy(), images(), some_codes(1)[0]
    shallow = copy.copy(model)
    assert torch.equal(model(x, codes=codes), by_hand(model, x, codes))
    with pytest.raises(RuntimeError, match="no feature maps were fused"):
        shallow(x, codes=codes)


@pytest.mark.parametrize("by", ["argument", "context"])
def test_threads_do_not_share_codes(by):
    model, x = toy(), images()
    codes = some_codes(2)
    expected = [by_hand(model, x, each) for each in codes]
    right, start = [0, 0], threading.Barrier(2)

    def work(me):
        start.wait()
        for _ in range(120):
            with torch.no_grad():
                if by == "argument":
                    out = model(x, codes=codes[me])
                else:
                    with model.use_codes(codes[me]):
                        out = model.detector(x)
            right[me] += torch.equal(out, expected[me])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(me,)) for me in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert right == [120, 120]


def test_models_can_be_nested():
    inner, x = toy(), images()
    outer = FusedDetector(inner, toy(seed=3).fusion, at="detector.backbone.0").eval()
    first, second = some_codes(2)

    def expected(of_inner, of_outer):
        maps = outer.fusion(inner.detector.backbone[0].forward(x), of_outer).maps
        return inner.detector.head(inner.fusion(nn.functional.gelu(maps), of_inner).maps)

    assert torch.equal(outer(x, codes=first), expected(None, first))
    with inner.use_codes(second):
        assert torch.equal(outer(x, codes=first), expected(second, first))
        with outer.use_codes(first):
            assert torch.equal(inner.detector(x), expected(second, first))
    assert torch.equal(inner(x, codes=second), expected(second, None))


def test_an_exception_leaves_no_attributes_behind():
    model, x = toy(), images()
    codes, outer = some_codes(2)
    nothing = by_hand(model, x, None)
    model.detector.fails = True
    with pytest.raises(KeyError, match="the detector's own"):
        model(x, codes=codes)
    with model.use_codes(outer):
        with pytest.raises(KeyError, match="the detector's own"):
            model(x, codes=codes)
        model.detector.fails = False
        assert torch.equal(model.detector(x), by_hand(model, x, outer))
        model.detector.fails = True
    with pytest.raises(KeyError, match="the detector's own"), model.use_codes(codes):
        model.detector(x)
    model.detector.fails = False
    assert torch.equal(model.detector(x), nothing)
    assert torch.equal(model(x), nothing)


RANKS = 2


def three_steps(model, plan, step):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for codes in plan:
        optimizer.zero_grad()
        step(model, codes)
        optimizer.step()


def plans():
    """Codes (3 steps, ranks, B, A): all known; with gaps; nothing known; and first all known, then one rank without any."""
    gaps = torch.stack(some_codes(3 * RANKS)).unflatten(0, (3, RANKS))
    known, nothing = gaps.clamp(min=0), torch.full_like(gaps, UNKNOWN)
    mixed = known.clone()
    mixed[1:, 0] = UNKNOWN
    return {"known": known, "gaps": gaps, "nothing": nothing, "mixed": mixed}


def rank_loss(model, codes, rank):
    x = images(3 * RANKS)[3 * rank : 3 * rank + 3]
    return sum(model(x, torch.ones(3, 2, 7, 11), codes=codes[rank]).values())


def train_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    states = {}
    for name, plan in plans().items():
        for hide in (0.0, 0.5):
            model = toy(hide_probability=hide).train()
            torch.manual_seed(rank)  # each rank hides cells of its own
            three_steps(DistributedDataParallel(model), plan, lambda m, c: rank_loss(m, c, rank).backward())
            states[name, hide] = model.state_dict()
    torch.save(states, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_stay_equal_whatever_is_unknown(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.setattr(
        sys, "path", [*sys.path, str(root)]
    )  # the ranks import this file by its name, tests.detection...
    torch.multiprocessing.spawn(train_rank, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    assert len(first) == 8
    for key, state in first.items():
        assert all(torch.equal(value, second[key][name]) for name, value in state.items())
        assert all(value.isfinite().all() for value in state.values())

    # And they are what one process makes of the mean of both losses.
    def step(model, codes):
        (sum(rank_loss(model, codes, rank) for rank in range(RANKS)) / RANKS).backward()

    for name, plan in plans().items():
        three_steps(alone := toy(hide_probability=0.0).train(), plan, step)
        for parameter, value in alone.state_dict().items():
            torch.testing.assert_close(first[name, 0.0][parameter], value, msg=f"{name}: {parameter}")


@pytest.mark.parametrize("training", [True, False])
def test_one_graph_takes_fresh_attributes_at_each_call(training):
    torch._dynamo.reset()
    model, x = toy(hide_probability=0.0).train(training), images()
    graphs = CompileCounterWithBackend("aot_eager" if training else "eager")
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    given = (x, torch.ones(3, 2, 7, 11)) if training else (x,)
    for codes in some_codes(4):
        out, expected = compiled(*given, codes=codes), model(*given, codes=codes)
        torch.testing.assert_close(out, expected)
    assert graphs.frame_count == 1
    if training:
        assert set(out) == {"loss_box", LOSS}
        sum(out.values()).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    elif TORCH >= (2, 14):  # before, a call without attributes breaks the graph
        torch.testing.assert_close(compiled(x), model(x))


class Broken(Toy):
    """Its graph breaks before and after the maps."""

    def forward(self, images, targets=None):
        torch._dynamo.graph_break()
        maps = self.backbone(images)
        torch._dynamo.graph_break()
        if self.fails:
            raise KeyError("the detector's own")
        return self.head(maps)


@pytest.mark.parametrize(
    ("part", "detector"),
    [("detector", Toy), ("detector.backbone", Toy), ("", Broken)],
    ids=["the detector", "its backbone", "with breaks"],
)
@torch.no_grad()
def test_codes_reach_a_detector_of_which_a_part_is_compiled(part, detector):
    torch._dynamo.reset()
    reference, x = toy(), images()
    model = FusedDetector(detector(), copy.deepcopy(reference.fusion), at="backbone").eval()
    model.detector.load_state_dict(reference.detector.state_dict())
    model.get_submodule(part).compile(backend="eager")
    first, second = some_codes(2)
    for codes in (first, second, None):
        torch.testing.assert_close(model(x, codes=codes), by_hand(reference, x, codes))
    with model.use_codes(first):
        torch.testing.assert_close(model(x), by_hand(reference, x, first))
        torch.testing.assert_close(model.detector(x), by_hand(reference, x, first))
    if detector is Broken:
        model.detector.fails = True
        with pytest.raises(KeyError, match="the detector's own"):
            model(x, codes=second)
        model.detector.fails = False
        torch.testing.assert_close(model.detector(x), by_hand(reference, x, None))


@pytest.mark.skipif(TORCH < (2, 11), reason="older exporters want no attribute set in a call")
def test_what_is_exported_takes_fresh_attributes():
    model, x = toy(), images()
    first, *others = some_codes(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.export.export(model, (x,), {"codes": first}).module()
    for codes in others:
        out = program(x, codes=codes)
        torch.testing.assert_close(out, model(x, codes=codes))
        assert (out - program(x, codes=first)).abs().max() > 1e-4
    assert torch.equal(model.detector(x), by_hand(model, x, None))  # nothing of it is left in the model


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpointed_call_has_the_same_gradients(use_reentrant):
    x, codes = images(), some_codes(1)[0]
    grads = []
    for is_checkpointed in (False, True):
        model = toy(hide_probability=0.5).train()

        def call(x, model=model):
            out = model(x, torch.ones(3, 2, 7, 11), codes=codes)
            return out["loss_box"] + out[LOSS]

        torch.manual_seed(4)
        given = x.clone().requires_grad_()
        loss = checkpoint(call, given, use_reentrant=use_reentrant) if is_checkpointed else call(given)
        loss.backward()
        grads.append([given.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_an_averaged_model_fuses_with_averaged_weights():
    model, x = toy(), images()
    averaged = AveragedModel(model, avg_fn=lambda mean, new, count: 0.75 * mean + 0.25 * new)
    first, second = some_codes(2)
    averaged.update_parameters(model)  # the first is a copy
    start = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    averaged.update_parameters(model)
    expected = toy()
    for parameter, old, new in zip(expected.parameters(), start, model.parameters(), strict=True):
        parameter.data = 0.75 * old + 0.25 * new.detach()
    for codes in (first, second):
        torch.testing.assert_close(averaged(x, codes=codes), by_hand(expected, x, codes))
        assert torch.equal(model(x, codes=codes), by_hand(model, x, codes))


def test_bfloat16_and_autocast():
    model, x, (codes, other) = toy(), images(), some_codes(2)
    with torch.autocast("cpu", torch.bfloat16):
        out, changed = (model.eval()(x, codes=c) for c in (codes, other))
    assert out.dtype == torch.bfloat16
    model, x = model.eval().bfloat16(), x.bfloat16()
    outs = [model(x, codes=c) for c in (codes, other)]
    assert all(o.dtype == torch.bfloat16 and o.isfinite().all() for o in (out, changed, *outs))
    assert not torch.equal(*outs)
