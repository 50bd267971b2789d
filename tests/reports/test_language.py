"""Reports that do not look English."""

import pytest

from alignedfusion.reports.language import looks_english


@pytest.mark.parametrize(
    "text",
    [
        "Kein Pneumothorax.",
        "Herz normal gro\u00df. Keine Infiltrate, kein Erguss.",
        "Pas d'\u00e9panchement pleural. Le c\u0153ur est normal.",
        "No hay derrame pleural. El coraz\u00f3n es de tama\u00f1o normal.",
        "Sem derrame pleural. \u00c1rea card\u00edaca normal.",
        "Non versamento pleurico. Il cuore \u00e8 nei limiti della norma.",
        "Geen pneumothorax. Het hart is normaal.",
        "Ingen pneumothorax. Hj\u00e4rtat \u00e4r inte f\u00f6rstorat och det finns ingen v\u00e4tska.",
        "\u0412\u044b\u043f\u043e\u0442\u0430 \u043d\u0435\u0442.",
        "\u672a\u89c1\u6c14\u80f8\u3002",
    ],
)
def test_other_languages(text):
    assert not looks_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "No pneumothorax.",
        "Clear lungs.",
        "Heart normal. LAD is 60%.",
        "1. 2. 3.",
        "",
        "El Paso clinic: the lungs are clear, no effusion.",
        "Caf\u00e9-au-lait macule.",
        "Effusion \u2013 none; 5 \u00b5m; \u03b2-blocker.",
        "Patient of Dr. Van Der Berg with a cough and no fever.",
        "MLO and CC views. La Jolla.",
        "LE edema. LA enlarged. IM injection.",
    ],
)
def test_english(text):
    assert looks_english(text)
