"""The report's page: what stands in it (parsed), and what it does (in Chromium, where there is one)."""

import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic_tables import flagged, make_curves, make_study, make_table

from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces
from wdgrid.report.figures import heatmaps, save_heatmaps
from wdgrid.report.page import write_page

EVIL = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
BROWSER = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
BROWSER += " --disable-component-update --disable-sync"


def write(out, study, table, png, environment=None):
    small = len(table) < 1000
    numbers = analyse(surfaces(table, study.row, study.column), bootstrap=10) if small else {}
    write_page(study, "mine", table, make_curves(table), numbers, environment or {"device": "cpu"}, png, out)
    return out


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    study = make_study(panels=[{"optimizer": "sgd"}])
    return save_heatmaps(heatmaps(study, "s", make_table(study)), tmp_path_factory.mktemp("png"))[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory, png):
    study = make_study(title=EVIL, seeds=[0, 1])
    out = tmp_path_factory.mktemp("page") / "new" / "report.html"
    return write(out, study, make_table(study, noise=0.05), png, {"commit": EVIL, "versions": {"torch": "2.15"}})


class Page(HTMLParser):
    """Elements as (tag, attributes), and the text inside each element that has an id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside, self.visible = [], {}, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.inside.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not any(tag in ("script", "style") for tag, _ in self.inside):
            self.visible += data
        for _, name in self.inside:
            if name:
                self.texts[name] = self.texts.get(name, "") + data


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text("utf-8"))


def test_text_of_the_study_is_escaped_everywhere(page, report):
    assert page.texts["study"].count("</script><script>") == 1 and EVIL in page.visible
    assert len([1 for tag, attrs in page.elements if tag == "img"]) == 1
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert len([1 for tag, _ in page.elements if tag == "script"]) == 6
    assert "<script>document.title" not in report.read_text("utf-8")


def test_embedded_data_holds_the_tables_values(page):
    data = json.loads(page.texts["data"])
    study = make_study(seeds=[0, 1])
    table = make_table(study, noise=0.05)
    cells = table[table["panel"] == "adamw"].groupby(["row", "col"])["test_error"].mean()
    panel = next(p for p in data["panels"] if p["name"] == "adamw")
    assert panel["row_labels"][0] == "1" and panel["col_labels"][0] == "0" and panel["row_values"][0] == 0.1
    for i, row in enumerate(panel["row_labels"]):
        for j, col in enumerate(panel["col_labels"]):
            shown, error = panel["error"][i][j], cells[row, col]
            assert shown == pytest.approx(error, rel=1e-4) if np.isfinite(error) else shown is None
    assert panel["diverged"][0][6] == 2 and panel["diverged_at"][0][6] == 17 and len(panel["best"]) == 10
    assert panel["done"][0][0] == 1  # one of its two seeds still waits
    curves = json.loads(page.texts["curve-data"])["adamw"]
    assert curves["epochs"] == [1, 2, 3] and curves["kinds"] == ["test_error", "test_loss", "train_loss"]
    _, number, error = panel["trials"][1][1][0]
    assert curves["trials"][str(number)][0][-1] == pytest.approx(error, rel=1e-3)
    assert [len(c) for c in curves["trials"][str(panel["trials"][0][6][0][1])]] == [1, 1, 1]


def test_numbers_best_cells_study_and_environment_stand_in_the_page_without_scripts(page):
    for words in ("sgdw", "interaction", "κ", "regret", "90 %", "SHA-256", "mean of 2 seeds", "What decay does"):
        assert words in page.visible, words
    assert json.loads(page.texts["study"])["seeds"] == [0, 1]
    assert "versions.torch" in page.texts["environment"] and "2.15" in page.texts["environment"]
    assert "1/2 = 0.008" in page.visible


def test_best_cell_is_told_in_other_libraries_terms(page):
    lines = page.visible[page.visible.index("The best cell in other libraries") :]
    assert "torch.optim.SGD(" in lines and "torch.optim.AdamW(" in lines and "optax" in lines


def test_nothing_is_asked_of_a_network(page):
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"url\(|@import", page.texts.get("style", ""))


def test_a_study_with_nothing_trained_has_a_page(tmp_path, png):
    study = make_study()
    table = make_table(study).assign(state="waiting", test_error=np.nan)
    text = write(tmp_path / "r.html", study, table, png).read_text("utf-8")
    assert "no cell is finished" in text


@pytest.fixture(scope="module")
def chromium():
    """A browser; without one these tests are skipped, except in CI, where its absence is a fault."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if not found:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium and the Python package playwright")
        pytest.skip("needs Chromium (apt-get install chromium) and the Python package playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=BROWSER.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page and, at the end, insists that it logged no error and asked for nothing."""
    opened, faults = [], []

    def open_page(path, **context):
        tab = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **context}).new_page()
        opened.append(tab)
        tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda r: faults.append(r.url) if r.url[:5] not in ("file:", "data:") else None)
        tab.goto(path.as_uri())
        if context.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-ready]", timeout=10_000)
        return tab

    yield open_page
    for tab in opened:
        tab.context.close()
    assert faults == []


