"""The recipes of docs/detection.md, each on a small random network of the library that it is for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from alignedfusion import UNKNOWN, AttributeTokenizer
from alignedfusion.detection import FeatureMapFusion, FusedDetector, match_codes

CODES = torch.tensor([[2, 1, 4], [0, UNKNOWN, 3], [UNKNOWN, UNKNOWN, UNKNOWN]])


@pytest.fixture
def fusion_for(schema):
    """Builds a fusion for a submodule, with an output layer that is not zero any more."""

    def fusion_for(model, at, example, **settings):
        torch.manual_seed(1)
        tokenizer = AttributeTokenizer(schema, 38)
        fusion = FeatureMapFusion.for_model(model, tokenizer, at=at, example=example, num_heads=2, **settings)
        for write in fusion.write:
            nn.init.normal_(write.value.weight)
        return fusion

    return fusion_for


class Segmenter(nn.Module):
    """Two-channel logits of every pixel, for patches of any size."""

    def __init__(self, convolution=nn.Conv2d):
        super().__init__()
        self.encoder = nn.Sequential(convolution(1, 5, 3, padding=1), nn.GELU())
        self.head = convolution(5, 2, 1)

    def forward(self, image):
        return self.head(self.encoder(image))


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:FutureWarning")
def test_sliding_windows_of_monai(fusion_for):
    inferers = pytest.importorskip("monai.inferers")
    segmenter = Segmenter(nn.Conv3d).eval()
    volume = torch.randn(1, 1, 8, 12, 4)
    fusion = fusion_for(segmenter, "encoder", volume[..., :4, :4, :4])
    model = FusedDetector(segmenter, fusion, at="encoder").eval()
    inferer = inferers.SlidingWindowInferer(roi_size=(4, 4, 4), sw_batch_size=4, overlap=0)

    out = inferer(volume, model, codes=CODES[:1])

    with model.use_codes(CODES[:1]) as call:
        assert torch.equal(inferer(volume, segmenter), out)
    assert call.loss == 0
    # The window of the first corner, fused on its own.
    assert torch.allclose(out[..., :4, :4, :4], model(volume[..., :4, :4, :4], codes=CODES[:1]), atol=1e-5)
    assert not torch.allclose(out, inferer(volume, model, codes=CODES[1:2]))
    with pytest.raises(ValueError, match="got 3 rows of codes for maps of 4 images"):
        inferer(volume, model, codes=CODES)


def test_views_of_a_batch(fusion_for):
    segmenter, images = Segmenter().eval(), torch.randn(3, 1, 6, 8)
    model = FusedDetector(segmenter, fusion_for(segmenter, "encoder", images), at="encoder").eval()
    views = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)  # (B * 2, 1, H, W)

    both = model(views, codes=CODES.repeat_interleave(2, 0)).unflatten(0, (3, 2))

    assert torch.allclose(both[:, 0], model(images, codes=CODES), atol=1e-6)
    assert torch.allclose(both[:, 1], model(images.flip(-1), codes=CODES), atol=1e-6)


@pytest.fixture
def yolo(tmp_path, monkeypatch):
    """Builds a random YOLO. On import, Ultralytics writes its settings below YOLO_CONFIG_DIR, or else in the user's home."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_VERBOSE", "false")
    pytest.importorskip("ultralytics")
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    def yolo(name):
        torch.manual_seed(0)
        model = DetectionModel(name, nc=2, verbose=False)
        model.args = DEFAULT_CFG  # the gains of its losses
        return model

    return yolo


class FusedYOLO(FusedDetector):
    """In training Ultralytics returns (losses, losses by name); the reconstruction loss becomes one more of them."""

    def add_loss(self, output, loss):
        if isinstance(output, tuple):
            return torch.cat([output[0], loss[None]]), output[1]
        return output


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "at"), [("yolov8n.yaml", "model.22"), ("yolo11n.yaml", "model.23")])
def test_ultralytics_yolo(name, at, yolo, fusion_for):
    detector, images = yolo(name), torch.rand(3, 3, 64, 96)
    batch = {
        "img": images,
        "cls": torch.tensor([[0.0], [1.0], [1.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]] * 3),
        "batch_idx": torch.tensor([0.0, 1.0, 2.0]),
    }
    losses = len(detector.train()(batch)[0])
    fusion = fusion_for(detector, at, images, side="input", hide_probability=1.0)
    assert len(fusion.channels) == 3

    model = FusedYOLO(detector, fusion, at=at, side="input").train()
    total, _ = model(batch, codes=CODES)
    total.sum().backward()
    assert total.shape == (losses + 1,)
    assert total[-1] > 0
    assert fusion.reconstructor.query[1].weight.grad.abs().sum() > 0

    other = CODES.clone()
    other[1] = torch.tensor([1, 0, 0])
    with torch.no_grad():
        first, second = (model.eval()(images, codes=codes)[0] for codes in (CODES, other))
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert not torch.equal(first[1], second[1])


