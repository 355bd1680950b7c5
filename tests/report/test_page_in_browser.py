"""The report's page in Chromium: every control, by pointer and by keyboard; no error logged and nothing requested."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe

from helpers.pages import EVIL, example, picture, write
from helpers.synthetic_tables import flagged, make_study, make_table
from wdgrid.study import load_study


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    return picture(tmp_path_factory.mktemp("png"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return example(tmp_path_factory.mktemp("page"))


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
    assert re.search(r"test error \d\.\d\d ± [\d.]+ % \(mean of 2 seeds\)", tip) and "test loss" in tip
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
    best, seen, ends = data["panels"][0]["best"][0], {}, data["measures"][0]["range"]
    for scale in ("linear", "log", "rank"):
        tab.select_option("#scale", scale)
        seen[scale] = tab.evaluate(colour, [2, 2])
        assert tab.evaluate(colour, [0, 6]) == [196, 196, 196]
        assert tab.evaluate(colour, best)[0] > 180 and tab.evaluate(colour, best)[2] < 60  # viridis' yellow end
        ticks = [float(t.split(" ")[0]) for t in tab.locator("#shade-ticks span").all_inner_texts()]
        assert len(ticks) >= 4 and ticks == sorted(ticks) and ticks[0] == pytest.approx(ends[0], abs=0.01)
    assert len({tuple(c) for c in seen.values()}) == 3
    assert tab.locator("#bar-is").inner_text() == "Test error (%), mean over seeds; yellow is lowest"


def test_lines_of_equal_product_and_of_equal_time(visit, tmp_path, png):
    optimizers = ("sgd", "sgdw", "sgdw-torch")
    study = make_study(panels=[{"optimizer": o} for o in optimizers])
    tab = visit(write(tmp_path / "r.html", study, make_table(study), png))
    assert tab.locator(".iso").count() == 0
    tab.select_option("#lines", "product")
    points = tab.locator(".iso").first.get_attribute("points").split()
    (x0, y0), (x1, y1) = ([float(v) for v in p.split(",")] for p in points[:2])
    assert (x1 - x0, y1 - y0) == pytest.approx((1, 1))  # half the rate, twice the decay
    tab.select_option("#lines", "ratio")
    points = tab.locator(".iso").first.get_attribute("points").split()
    (x0, y0), (x1, y1) = ([float(v) for v in p.split(",")] for p in points[:2])
    assert (x1 - x0, y1 - y0) == pytest.approx((-1, 1))  # half the rate, half the decay
    assert "equal λ/α" in tab.locator("#lines-are").inner_text()
    tab.select_option("#lines", "tau")
    counts = [tab.locator(".panel").nth(k).locator(".iso").count() for k in range(3)]
    assert counts[0] == 0 and counts[1] > 0 and counts[2] > 0  # L2 has no averaging time
    upright = tab.locator(".panel").nth(1).locator(".iso").first.get_attribute("points").split()
    assert len({p.split(",")[0] for p in upright}) == 1
    # 18 steps an epoch; the best cell of SGDW decays by 2 × 0.016 a step
    assert f"{1 / 0.032 / 18:.1f}" in tab.locator(".panel").nth(1).locator(".iso-text").all_inner_texts()
    assert "equal τ, the epochs over which" in tab.locator("#lines-are").inner_text()
    for kind in ("product", "ratio", "tau"):
        tab.select_option("#lines", kind)
        for k in range(3):
            labels = [one.bounding_box() for one in tab.locator(".panel").nth(k).locator(".iso-text").all()]
            assert not any(overlap(a, b) for n, a in enumerate(labels) for b in labels[:n])
            frame = tab.locator(".surface").nth(k).bounding_box()
            assert all(frame["x"] <= a["x"] and a["x"] + a["width"] <= frame["x"] + frame["width"] for a in labels)
    tab.select_option("#lines", "")
    assert tab.locator(".iso, .iso-text").count() == 0 and tab.locator("#lines-are").inner_text() == ""


def overlap(a, b):
    return all(a[x] < b[x] + b[size] and b[x] < a[x] + a[size] for x, size in (("x", "width"), ("y", "height")))


def plotted(tab, name):
    """What a plot was given: its traces as Plotly keeps them."""
    tab.locator(f"#{name}").scroll_into_view_if_needed()
    tab.wait_for_selector(f"#{name} .scatterlayer")
    script = (
        "(name) => JSON.stringify(document.getElementById(name).data.map((d) => ({ x: d.x, y: d.y, line: d.line })))"
    )
    return json.loads(tab.evaluate(script, name))


def test_profiles_follow_the_cell_clicked_last(visit, report):
    tab = visit(report)
    sgdw = next(p for p in tab.evaluate("() => JSON.parse(JSON.stringify(data))")["panels"] if p["name"] == "sgdw")
    shown = sgdw["measures"]["test_error"]
    for row, col in ((3, 2), (0, 6)):  # the latter diverged
        tab.locator(".surface").nth(1).click(position=cell(tab, 1, row, col))
        along_row, along_column = plotted(tab, "along-row"), plotted(tab, "along-column")
        assert along_row[0]["y"] == shown[row]
        assert along_column[0]["y"] == [errors[col] for errors in shown][::-1]  # from slow to fast
        assert along_row[1]["x"] == [j for j in range(7) if sgdw["diverged"][row][j]]
        seeds = [done for done, error in zip(sgdw["done"][row], shown[row], strict=True) if error is not None]
        assert len(along_row[2]["x"]) == sum(seeds)
        assert along_row[3]["x"] == [col] and along_column[3]["x"] == [4 - row]  # the ring
        assert tab.locator("#chosen").inner_text().startswith(f"SGDW: rate {sgdw['row_labels'][row]}")
    assert along_row[3]["y"] == [along_row[1]["y"][0]]  # around the cross
    tab.locator(".surface").nth(0).click(position=cell(tab, 0, 4, 0))  # an error beyond the colours' end
    (ring,) = plotted(tab, "along-row")[3]["y"]
    axis = tab.evaluate("() => document.getElementById('along-row').layout.yaxis.range")
    assert tab.evaluate("high") < ring < axis[1]


def test_curves_of_another_kind_and_more_pins_than_colours(visit, report):
    tab = visit(report)
    errors = plotted(tab, "curves")
    tab.select_option("#kind", "train_loss")
    losses = plotted(tab, "curves")
    assert [len(e["y"]) for e in errors] == [len(e["y"]) for e in losses] == [3] * 8
    assert losses[0]["y"][-1] == pytest.approx(errors[0]["y"][-1] / 60, rel=1e-3)
    assert "training loss, log scale" in tab.locator("#curves .ytitle").text_content()
    for col in range(1, 7):
        tab.locator(".surface").nth(0).click(position=cell(tab, 0, 4, col))
    styles = {(line["line"]["color"], line["line"].get("dash", "solid")) for line in plotted(tab, "curves")}
    assert len(styles) == tab.locator("#pins button").count() >= 9


def test_verdicts_stand_below_the_titles(visit, report):
    said = visit(report).locator(".panel .said").all_inner_texts()
    assert len(said) == 4 and said[0].startswith("coupled (s = −") and said[1].startswith("separable (s = ")


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
    for key in ("Tab", "Tab", "Tab", "End", *["ArrowDown"] * 9):
        tab.keyboard.press(key)
    assert "stuck at chance from step 1 on, with 1 of 2 seeds" in tab.locator("#status").inner_text()
    wrong = tab.locator("#wrong").inner_text()
    assert "Adam 2 cells blew up late, the first at step 650; a larger ε or a smaller learning rate may help" in wrong
    healthy = visit(report)
    assert healthy.locator("#flags").inner_text() == "" and healthy.locator("#wrong").count() == 0


def test_budget_slider_shows_one_budget_with_its_pins_and_its_profile(visit, report, tmp_path, png):
    assert visit(report).locator("#budget-label").is_hidden()
    panels = [{"optimizer": "adamw", "epochs": e} for e in (1, 2, 3)] + [{"optimizer": "adam"}]
    study = make_study(panels=panels)
    tab = visit(write(tmp_path / "r.html", study, make_table(study), png))
    visible = "() => views.filter((v) => !v.box.hidden).map((v) => v.p.title)"
    assert len(tab.evaluate(visible)) == 4 and tab.locator("#budget-is").inner_text() == "all budgets"
    assert len(plotted(tab, "curves")) == 4 and tab.locator("#pins button").count() == 4
    chosen = tab.locator("#chosen").inner_text()
    tab.locator("#budget").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(visible) == ["AdamW, 1 epoch", "Adam, 3 epochs"]
    assert tab.locator("#budget-is").inner_text() == "1 epoch"
    legend = tab.locator("#legend").inner_text()
    assert "× diverged" in legend and "not trained" in legend
    assert len(plotted(tab, "curves")) == 2 and tab.locator("#pins button").count() == 2
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(visible) == ["AdamW, 2 epochs", "Adam, 3 epochs"]
    assert tab.locator("#chosen").inner_text() == chosen.replace("1 epoch:", "2 epochs:")
    tab.keyboard.press("Home")
    assert len(tab.evaluate(visible)) == 4 and len(plotted(tab, "curves")) == 4


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
def test_among_ten_thousand_cells_the_mouse_reads_the_one_it_points_at(visit, tmp_path, png):
    values = [str(2 ** (-k / 8)) for k in range(50)]  # rates run down from the largest, decays up from the smallest
    axes = {"lr": {"values": values}, "weight_decay": {"values": values, "unit": 0.016}}
    study = make_study(axes=axes)
    table = make_table(study, diverged=False)
    tab = visit(write(tmp_path / "r.html", study, table, png))
    assert len(table) == 10_000
    for panel, name in enumerate(study.panel_names()):
        surface = tab.locator(".surface").nth(panel)
        surface.scroll_into_view_if_needed()
        box = surface.bounding_box()
        for row, col in ((0, 0), (49, 49), (17, 31), (31, 17), (17, 32), (0, 49)):
            tab.mouse.move(box["x"] + (col + 0.5) * box["width"] / 50, box["y"] + (row + 0.5) * box["height"] / 50)
            place, said, *_ = tab.locator("#tip").inner_text().split("\n")
            (cell,) = table[table["panel"] == name].iloc[[50 * row + 49 - col]].to_dict("records")
            assert f"rate {cell['row']} ({cell['lr']:.4g}), decay {cell['col']} " in place
            assert said == (
                f"test error {cell['test_error']:.2f} % (one seed)" if (row, col) != (0, 49) else "not trained yet"
            )


def test_the_fitted_valley_lies_over_its_map_with_a_band_that_is_seen(visit, tmp_path):
    """On one seed of the digits study: a line and a filled band in each panel, and a word in the legend."""
    study = load_study(Path("studies/digits.toml"))
    table = pd.read_csv("reports/gallery/digits.csv", dtype={"row": str, "col": str})
    tab = visit(write(tmp_path / "report.html", study, table[table["seed"] == 0], picture(tmp_path)))
    bands = tab.locator(".valley-band")
    assert bands.count() == tab.locator("polyline.valley").count() == 4
    assert bands.first.evaluate("band => getComputedStyle(band).fill") == "rgb(255, 255, 255)"
    assert tab.get_by_text("fitted valley").is_visible()
    slopes = [box["width"] for box in (bands.nth(i).bounding_box() for i in range(4))]
    assert min(slopes[0], slopes[2]) > max(slopes[1], slopes[3])  # SGD and Adam lean, SGDW and AdamW hardly


def test_answers_and_maps_are_above_the_fold(visit, report):
    """At 1400 × 900 all maps, on a phone the first one; and an answer for each optimizer above them."""
    for width, height, last in ((1400, 900, 3), (390, 844, 0)):
        tab = visit(report, viewport={"width": width, "height": height})
        answers = [one.bounding_box() for one in tab.locator("#answers li").all()]
        frame = tab.locator(".frame").nth(last).bounding_box()
        assert len(answers) == 4 and max(a["y"] + a["height"] for a in answers) < frame["y"]
        assert frame["y"] + frame["height"] < height and frame["x"] + frame["width"] <= width


def test_any_measure_is_a_map(visit, report):
    """The colour of each cell, looked up in the bar, is its value of the measure; diverged cells stay grey."""
    tab = visit(report)
    shown = tab.evaluate("() => data.measures.map(({ key }) => key)")
    assert shown == [
        "test_error",
        "test_loss",
        "train_loss",
        "gap",
        "weight_norm",
        "epochs_to_best",
        "spread",
        "seconds",
    ]
    data = tab.evaluate("() => JSON.parse(JSON.stringify(data))")
    image = "() => [...views[2].canvas.getContext('2d').getImageData(0, 0, 7, 5).data]"
    shades = [tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5)) for _, colour in data["shades"]]
    for measure in data["measures"]:
        tab.select_option("#measure", measure["key"])
        pixels, values, (low, high) = (
            tab.evaluate(image),
            data["panels"][2]["measures"][measure["key"]],
            measure["range"],
        )
        assert tab.locator("#bar-is").inner_text().lower().startswith(measure["label"].lower())
        for place in range(35):
            value, pixel = values[place // 7][place % 7], tuple(pixels[4 * place : 4 * place + 3])
            if data["panels"][2]["diverged"][place // 7][place % 7]:
                assert pixel == (196, 196, 196)
            elif value is None:
                assert pixel == (255, 255, 255)
            else:
                share = min(1.0, max(0.0, (value - low) / (high - low))) * 16
                near = [abs(a - b) for a, b in zip(pixel, shades[round(share)], strict=True)]
                assert max(near) < 30, (measure["key"], place)


def test_terms_are_explained_where_one_points_and_where_one_tabs(visit, report):
    tab = visit(report)
    slope = tab.locator("#numbers a.term", has_text="slope s")
    slope.hover()
    assert tab.locator("#tip").inner_text().startswith("How the best column value moves along the rows")
    tab.mouse.move(5, 5)
    assert tab.locator("#tip").is_hidden()
    slope.focus()
    assert tab.locator("#tip").is_visible()
    terms = tab.locator("a.term").evaluate_all("links => links.map((link) => link.getAttribute('href').slice(1))")
    assert all(tab.locator(f"dd[id='{term}']").count() == 1 for term in set(terms)) and len(set(terms)) > 8


def test_curves_and_profiles_are_drawn_before_one_scrolls_and_on_paper(visit, report):
    tab = visit(report)
    tab.wait_for_selector("#along-column .scatterlayer .trace")
    assert tab.evaluate("scrollY") == 0 and tab.locator("#curves .scatterlayer .trace").count() == 8
    width = "() => document.querySelector('#curves .main-svg').getBoundingClientRect().width"
    assert tab.evaluate(width) > 800
    tab.set_viewport_size({"width": 700, "height": 900})
    tab.emulate_media(media="print")
    tab.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(width) <= 700
    tab.emulate_media(media="screen")
    tab.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert tab.locator("#curves .main-svg").first.get_attribute("viewBox") is None


@pytest.mark.parametrize("context", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}])
def test_axe_finds_nothing(visit, report, context):
    tab = visit(report, **context)
    tab.wait_for_selector("#along-column .scatterlayer .trace")
    found = Axe().run(tab).response["violations"]
    assert [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found] == []


def test_a_page_that_cannot_tell_says_so_first_and_why(visit, tmp_path, png):
    study = make_study(
        panels=[{"optimizer": "adamw"}], axes={"lr": {"values": "1, 1/2"}, "weight_decay": {"values": "1, 2"}}
    )
    tab = visit(write(tmp_path / "r.html", study, make_table(study), png))
    answer = tab.locator("#answers li").inner_text()
    assert "Can't tell whether to tune them separately: " in answer and answer.endswith(".")
    tab.locator("#why a.term", has_text="can't tell").first.hover()
    assert tab.locator("#tip").inner_text().startswith("The cells do not decide")
