import re
import xml.dom.minidom

import pytest

from alignedfusion.pages import run_charts
from alignedfusion.pages.case_charts import waterfall
from alignedfusion.pages.svg import SERIES, new_figure, page_style, to_svg


def texts(svg):
    document = xml.dom.minidom.parseString(str(svg))
    return ["".join(child.data for child in node.childNodes) for node in document.getElementsByTagName("text")]


def test_a_figure_follows_the_colours_of_the_page_and_has_no_other():
    with page_style():
        figure, axes = new_figure(200, 100)
        axes.plot([0, 1], [0, 1], color=SERIES[0])
        axes.set_title("a <b> & c")
        svg = to_svg(figure, name="one", alt='5 < 6 & "so"')
    document = xml.dom.minidom.parseString(str(svg)).documentElement
    assert document.getAttribute("aria-label") == '5 < 6 & "so"'
    assert "a <b> & c" in texts(svg)
    assert "var(--k0)" in svg
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{6}", svg.replace("#ffffff", ""))


def test_two_figures_share_no_id():
    with page_style():
        ids = []
        for name in ("one", "two"):
            figure, axes = new_figure(200, 100)
            axes.plot([0, 1], marker="o")
            svg = to_svg(figure, name=name, alt="")
            ids.append(set(re.findall(r'id="([^"]+)"', svg)))
            assert {*re.findall(r'(?:url\(|href=")#([^")]+)', svg)} <= ids[-1]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_the_waterfall_states_its_terms_and_their_sum():
    svg = waterfall([("prior", "", 0.5), ("age", "below 40 years", -1.25), ("image", "", 1.0)], first="a", second="b")
    assert "prior +0.50, age below 40 years \u22121.25, image +1.00; together +0.25" in svg
    assert [text for text in texts(svg) if text.startswith(("+", "\u2212")) and "." in text and len(text) == 5] == [
        "+0.50",
        "\u22121.25",
        "+1.00",
        "+0.25",
    ]


def test_the_confusion_matrix_shows_every_count_and_an_empty_class():
    svg = run_charts.confusion([[7, 1], [0, 0]], ["a", "b"])
    assert [text for text in texts(svg) if text in ("7", "1", "0")].count("0") >= 2
    assert "a: 7 of 8; b: 0 of 0" in svg


@pytest.mark.parametrize("curve", [[(0.0, 0.8), (0.5, 0.6)]])
def test_the_curve_of_missing_attributes_is_described(curve):
    svg = run_charts.missing({"this model": curve, "majority class": [(0.0, 0.4), (0.5, 0.4)]})
    assert "this model 80.0\u00a0% to 60.0\u00a0%; majority class 40.0\u00a0% to 40.0\u00a0%" in svg