def test_hugging_face_trainer(fusion_for, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1] * 4, "layer_type": "basic"}
    backbone = transformers.RTDetrResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])
    widths = {"encoder_in_channels": [12, 16, 20], "decoder_in_channels": [16] * 3, "encoder_hidden_dim": 16}
    small = {"d_model": 16, "num_queries": 5, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_layers": 1}
    small |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_labels": 3, "num_denoising": 0}
    config = transformers.RTDetrConfig(backbone_config=backbone, **widths, **small)
    detector = transformers.RTDetrForObjectDetection(config)
    images = torch.rand(3, 3, 64, 96)
    fusion = fusion_for(detector, "model.backbone", {"pixel_values": images}, hide_probability=1.0)
    model = FusedDetector(detector, fusion, at="model.backbone")
    labels = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.4]])}
    data = [{"pixel_values": x, "labels": labels, "codes": c} for x, c in zip(images, CODES, strict=True)]

    def collate(rows):
        pixels, codes = (torch.stack([row[name] for row in rows]) for name in ("pixel_values", "codes"))
        return {"pixel_values": pixels, "codes": codes, "labels": [row["labels"] for row in rows]}

    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 3, "per_device_eval_batch_size": 3}
    settings |= {"report_to": "none", "use_cpu": True, "save_strategy": "epoch", "disable_tqdm": True}
    # The defaults keep only inputs that forward() names, and look for labels there.
    settings |= {"remove_unused_columns": False, "label_names": ["labels"]}
    if transformers.__version__.startswith("4."):
        settings["save_safetensors"] = False  # the detector's layers share weights
    arguments = transformers.TrainingArguments(str(tmp_path), prediction_loss_only=True, **settings)
    trainer = transformers.Trainer(model, arguments, data_collator=collate, train_dataset=data, eval_dataset=data)
    before = copy.deepcopy(model.fusion.state_dict())
    seen = []
    model.fusion.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))

    trainer.train()

    assert [sorted(codes.tolist()) for codes in seen] == [sorted(CODES.tolist())]

    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    after = model.fusion.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"tokenizer", "reconstructor", "write"} <= changed  # codes and reconstruction loss reached the optimizer
    seen.clear()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    assert [codes.tolist() for codes in seen] == [CODES.tolist()]


def test_nnunet_encoder(fusion_for):
    unets = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    stages = {"n_stages": 3, "features_per_stage": (4, 6, 8), "kernel_sizes": 3, "strides": (1, 2, 2)}
    blocks = {"n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1, "num_classes": 2, "norm_op": nn.InstanceNorm3d}
    nonlin = {"nonlin": nn.LeakyReLU, "deep_supervision": True}
    network = unets.PlainConvUNet(1, conv_op=nn.Conv3d, **stages, **blocks, **nonlin)
    volumes = torch.randn(3, 1, 8, 8, 12)
    plain = network(volumes)
    fusion = fusion_for(network, "encoder", volumes, maps=[-1], hide_probability=1.0)
    assert fusion.channels == (8,)
    model = FusedDetector(network, fusion, at="encoder")

    with model.use_codes(CODES) as call:  # deep supervision returns a list of logits: the loss is in the call
        out = network(volumes)

    assert call.loss > 0
    assert [x.shape for x in out] == [x.shape for x in plain]
    assert not torch.allclose(out[0], plain[0])
    assert torch.equal(model.remove()(volumes)[0], plain[0])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("encoder", "levels"), [("resnet18", 5), ("mit_b0", 4)])
def test_segmentation_models_pytorch_encoder(encoder, levels, fusion_for):
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = smp.Unet(encoder, encoder_weights=None, classes=2).eval()
    images = torch.rand(3, 3, 64, 96)
    returned = network.encoder(images)
    # The first of these is the image; some encoders add a level without channels.
    fusion = fusion_for(network, "encoder", images)
    assert len(fusion.channels) == levels
    assert fusion.channels == tuple(x.shape[1] for x in returned[-levels:])
    model = FusedDetector(network, fusion, at="encoder")
    seen = []
    network.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    first, second = (model(images, codes=codes) for codes in (CODES, CODES.flip(0)))
    assert all(x is images or x.shape[1] == 0 for x in seen[0][:-levels])
    assert torch.equal(seen[0][0], images)
    assert not torch.equal(first, second)


class FusedRegions(FusedDetector):
    """Fuses the pooled regions of torchvision's RoI heads; `codes` has one dict per image, with lesions and their codes."""

    def codes_of_rows(self, codes, features, proposals, image_sizes):
        pairs = zip(codes, proposals, strict=True)
        return torch.cat([match_codes(each["codes"], each["boxes"], regions) for each, regions in pairs])


def test_attributes_per_lesion(fusion_for):
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import box_iou

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3, stride=4, padding=1), nn.ReLU())
    backbone.out_channels = 5
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    detector = FasterRCNN(backbone, 2, min_size=64, max_size=64, rpn_anchor_generator=anchors)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    lesions = [torch.tensor([[8.0, 8, 24, 24], [40, 40, 56, 56]]), torch.tensor([[30.0, 10, 46, 26]])]
    at = "roi_heads.box_roi_pool"
    model = FusedRegions(detector, fusion_for(detector, at, images[:1]), at=at)

    targets = [{"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)} for boxes in lesions]
    codes = [{"boxes": lesions[0], "codes": CODES[:2]}, {"boxes": lesions[1], "codes": CODES[1:2]}]
    losses = model.train()(images, targets, codes=codes)
    sum(losses.values()).backward()
    assert "loss_attribute_reconstruction" in losses
    assert all(parameter.grad is not None for parameter in model.fusion.parameters())

    # Regions on the second lesion of the first image react to its codes, and no others do.
    pooled, regions = [], []
    place = detector.eval().roi_heads.box_roi_pool

    def keep(module, inputs, output):
        pooled.append(output)
        regions.append(inputs[1])

    place.register_forward_hook(keep)
    other = [{"boxes": lesions[0], "codes": torch.tensor([[2, 1, 4], [1, 0, 0]])}, codes[1]]
    torch.manual_seed(5)
    with torch.no_grad():
        for given in (codes, other):
            model.eval()(images, codes=given)
    changed = (pooled[0] != pooled[1]).flatten(1).any(1)
    on_lesion = box_iou(regions[0][0], lesions[0][1:])[:, 0] >= 0.5
    expected = torch.cat([on_lesion, torch.zeros(len(regions[0][1]), dtype=torch.bool)])
    assert expected.any()
    assert torch.equal(changed, expected)
