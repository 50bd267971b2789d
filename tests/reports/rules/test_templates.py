"""Reports generated in the form of public templates (the ACR's BI-RADS report, the RSNA's chest CT), with known cells."""

import random

import pytest

from alignedfusion.reports import RuleExtractor

DENSITY = {
    "a": "The breasts are almost entirely fatty.",
    "b": "There are scattered areas of fibroglandular density.",
    "c": "The breasts are heterogeneously dense, which may obscure small masses.",
    "d": "The breasts are extremely dense, which lowers the sensitivity of mammography.",
}
BIRADS = {
    "1": "BI-RADS 1: Negative.",
    "2": "BI-RADS Category 2: Benign.",
    "3": "BI-RADS 3: Probably benign. Short-interval follow-up is recommended.",
    "4b": "BI-RADS Category 4B: Suspicious. Biopsy is recommended.",
    "5": "BI-RADS 5: Highly suggestive of malignancy.",
}
SHAPES, MARGINS = ("oval", "round", "irregular"), ("circumscribed", "microlobulated", "indistinct", "spiculated")
MORPHOLOGY, DISTRIBUTION = (
    ("amorphous", "coarse heterogeneous", "fine pleomorphic"),
    ("grouped", "regional", "segmental"),
)
QUADRANTS = ("upper outer", "upper inner", "lower outer", "lower inner")


def mammogram(draw):
    """A report and the cells it must give."""
    density, birads = draw.choice(list(DENSITY)), draw.choice(list(BIRADS))
    cells, findings = {"breast_density": density, "birads": birads}, []
    if draw.random() < 0.5:
        shape, margin, side, quadrant = (draw.choice(v) for v in (SHAPES, MARGINS, ("left", "right"), QUADRANTS))
        size = draw.randrange(4, 40)
        findings.append(
            f"There is a {size} mm {shape} mass with {margin} margins in the {quadrant} quadrant of the {side} breast."
        )
        cells |= {"mass": "positive", "mass_shape": shape, "mass_margin": margin, "side": side, "quadrant": quadrant}
        cells["size"] = str(size)
    else:
        findings.append("There is no suspicious mass.")
        cells["mass"] = "negative"
    if draw.random() < 0.5:
        kind, spread = draw.choice(MORPHOLOGY), draw.choice(DISTRIBUTION)
        findings.append(f"There are {kind} calcifications in a {spread} distribution.")
        cells |= {"calcification": "positive", "calcification_morphology": kind, "calcification_distribution": spread}
    for name, words in (
        ("architectural_distortion", "architectural distortion"),
        ("skin_thickening", "skin thickening"),
        ("lymphadenopathy", "axillary lymphadenopathy"),
    ):
        stated = draw.choice(("positive", "negative", None))
        if stated is not None:
            cells[name] = stated
            findings.append(f"There is {'' if stated == 'positive' else 'no '}{words}.")
    text = f"BREAST COMPOSITION: {DENSITY[density]}\nFINDINGS: {' '.join(findings)}\nIMPRESSION: {BIRADS[birads]}"
    return text, cells


ORGANS = {
    "LUNGS": {"emphysema": "emphysema", "bronchiectasis": "bronchiectasis", "ground_glass": "ground-glass opacity"},
    "PLEURA": {"pleural_effusion": "pleural effusion", "pneumothorax": "pneumothorax"},
    "MEDIASTINUM": {"lymphadenopathy": "mediastinal lymphadenopathy", "pericardial_effusion": "pericardial effusion"},
    "VESSELS": {"pulmonary_embolism": "pulmonary embolism", "coronary_calcification": "coronary artery calcification"},
    "BONES": {"fracture": "acute fracture"},
}
LOBES = {"right upper": "right upper lobe", "right middle": "right middle lobe", "left lower": "left lower lobe"}


def chest_ct(draw):
    """A report and the cells it must give."""
    cells, lines = {}, []
    for organ, findings in ORGANS.items():
        sentences = []
        if organ == "LUNGS" and draw.random() < 0.6:
            (lobe, words), size = draw.choice(list(LOBES.items())), draw.randrange(3, 29)
            sentences.append(f"{size} x {size - 1} mm solid nodule in the {words}.")
            cells |= {"nodule": "positive", "size": str(size), "lobe": lobe}
        for name, words in findings.items():
            stated = draw.choice(("positive", "negative", None))
            if stated is not None:
                cells[name] = stated
                sentences.append(f"{'No ' + words if stated == 'negative' else 'There is ' + words}.")
        lines.append(f"{organ}: {' '.join(sentences) or 'Not remarkable.'}")
    return "FINDINGS:\n" + "\n".join(lines), cells


@pytest.mark.parametrize(("lexicon", "write"), [("mammography", mammogram), ("chest_ct", chest_ct)])
def test_generated_reports_give_their_own_cells(lexicon, write):
    extractor, draw = RuleExtractor(lexicon), random.Random(0)
    for _ in range(300):
        text, cells = write(draw)
        row = extractor.extract(text)
        wrong = {name: (row[name].value, value) for name, value in cells.items() if row[name].value != value}
        assert not wrong, text
        implied = {"opacity"} if cells.get("ground_glass") == "positive" else set()
        positive = {name for name, cell in row.items() if cell.state == "positive"}
        extra = positive - set(cells) - implied
        assert not extra, text
        for cell in row.values():
            if cell.evidence is not None:
                start, end = cell.evidence.target
                assert 0 <= start < end <= len(text)
