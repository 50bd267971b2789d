"""A model with random weights on drawn lesions, a table of cases with reports, and a real browser."""

import shutil

import pandas as pd
import pytest
import torch
from PIL import Image

from alignedfusion import presets
from alignedfusion.attributes import Attribute, AttributeSchema
from alignedfusion.datasets import phantom
from alignedfusion.modules.backbones import Backbone
from alignedfusion.reports import Lexicon, RuleExtractor
from alignedfusion.reports.table import extract_table

LEXICON = """
attributes:
  itch: {terms: [itch, itches, pruritus]}
  crust: {terms: [crust], normal: [surface intact]}
  bleeding: {terms: [bleeding], normal: [surface intact]}
  region: {values: {face: [cheek, nose], trunk: [back, chest]}}
"""
REPORTS = [
    "Itches on the <cheek>. No crust.",
    "A mole on the back. Surface intact.",
    "Nothing is known.",
    "Pruritus & bleeding, chest.",
    "Possibly a crust on the nose.",
]


@pytest.fixture(scope="session")
def lesions():
    """The schema of the lexicon above, with an attribute that no report names."""
    values = ("positive", "negative", "uncertain")
    return AttributeSchema(
        [
            Attribute("itch", values=values),
            Attribute("crust", values=("positive", "uncertain")),
            Attribute("bleeding", values=values),
            Attribute("region", values=("face", "trunk")),
            Attribute("age", kind="numeric", units="years", edges=(30.0, 60.0)),
        ]
    )


@pytest.fixture(scope="session")
def model(lesions):
    """Four classes, images of 32 pixels, random weights."""
    torch.manual_seed(0)
    backbone = Backbone("test_vit", pretrained=False, image_size=32)
    model = presets.standard(lesions, phantom.CLASS_NAMES, backbone=backbone, dim=32).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # else contributions are too small to see
            parameter.mul_(2.0)
    return model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Five drawn lesions, `reports.csv`, and `table.csv` with its evidence; the last lesion has no image."""
    folder = tmp_path_factory.mktemp("pages")
    drawn = phantom.make(len(REPORTS), seed=3, image_size=40)
    for i, pixels in enumerate(drawn.images[:-1]):
        Image.fromarray(pixels).save(folder / f"P{i}.png")
    frame = pd.DataFrame(
        {
            "file": [*(f"P{i}.png" for i in range(len(REPORTS) - 1)), ""],
            "kind": [phantom.CLASS_NAMES[label] for label in drawn.labels],
            "age": ["71", "", "25", "", "44"],
            "text": REPORTS,
        }
    )
    frame.to_csv(folder / "reports.csv", index=False)
    extract_table(folder / "reports.csv", RuleExtractor(Lexicon.parse(LEXICON)), folder / "table.csv", progress=False)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("the pages are tested in a browser: install chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
