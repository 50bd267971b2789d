"""The pages in a real browser: no request leaves them, no error, and what can be clicked does what it states."""

import json
import re

import numpy as np
import pytest

from alignedfusion.datasets.cases import TensorCases
from alignedfusion.evaluation.testing import evaluate_model
from alignedfusion.pages import RunCases, run_page, table_cases, write_cases
from alignedfusion.reports.showing import TableEvidence
from alignedfusion.tables.files import read_table

KINDS = ["case", "text", "index", "run"]


@pytest.fixture(scope="module")
def pages(model, folder, build, schema, batch, tmp_path_factory):
    """A folder with a page of each kind."""
    out = tmp_path_factory.mktemp("browser")
    frame = read_table(folder / "table.csv")
    evidence = TableEvidence.read(folder / "table.csv.evidence.jsonl")
    plain = table_cases(model, frame, [0, 4], images=["file"], root=folder, label="kind")
    with_text = table_cases(model, frame, [1], images=["file"], root=folder, key=["file"], evidence=evidence)
    first = write_cases(model, plain, out / "cases")[0]
    (text,) = write_cases(model, with_text, out / "text")

    small = build(schema, class_names=[f"class {i}" for i in range(17)]).eval()
    image, codes, labels = batch(schema, rows=60)
    cases = TensorCases(image, codes, labels)
    groups = {"sex": ["f", "m"] * 30}
    result, probabilities = evaluate_model(small, cases, subgroups=groups, progress=False)
    tested = RunCases(np.arange(60), codes.numpy(), labels.numpy(), probabilities, probabilities.argmax(1))
    wrong = tested.errors()[0][0]
    (out / "cases" / f"row-{wrong}.html").write_text(first.read_text("utf-8"), "utf-8")
    page = run_page(result, tested, small.class_names, title="A run", unreadable={"age": 3}, folder=out)
    (out / "report.html").write_text(page, "utf-8")
    return {"case": first, "text": text, "index": out / "cases" / "index.html", "run": out / "report.html"}


@pytest.fixture
def visit(browser, pages):
    """Opens a page, and fails afterwards if it requested anything but itself, or logged anything."""
    contexts, faults = [], []

    def visit(kind, width=1100, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        own = tuple(path.as_uri() for path in pages.values())
        folder = pages["run"].parent.as_uri()
        page.on("request", lambda request: faults.append(request.url) if not is_own(request.url, folder) else None)
        page.goto(own[[*pages].index(kind)])
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def is_own(url, folder):
    return url.startswith(("data:", folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_a_phone_and_is_readable_in_both_schemes(visit, kind, scheme):
    page = visit(kind, width=360, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    ink, paper = (
        [int(part) for part in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{name}"))[:3]]
        for name in ("color", "backgroundColor")
    )
    assert (sum(ink) < sum(paper)) == (scheme == "light")
    assert abs(luminance(ink) - luminance(paper)) > 0.6


def luminance(rgb):
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_has_a_text_and_every_target_exists(visit, kind):
    page = visit(kind)
    pictures = page.evaluate("[...document.querySelectorAll('img')].map(e => e.alt)")
    pictures += page.evaluate("[...document.querySelectorAll('svg')].map(e => e.getAttribute('aria-label'))")
    assert all(pictures)
    assert bool(pictures) == (kind != "index")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    targets = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.getAttribute('href').slice(1))"
    )
    assert {*targets} <= {*ids}
    unlabelled = "[...document.querySelectorAll('input, select, button')].filter(e => !e.labels.length && !e.innerText)"
    assert page.evaluate(f"{unlabelled}.length") == 0


@pytest.mark.parametrize("kind", ["case", "text", "run"])
def test_a_page_prints_on_two_sheets(visit, kind):
    page = visit(kind)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) <= 2


def test_the_slider_fades_the_overlay(visit):
    page = visit("case")
    opacity = "getComputedStyle(document.querySelector('.overlay')).opacity"
    assert page.evaluate(opacity) == "0.5"
    page.focus("#fade")
    page.keyboard.press("Home")
    assert page.evaluate(opacity) == "0"
    page.keyboard.press("End")
    assert page.evaluate(opacity) == "1"


def test_the_overlay_lies_on_the_image_and_changes_with_the_classes(visit):
    page = visit("case")
    boxes = [page.locator(".stack img").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0] == pytest.approx(boxes[1], abs=0.5)
    before = page.get_attribute(".overlay", "src")
    page.select_option("#against", "1")
    assert page.get_attribute(".overlay", "src") != before
    assert page.inner_text("#first") in page.inner_text("#against option:nth-child(2)")


def test_an_answer_shows_its_prediction_until_it_is_taken_back(visit):
    page = visit("case")
    rows = "[...document.querySelectorAll('#classes tr[data-class]')]"
    shown = f"{rows}.map(r => [r.dataset.class, r.querySelector('meter').value, r.querySelector('.number').innerText])"
    before = page.evaluate(shown)
    answer = page.locator("button[data-then]").nth(1)
    then = json.loads(answer.get_attribute("data-then"))
    answer.focus()
    page.keyboard.press("Enter")
    assert answer.get_attribute("aria-pressed") == "true"
    for number, value, text in page.evaluate(shown):
        assert value == pytest.approx(then[int(number)])
        assert float(text.rstrip(" %\u00a0")) == pytest.approx(100 * then[int(number)], abs=0.06)
    assert page.inner_text("#now").startswith("If ")
    other = page.locator("button[data-then]").nth(0)
    other.click()
    assert answer.get_attribute("aria-pressed") == "false"
    other.click()
    assert [row[:2] for row in page.evaluate(shown)] == [row[:2] for row in before]
    assert page.inner_text("#now") == ""


def test_evidence_leads_to_its_attribute_and_back(visit):
    page = visit("text")
    page.click(".report mark a")
    target = page.evaluate("location.hash")
    row = page.locator(target)
    assert row.evaluate("e => e.tagName") == "TR"
    row.locator("a.chip").click()
    assert page.evaluate("location.hash") == target.replace("a-", "e-")
    # Two attributes rest on the same words.
    assert page.locator(".report sup a").count() == 3
    assert page.locator(".report mark").count() == 2


def test_links_lead_from_the_run_to_a_case_to_the_index(visit, pages):
    page = visit("run")
    page.click("section[aria-labelledby=h-errors] a")
    assert "/cases/row-" in page.url
    page.click("text=All cases")
    assert page.url == pages["index"].as_uri()
    page.click("tbody a >> nth=0")
    assert page.inner_text("h1").startswith("Row ")


def test_the_content_can_be_reached_without_a_mouse(visit):
    page = visit("run")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"


def test_a_page_may_not_load_anything(browser, pages):
    context = browser.new_context()
    page = context.new_page()
    page.goto(pages["index"].as_uri())
    assert page.evaluate("fetch('https://example.org').then(() => 'loaded', error => error.name)") == "TypeError"
    context.close()
