"""Built-in synthetic data: drawn skin lesions with reports, in any number and without a download.

Four classes differ in nine attributes. Border, colour, pattern and size are visible in the image, with noise. Growth, itching,
family history, age and site are in the report only. An off-centre dark patch and a pale crust are in the image only. A latent
activity of each lesion correlates border, growth, itching and pattern, so that a missing one can be predicted from the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignedfusion.attributes import UNKNOWN, Attribute, AttributeSchema
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.missingness import drop_attributes

CLASS_NAMES = ("nevus", "keratosis", "carcinoma", "melanoma")

SCHEMA = AttributeSchema(
    [
        Attribute("border", values=("smooth", "irregular")),
        Attribute("colour", values=("brown", "blue", "pink")),
        Attribute("pattern", values=("plain", "dots", "streaks")),
        Attribute("size", kind="numeric", units="mm", edges=(4.0, 6.0, 8.0)),
        Attribute("growth", values=("stable", "growing")),
        Attribute("itching", values=("absent", "present")),
        Attribute("family_history", values=("negative", "positive")),
        Attribute("age", kind="numeric", units="years", edges=(30.0, 45.0, 60.0)),
        Attribute("site", values=("face", "trunk", "limb")),
    ]
)

# One row per class. Yes/no attributes by their log-odds, the others by probabilities; size in mm, age in years.
_IRREGULAR = np.array([-2.0, -0.5, 0.3, 1.5])
_COLOUR = np.array([[0.75, 0.10, 0.15], [0.60, 0.25, 0.15], [0.15, 0.15, 0.70], [0.40, 0.50, 0.10]])
_PATTERN = np.array([[0.60, 0.30, 0.10], [0.25, 0.65, 0.10], [0.50, 0.15, 0.35], [0.15, 0.35, 0.50]])
_SIZE = np.array([4.8, 6.5, 5.8, 7.2])
_GROWING = np.array([-2.2, -1.0, 0.8, 1.8])
_ITCHING = np.array([-1.8, 1.2, 0.0, -0.2])
_HISTORY = np.array([-1.5, -1.5, -0.8, 0.8])
_AGE = np.array([34.0, 62.0, 64.0, 50.0])
_SITE = np.array([[0.20, 0.50, 0.30], [0.30, 0.55, 0.15], [0.75, 0.15, 0.10], [0.15, 0.35, 0.50]])
# Probabilities of the dark patch and of the pale crust, which no report mentions.
_PATCH = np.array([0.08, 0.15, 0.25, 0.80])
_CRUST = np.array([0.04, 0.40, 0.70, 0.12])

_RGB = np.array([[0.48, 0.30, 0.20], [0.34, 0.36, 0.46], [0.78, 0.46, 0.46]])


class Phantom(NamedTuple):
    """Drawn cases.

    Attributes:
        images: uint8 (n, size, size, 3).
        rows: One mapping of attribute values per case; `SCHEMA` encodes them.
        codes: int64 (n, A), the codes of `rows` after dropping the missing share.
        labels: int64 (n,), indices into `CLASS_NAMES`.
    """

    images: np.ndarray
    rows: list[dict[str, Any]]
    codes: Tensor
    labels: Tensor

    def cases(self, *, mean: Sequence[float], std: Sequence[float]) -> TensorCases:
        """A dataset of the cases, with pixels scaled to 0 to 1 and normalised by a backbone's mean and std per channel."""
        pixels = torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255  # (n, 3, size, size)
        scaled = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        return TensorCases(scaled, self.codes, self.labels)