def cell(tab, panel, row, col, rows=5, cols=7):
    """Where in a panel's surface the middle of a cell lies."""
    box = tab.locator(".surface").nth(panel).bounding_box()
    return {"x": (col + 0.5) * box["width"] / cols, "y": (row + 0.5) * box["height"] / rows}


def test_hover_and_click_and_unpin(visit, report):
    tab = visit(report)
    assert tab.title() == f"{EVIL} – wdgrid"
    surface = tab.locator(".surface").nth(1)
    surface.hover(position=cell(tab, 1, 3, 2))
    tip = tab.locator("#tip").inner_text()
    assert tip.startswith("SGDW: rate 1/8 (0.125), decay 1/4 (0.004)")
    assert re.search(r"test error \d\.\d\d ± [\d.]+ % \(2 seeds\)", tip) and "test loss" in tip
    surface.hover(position=cell(tab, 1, 0, 6))
    assert "diverged with 2 of 2 seeds at step 17" in tab.locator("#tip").inner_text()
    assert tab.locator("#pins button").count() == 4  # each panel's best, so that nothing starts empty
    surface.click(position=cell(tab, 1, 3, 2))
    assert tab.locator("#pins button").last.inner_text() == "SGDW: 1/8, 1/4 ×"
    assert tab.locator("#chosen").inner_text().startswith("SGDW: rate 1/8")
    tab.locator("#curves").scroll_into_view_if_needed()
    tab.wait_for_selector("#curves .scatterlayer .trace")
    assert tab.locator("#curves .scatterlayer .trace").count() == 10  # five cells, two seeds each
    assert tab.locator("#along-row .trace, #along-column .trace").count() >= 6
    tab.locator("#pins button").last.click()
    assert tab.locator("#curves .scatterlayer .trace").count() == 8
    tab.click("#clear")
    assert tab.locator("#pins button").count() == 0 and "Pin a cell" in tab.locator("#curves").inner_text()


