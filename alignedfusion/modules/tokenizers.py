"""Tokenizers: one token per attribute (eq. 5), and patch tokens of an image (eq. 3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from alignedfusion.attributes import UNKNOWN, AttributeSchema
from alignedfusion.modules.backbones import check_timm_name, count_prefix_tokens, create_backbone, resolve_preprocessing
from alignedfusion.modules.inputs import can_read, check_device, check_pixels, check_range
from alignedfusion.modules.text_encoder import TextEncoder
from alignedfusion.modules.timm_source import find_timm_model
from alignedfusion.modules.tuning import parse_tune, set_trained, train_where_trained


class AttributeTokenizer(nn.Module):
    """Turns each attribute into one token: the token of its value, or a learned UN token if it is unmentioned (eq. 5).

    A learned embedding of the attribute (its identity) is added to every token. Without it two unmentioned attributes would
    have the same token, and the reconstruction could not distinguish them.

    Args:
        schema: The attributes and their candidate values.
        dim: Token width D.
        text_encoder: None learns one vector per value. A `TextEncoder` encodes the prompt of each value once; a tensor (V, H)
            holds vectors that were encoded before. These vectors stay frozen, and a linear layer projects them to width D.
    """

    offsets: Tensor
    attribute_of_value: Tensor
    value_vectors: Tensor

    def __init__(self, schema: AttributeSchema, dim: int, *, text_encoder: TextEncoder | Tensor | None = None) -> None:
        super().__init__()
        self.schema = schema
        self.dim = dim
        num_values = torch.tensor(schema.num_values)
        total = sum(schema.num_values)
        self.register_buffer("offsets", num_values.cumsum(0) - num_values, persistent=False)
        self.register_buffer(
            "attribute_of_value", torch.arange(len(schema)).repeat_interleave(num_values), persistent=False
        )
        self.identity = nn.Parameter(torch.randn(len(schema), dim) * 0.02)
        self.unknown = nn.Parameter(torch.randn(dim) * 0.02)

        if text_encoder is None:
            self.value_vectors = nn.Parameter(torch.randn(total, dim) * 0.02)
            self.project: nn.Module = nn.Identity()
        else:
            if isinstance(text_encoder, Tensor):
                vectors = text_encoder.float()
            else:
                vectors = text_encoder.encode([prompt for attribute in schema for prompt in attribute.prompts()])
            if vectors.ndim != 2 or len(vectors) != total:
                raise ValueError(
                    f"text_encoder must return vectors ({total}, H), one row per value; got {tuple(vectors.shape)}"
                )
            # [CLS] vectors of short prompts are nearly parallel, so their mean is subtracted.
            vectors = vectors - vectors.mean(0)
            self.register_buffer("value_vectors", vectors / vectors.std().clamp(min=1e-6))
            self.project = nn.Linear(vectors.shape[1], dim)

    def value_tokens(self) -> Tensor:
        """One token per candidate value of all attributes, (V, D); the token of a mentioned cell is the row of its value."""
        return self.project(self.value_vectors) + self.identity[self.attribute_of_value]  # (V, D)

    def forward(self, codes: Tensor, *, values: Tensor | None = None) -> Tensor:
        """Turn codes (B, A) into tokens (B, A, D).

        Args:
            codes: int64 (B, A), `UNKNOWN` where unmentioned.
            values: Result of `value_tokens`, if the caller has computed it already.

        Raises:
            ValueError: If codes have the wrong type or shape, or are out of range.
        """
        self.schema.check_codes(codes)
        check_device("codes", codes, self.offsets.device)
        values = self.value_tokens() if values is None else values
        places = self.offsets + codes.clamp(min=0)  # (B, A)
        if self.training and torch.compiler.is_compiling():
            # On CPUs, torch 2.7 to 2.10 may compile a wrong gradient of the lookup, and a correct one of this product.
            mentioned = F.one_hot(places, len(values)).to(values) @ values  # (B, A, D)
        else:
            mentioned = values[places]  # (B, A, D)
        # Both branches are always computed, so that no parameter is ever without a gradient.
        return torch.where((codes == UNKNOWN)[..., None], self.unknown + self.identity, mentioned)

    def to_dict(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON; the weights are in the state dict."""
        text_dim = self.project.in_features if isinstance(self.project, nn.Linear) else None
        return {"schema": self.schema.to_dict(), "dim": self.dim, "text_dim": text_dim}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AttributeTokenizer:
        """An untrained module with the settings of `to_dict`."""
        schema = AttributeSchema.from_dict(data["schema"])
        vectors = None if data["text_dim"] is None else torch.zeros(sum(schema.num_values), data["text_dim"])
        return cls(schema, data["dim"], text_encoder=vectors)

    # The schema is part of the state dict: otherwise weights of another schema of the same size would load without an error.
    def get_extra_state(self) -> Tensor:
        """The schema as JSON bytes."""
        return torch.frombuffer(bytearray(json.dumps(self.schema.to_dict()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse a state dict that was trained with another schema."""
        saved = AttributeSchema.from_dict(json.loads(bytes(state.cpu().tolist())))
        if saved != self.schema:
            raise ValueError(
                f"the checkpoint was trained with another schema: {saved.difference(self.schema)} here; build the model "
                f"with the checkpoint's schema, or train it again"
            )

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"attributes={len(self.schema)}, values={sum(self.schema.num_values)}, dim={self.dim}"


class VisualTokenizer(nn.Module):
    """Patch tokens of an image from any timm model (eq. 3), projected to width D.

    Args:
        backbone: Name of a timm model, such as a vision transformer, a Swin or a CNN; "hf-hub:owner/model" for a repository of
            a timm model, "local-dir:FOLDER" for a downloaded one. None for precomputed tokens.
        dim: Token width D.
        pretrained: True loads the weights of that name, a path loads a local file, False starts from random weights.
        tune: Weights of the backbone that are trained, as in `Backbone`.
        image_size: Side of the square input in pixels; by default that of the timm model.
        num_features: Width F of precomputed tokens, with `backbone=None`.
        in_chans: Channels of the images, such as 1 for CT windows or 4 for MR sequences; timm adapts its pretrained weights.
        timm_args: Arguments of `timm.create_model` that change the architecture, as numbers, strings and lists; layers by name:
            {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}. They are saved with the model.
    """

    def __init__(
        self,
        backbone: str | None,
        dim: int,
        *,
        pretrained: bool | str | Path = True,
        tune: str = "whole",
        image_size: int | None = None,
        num_features: int | None = None,
        in_chans: int = 3,
        timm_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        parse_tune(tune)
        self.backbone_name = self.architecture = backbone
        self.timm_args = dict(timm_args or {})
        self.dim = dim
        self.tune = tune
        self._has_checked_range = False
        self._is_merged = False
        self.preprocessing: dict[str, Any] | None = None
        self.backbone: Any = None
        if backbone is not None:
            if num_features is not None:
                raise ValueError("num_features follows from the backbone; give it only with backbone=None")
            source = find_timm_model(backbone, timm_args, weights=pretrained is True)
            self.architecture, self.timm_args = source.architecture, dict(source.args)
            image_size = source.image_size if image_size is None else image_size
            self.backbone = create_backbone(source, pretrained, image_size, in_chans)
            self.preprocessing = resolve_preprocessing(self.backbone, image_size, in_chans)
            set_trained(self.backbone, tune, self.preprocessing["input_size"])
            num_features = int(self.backbone.num_features)
        elif num_features is None:
            raise ValueError("without a backbone, num_features must be the width of the precomputed tokens; got None")
        self.num_features = num_features
        self.norm = nn.LayerNorm(num_features)
        self.project = nn.Linear(num_features, dim)
        self.train()

    def features(self, image: Tensor) -> Tensor:
        """Tokens (B, N, F) of the backbone, before the projection. Those of a frozen backbone can be stored."""
        if self.backbone is None:
            raise ValueError(
                f"this VisualTokenizer has no backbone: give it tokens (B, N, {self.num_features}), not images"
            )
        if self._is_merged and self.tune != "none" and self.training and torch.is_grad_enabled():
            raise ValueError(
                "the adapters of this backbone were merged when the model was saved, so none of its weights would be trained: "
                "set its tune to 'none' to train the rest of the model"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tune != "none"):
            features = self.backbone.forward_features(image)
        if not isinstance(features, Tensor):
            raise ValueError(
                f"{self.backbone_name!r} returns {type(features).__name__}, not one map of tokens; choose another model"
            )
        if features.ndim == 3:
            features = features[:, count_prefix_tokens(self.backbone) :]
            if features.shape[1] < 2:
                raise ValueError(
                    f"{self.backbone_name!r} returns only its class token, no patch tokens; choose another model"
                )
            return features
        pattern = "b h w f" if getattr(self.backbone, "output_fmt", "") == "NHWC" else "b f h w"
        return rearrange(features, f"{pattern} -> b (h w) f")

    def forward(self, image: Tensor) -> Tensor:
        """Turn images into tokens (B, N, D).

        Args:
            image: Images (B, channels, H, W), prepared by `transform`; or tokens (B, N, F) that `features` returned before.

        Raises:
            ValueError: For any other shape.
        """
        if image.ndim == 3 and image.shape[-1] == self.num_features:
            return self.project(self.norm(image.to(self.project.weight.dtype)))  # (B, N, D)
        if self.backbone is not None:
            self._check_images(image)
        elif image.ndim != 4:
            raise ValueError(
                f"expected precomputed tokens (B, N, {self.num_features}), got a tensor of shape {tuple(image.shape)}"
            )
        return self.project(self.norm(self.features(image)))  # (B, N, D)

    def _check_images(self, image: Tensor) -> None:
        assert self.preprocessing is not None
        check_device("image", image, self.project.weight.device)
        check_pixels(image, self.preprocessing, self.backbone)
        if can_read(image) or not (self._has_checked_range or torch.compiler.is_compiling() or image.is_meta):
            check_range(image, self.preprocessing)
            self._has_checked_range = True

    def transform(self, *, is_training: bool = False) -> Any:
        """The torchvision transform that turns a PIL image into an input of the backbone, (channels, H, W)."""
        if self.preprocessing is None:
            raise ValueError(
                "a VisualTokenizer without a backbone takes precomputed tokens; there are no images to transform"
            )
        channels = self.preprocessing["input_size"][0]
        if channels not in (1, 3):
            raise ValueError(
                f"this VisualTokenizer takes images of {channels} channels, which no PIL image has; prepare tensors yourself"
            )
        from timm.data import create_transform

        # Weak augmentation: strong crops or color changes could remove a lesion or change its color.
        augmentation = {"scale": (0.7, 1.0), "color_jitter": 0.2} if is_training else {}
        prepare = create_transform(**self.preprocessing, **augmentation, is_training=is_training)
        if channels == 3:
            return prepare
        from torchvision.transforms import Compose, Grayscale  # type: ignore[import-untyped]

        return Compose([Grayscale(), prepare])

    def train(self, mode: bool = True) -> VisualTokenizer:
        """Set training mode; the part of a backbone that is not trained stays in evaluation mode and keeps its statistics."""
        super().train(mode)
        if mode and self.backbone is not None and self.tune != "whole":
            train_where_trained(self.backbone)
        return self

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the backbone, without those of adapters, which start from random values."""
        if self.backbone is not None:
            yield from (value for name, value in self.backbone.named_parameters() if ".lora_" not in name)

    def to_dict(self) -> dict[str, Any]:
        """Arguments that rebuild this module, as plain JSON; the weights are in the state dict."""
        return {
            "backbone": self.architecture,
            "timm_args": self.timm_args,
            "dim": self.dim,
            "tune": self.tune,
            "image_size": None if self.preprocessing is None else self.preprocessing["input_size"][-1],
            "num_features": self.num_features if self.backbone is None else None,
            "in_chans": 3 if self.preprocessing is None else self.preprocessing["input_size"][0],
            "preprocessing": self.preprocessing,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VisualTokenizer:
        """A module with the settings of `to_dict` and random weights."""
        settings = {name: value for name, value in data.items() if name != "preprocessing"}
        if settings["backbone"] is not None:
            check_timm_name(settings["backbone"])
        if "frozen" in settings:  # of a development version
            settings["tune"] = "none" if settings.pop("frozen") else "whole"
        is_merged = parse_tune(settings["tune"])[0] == "lora"
        visual = cls(**{**settings, "tune": "none" if is_merged else settings["tune"]}, pretrained=False)
        visual.tune, visual._is_merged = settings["tune"], is_merged
        # Taken from the checkpoint, because timm may change a model's defaults between releases.
        visual.preprocessing = data["preprocessing"]
        return visual

    def extra_repr(self) -> str:
        """Settings that no child module shows."""
        return f"backbone={self.backbone_name!r}, dim={self.dim}, tune={self.tune!r}"