def make(n: int, *, seed: int = 0, image_size: int = 64, missing: float = 0.0) -> Phantom:
    """Draw `n` cases.

    Args:
        n: Number of cases.
        seed: Seed of the draw. The first cases do not depend on `n`.
        image_size: Side of the images in pixels.
        missing: Share of the attribute cells that are unmentioned.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    cases = [_draw_case(np.random.default_rng([seed, case]), image_size) for case in range(n)]
    images, rows, labels = zip(*cases, strict=True)
    codes = drop_attributes(SCHEMA.encode(rows), missing, SCHEMA, seed=seed)
    return Phantom(np.stack(images), list(rows), codes, torch.tensor(labels))


def likelihood(codes: Tensor) -> Tensor:
    """The exact probability of the mentioned attributes given each class, float64 (B, C); all classes are equally frequent.

    Everything about the attributes follows from it: the class probabilities, and those of an unmentioned value.

    Args:
        codes: int64 (B, A), `UNKNOWN` where unmentioned.
    """
    SCHEMA.check_codes(codes)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)  # the latent activity is integrated out
    mentioned = np.ones((len(codes), len(nodes), len(CLASS_NAMES)))
    for table, column in zip(_value_probabilities(nodes), codes.T.cpu().numpy(), strict=True):
        known = column != UNKNOWN
        mentioned[known] *= np.moveaxis(table[..., column[known]], -1, 0)
    return torch.from_numpy(np.einsum("btc,t->bc", mentioned, weights / weights.sum()))


def _value_probabilities(activity: np.ndarray) -> list[np.ndarray]:
    """For each attribute, the probabilities (T, C, V) of its values given the activity (T,) and the class."""
    t = activity[:, None]

    def yes(log_odds: np.ndarray) -> np.ndarray:
        present = 1.0 / (1.0 + np.exp(-log_odds))
        return np.stack([1.0 - present, present], axis=-1)

    def intervals(mean: np.ndarray, deviation: float, edges: Sequence[float]) -> np.ndarray:
        erf = np.vectorize(math.erf)
        below = [0.5 + 0.5 * erf((edge - mean) / (deviation * 2**0.5)) for edge in edges]
        return np.diff(np.stack([0.0 * mean, *below, 0.0 * mean + 1.0], axis=-1), axis=-1)

    pattern = _PATTERN * np.exp(np.array([-0.6, 0.0, 0.6]) * t[..., None])
    tables = [
        yes(_IRREGULAR + 1.2 * t),
        _COLOUR,
        pattern / pattern.sum(-1, keepdims=True),
        intervals(_SIZE + 0.8 * t, 1.2, (3.95, 5.95, 7.95)),  # recorded to 0.1 mm
        yes(_GROWING + 1.2 * t),
        yes(_ITCHING + 1.2 * t),
        yes(_HISTORY),
        intervals(_AGE, 11.0, (29.5, 44.5, 59.5)),  # recorded in whole years
        _SITE,
    ]
    return [np.broadcast_to(table, (len(activity), *table.shape[-2:])) for table in tables]


def _draw_case(rng: np.random.Generator, image_size: int) -> tuple[np.ndarray, dict[str, Any], int]:
    label = int(rng.integers(len(CLASS_NAMES)))
    activity = rng.normal()

    def draw_yes(log_odds: float) -> bool:
        return bool(rng.random() < 1.0 / (1.0 + np.exp(-log_odds)))

    irregular = draw_yes(_IRREGULAR[label] + 1.2 * activity)
    pattern_odds = np.log(_PATTERN[label]) + np.array([-0.6, 0.0, 0.6]) * activity
    pattern = int(rng.choice(3, p=np.exp(pattern_odds) / np.exp(pattern_odds).sum()))
    colour = int(rng.choice(3, p=_COLOUR[label]))
    size = float(np.clip(rng.normal(_SIZE[label] + 0.8 * activity, 1.2), 2.0, 12.0))
    row = {
        "border": "irregular" if irregular else "smooth",
        "colour": SCHEMA.attributes[1].values[colour],
        "pattern": SCHEMA.attributes[2].values[pattern],
        "size": round(size, 1),
        "growth": "growing" if draw_yes(_GROWING[label] + 1.2 * activity) else "stable",
        "itching": "present" if draw_yes(_ITCHING[label] + 1.2 * activity) else "absent",
        "family_history": "positive" if draw_yes(_HISTORY[label]) else "negative",
        "age": round(float(np.clip(rng.normal(_AGE[label], 11.0), 5.0, 95.0))),
        "site": SCHEMA.attributes[8].values[int(rng.choice(3, p=_SITE[label]))],
    }
    spots = [tone for tone, odds in ((-0.35, _PATCH), (0.45, _CRUST)) if rng.random() < odds[label]]
    return _draw_image(rng, image_size, irregular, colour, pattern, size, spots), row, label


def _draw_image(
    rng: np.random.Generator,
    image_size: int,
    irregular: bool,
    colour: int,
    pattern: int,
    size: float,
    spots: list[float],
) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : image_size * 1j, -1 : 1 : image_size * 1j]
    x, y = x - rng.uniform(-0.2, 0.2), y - rng.uniform(-0.2, 0.2)
    angle, distance = np.arctan2(y, x), np.hypot(x, y)

    # The distance to the camera varies, so the image shows the size only roughly.
    radius = size / 12.0 * rng.uniform(0.8, 1.2)
    lobes = int(rng.integers(5, 9)) if irregular else int(rng.integers(2, 4))
    depth = rng.uniform(0.12, 0.22) if irregular else rng.uniform(0.0, 0.08)
    edge = radius * (1 + depth * np.sin(lobes * angle + rng.uniform(0, 6.28)))
    lesion = 1.0 / (1.0 + np.exp((distance - edge) * 30.0))  # soft edge, 0 to 1

    shade = np.zeros_like(x)
    if pattern == 1:
        phase = rng.uniform(0, 6.28, 2)
        shade = -0.22 * (np.sin(16 * x + phase[0]) * np.sin(16 * y + phase[1]) > 0.4)
    elif pattern == 2:
        tilt = rng.uniform(0, 3.14)
        shade = -0.22 * (np.sin(18 * (x * np.cos(tilt) + y * np.sin(tilt)) + rng.uniform(0, 6.28)) > 0.5)
    for tone in spots:
        turn = rng.uniform(0, 6.28)
        centre = 0.5 * radius * np.array([np.cos(turn), np.sin(turn)])
        shade = shade + tone / (1.0 + np.exp((np.hypot(x - centre[0], y - centre[1]) - 0.4 * radius) * 30.0))

    skin = np.array([0.85, 0.68, 0.58]) + rng.normal(0, 0.05, 3)
    pigment = _RGB[colour] + rng.normal(0, 0.05, 3)
    pixels = skin + lesion[..., None] * (pigment - skin + shade[..., None])
    light = rng.normal(1.0, 0.08) + rng.normal(0, 0.08) * x + rng.normal(0, 0.08) * y
    pixels = pixels * light[..., None] + rng.normal(0, 0.04, pixels.shape)
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