def test_keyboard_reads_and_pins(visit, report):
    tab = visit(report)
    tab.locator("#clear").focus()
    tab.keyboard.press("Tab")
    assert tab.locator("#status").inner_text().startswith("SGD: rate")
    for key in ("Home", *["ArrowUp"] * 9, "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
    assert tab.locator("#status").inner_text().startswith("SGD: rate 1/2 (0.5), decay 1/8 (0.002); test error")
    tab.keyboard.press("Enter")
    assert tab.locator("#pins button").last.inner_text() == "SGD: 1/2, 1/8 ×"
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()


def test_colours_follow_the_scale_and_diverged_cells_stay_apart(visit, report):
    tab = visit(report)
    colour = "(at) => [...views[0].canvas.getContext('2d').getImageData(at[1], at[0], 1, 1).data].slice(0, 3)"
    data = tab.evaluate("() => JSON.parse(JSON.stringify(data))")
    best, seen = data["panels"][0]["best"][0], {}
    for scale in ("linear", "log", "rank"):
        tab.select_option("#scale", scale)
        seen[scale] = tab.evaluate(colour, [2, 2])
        assert tab.evaluate(colour, [0, 6]) == [196, 196, 196]
        assert tab.evaluate(colour, best)[0] > 180 and tab.evaluate(colour, best)[2] < 60  # viridis' yellow end
        assert len(tab.locator("#shade-ticks span").all()) >= 4
    assert len({tuple(c) for c in seen.values()}) == 3


def test_lines_of_equal_product_and_of_equal_time(visit, tmp_path, png):
    optimizers = ("sgd", "sgdw", "sgdw-torch")
    study = make_study(panels=[{"optimizer": o} for o in optimizers])
    tab = visit(write(tmp_path / "r.html", study, make_table(study), png))
    assert tab.locator(".iso").count() == 0
    tab.select_option("#lines", "product")
    points = tab.locator(".iso").first.get_attribute("points").split()
    (x0, y0), (x1, y1) = ([float(v) for v in p.split(",")] for p in points[:2])
    assert (x1 - x0, y1 - y0) == pytest.approx((1, 1))  # half the rate, twice the decay
    tab.select_option("#lines", "tau")
    counts = [tab.locator(".panel").nth(k).locator(".iso").count() for k in range(3)]
    assert counts[0] == 0 and counts[1] > 0 and counts[2] > 0  # L2 has no averaging time
    upright = tab.locator(".panel").nth(1).locator(".iso").first.get_attribute("points").split()
    assert len({p.split(",")[0] for p in upright}) == 1
    assert "τ = " in tab.locator(".iso-text").first.inner_text()


def test_cells_that_went_wrong_are_marked_and_told_in_words(visit, report, tmp_path, png):
    classes = {
        ("adam", "1/2", "0", 0): ("late blow-up", 700),
        ("adam", "1/4", "0", 1): ("late blow-up", 650),
        ("adam", "1/16", "4", 0): ("stuck at chance", 1),
        ("sgd", "1", "2", 1): ("spike", 5),  # whose other seed diverged
    }
    study = make_study(seeds=[0, 1])
    table = flagged(make_table(study, missing=False), classes)
    at = (table["panel"] == "sgd") & (table["row"] == "1") & (table["col"] == "2") & (table["seed"] == 1)
    table.loc[at, "test_error"] = 50.0
    tab = visit(write(tmp_path / "r.html", study, table, png))
    assert tab.locator("#flags").inner_text().strip() == "late blow-up stuck at chance spike"
    marks = tab.locator(".panel").nth(2).locator(".flag")
    drawn = {marks.nth(k).get_attribute("data-kind"): marks.nth(k).get_attribute("d") for k in range(marks.count())}
    assert drawn["late blow-up"].startswith("M0.5 1.5m") and "M0.5 2.5m" in drawn["late blow-up"]
    assert drawn["stuck at chance"].startswith("M6.5 4.5m")
    assert not tab.locator(".panel").nth(0).locator(".flag").first.get_attribute("d")  # under a cross there is no mark
    tab.locator(".surface").nth(2).hover(position=cell(tab, 2, 1, 0))
    assert tab.locator("#tip").inner_text().endswith("late blow-up at step 700, with 1 of 2 seeds")
    tab.locator(".surface").nth(0).hover(position=cell(tab, 0, 0, 5))
    assert (
        "diverged with 1 of 2 seeds at step 17\nother seeds: 50 %\nspike at step 5" in tab.locator("#tip").inner_text()
    )
    tab.locator("#clear").focus()
    for key in ("Tab", "Tab", "Tab", "End", *["ArrowDown"] * 9):
        tab.keyboard.press(key)
    assert "stuck at chance from step 1 on, with 1 of 2 seeds" in tab.locator("#status").inner_text()
    wrong = tab.locator("#wrong").inner_text()
    assert "Adam 2 cells blew up late, the first at step 650; a larger ε or a smaller rate helps" in wrong
    healthy = visit(report)
    assert healthy.locator("#flags").inner_text() == "" and healthy.locator("#wrong").count() == 0


def test_budget_slider_only_where_budgets_differ(visit, report, tmp_path, png):
    assert visit(report).locator("#budget-label").is_hidden()
    panels = [{"optimizer": "adamw", "epochs": e} for e in (1, 2, 3)] + [{"optimizer": "adam"}]
    study = make_study(panels=panels)
    tab = visit(write(tmp_path / "r.html", study, make_table(study), png))
    visible = "() => views.filter((v) => !v.box.hidden).map((v) => v.p.title)"
    assert len(tab.evaluate(visible)) == 4
    tab.locator("#budget").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(visible) == ["AdamW, 1 epoch", "Adam, 3 epochs"]
    assert tab.locator("#budget-is").inner_text() == "1 epoch"


def test_without_scripts_dark_and_narrow(visit, report):
    still = visit(report, java_script_enabled=False)
    assert still.locator("#picture").is_visible() and still.locator("#live").is_hidden()
    assert still.locator("#numbers tbody tr").count() == 4
    night = visit(report, color_scheme="dark", viewport={"width": 400, "height": 800})
    assert night.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    assert night.evaluate("document.documentElement.scrollWidth") <= 400
    assert night.locator(".surface").first.bounding_box()["width"] > 250
    night.locator("#curves").scroll_into_view_if_needed()
    night.wait_for_selector("#curves .scatterlayer .trace")
    assert night.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.slow
def test_ten_thousand_cells_open_and_answer_at_once(visit, tmp_path, png):
    values = [str(2 ** (-k / 8)) for k in range(50)]
    axes = {"lr": {"values": values}, "weight_decay": {"values": values, "unit": 0.016}}
    study = make_study(axes=axes)
    tab = visit(write(tmp_path / "r.html", study, make_table(study), png))
    opened = tab.evaluate("performance.getEntriesByType('mark').find((m) => m.name === 'ready').startTime")
    took = tab.evaluate(
        "() => { const t = performance.now(); point(views[0], 9, 9, false); return performance.now() - t; }"
    )
    # One second is the aim, and 0.4 s what it takes; a machine shared with other tests is given three.
    assert opened < 3000 and took < 200
