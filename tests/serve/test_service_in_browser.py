"""The service in Chromium: submit, watch, pause, cancel, compare; kills in the middle; keyboard, narrow, dark."""

import re
import signal
import time

import pytest

from helpers.commands import SMALL
from helpers.served import until
from wdgrid.store import Store

pytestmark = pytest.mark.slow
# One panel that ends at once, and one that does not end.
LONG = SMALL.replace("epochs = 3", "epochs = 100000").replace('optimizer = "sgd"', 'optimizer = "sgd"\nepochs = 1')
AWAY = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


@pytest.fixture
def visit(chromium):
    """Opens a page and, at the end, insists that it logged no error and asked nothing of another machine."""
    opened, faults = [], []

    def open_page(address, **context):
        tab = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **context}).new_page()
        opened.append(tab)
        tab.on(
            "console", lambda m: faults.append(m.text) if m.type == "error" and not m.text.endswith(AWAY_ENDS) else None
        )
        tab.on("pageerror", lambda error: faults.append(str(error)))
        local = ("http://127.0.0.1:", "data:", "blob:")
        tab.on("request", lambda r: faults.append(r.url) if not r.url.startswith(local) else None)
        tab.goto(address)
        return tab

    yield open_page
    for tab in opened:
        tab.context.close()
    assert faults == []


AWAY_ENDS = tuple(f"net::{one}" for one in AWAY)


def wait(tab, script, timeout=60_000):
    """Waits until a script is true; Playwright's own way is refused by the pages' policy."""
    deadline = time.monotonic() + timeout / 1000
    while not tab.evaluate(script):
        assert time.monotonic() < deadline, script
        tab.wait_for_timeout(50)


def fill_in(tab, text, name):
    tab.fill("#toml", text)
    tab.fill("#name", name)
    wait(tab, "document.getElementById('valid').textContent.startsWith('valid: 48 cells')")


def test_submit_watch_pause_go_on_and_cancel_with_a_reload_and_a_killed_server(service, visit, place):
    running = service()
    tab = visit(f"{running.base}/submit")
    tab.select_option("#shipped", "digits")
    wait(tab, "document.getElementById('valid').textContent.startsWith('valid: ')")
    assert tab.input_value("#name") == "digits" and "[task]" in tab.input_value("#toml")
    tab.fill("#toml", LONG.replace('optimizer = "adamw"', 'optimizer = "adamq"'))
    tab.wait_for_selector("#faults li")
    line = next(k for k, one in enumerate(tab.input_value("#toml").splitlines(), start=1) if "adamq" in one)
    assert tab.locator("#faults li").inner_text().startswith(f"line {line} panels.1.optimizer = ")
    assert tab.locator("#gutter .wrong").inner_text() == str(line) and tab.locator("#start").is_disabled()
    tab.click("#faults button")
    chosen = "(() => { const { value, selectionStart, selectionEnd } = document.getElementById('toml');"
    assert "adamq" in tab.evaluate(f"{chosen} return value.slice(selectionStart, selectionEnd); }})()")
    fill_in(tab, LONG, "long")
    tab.click("#start")
    tab.wait_for_url("**/queue")
    tab.wait_for_selector("#entries tr >> text=running")

    until(lambda: stored(place, "long"))
    page = visit(f"{running.base}/studies/long")
    wait(page, "document.getElementById('progress-is').textContent.startsWith('24 of 48 cells')", timeout=60_000)
    assert page.evaluate("panels[0].done.flat().every((n) => n === 1) && panels[1].done.flat().every((n) => n === 0)")
    colour = page.evaluate("[...views[0].canvas.getContext('2d').getImageData(0, 0, 1, 1).data].slice(0, 3)")
    assert colour != [255, 255, 255]
    page.reload()
    wait(page, "document.getElementById('progress-is').textContent.startsWith('24 of 48 cells')")

    running.end(signal.SIGKILL)  # its worker ends with it, and puts the cells back
    with Store(place, read_only=True) as store:
        until(lambda: store.count("long").n_running == 0)
        running.start()
        until(lambda: store.count("long").n_running > 0)
    wait(
        page,
        "/24 of 48 cells are finished · \\d+ running/.test(document.getElementById('progress-is').textContent)",
        timeout=30_000,
    )

    tab.goto(f"{running.base}/queue")
    for button, state in (("Pause", "paused"), ("Go on", "running"), ("Cancel", "cancelled")):
        tab.click(f"#entries button >> text={button}")
        wait(tab, f"document.querySelector('#entries .state').firstChild.textContent === '{state}'", timeout=60_000)
    with Store(place, read_only=True) as store:
        until(lambda: store.count("long").n_running == 0)
        assert store.count("long").n_complete == 24
    wait(page, "!document.getElementById('progress-is').textContent.includes('running')")


def stored(place, name):
    with Store(place, read_only=True) as store:
        return store.definition(name) is not None


def test_with_the_keyboard_alone(service, visit):
    running = service("--no-work")
    tab = visit(f"{running.base}/")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to content"
    for _ in range(2):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/submit")
    tab.focus("#shipped")
    tab.keyboard.type("digits")
    tab.keyboard.press("Tab")
    wait(tab, "document.getElementById('valid').textContent.startsWith('valid: ')")
    tab.keyboard.press("Enter")  # in the field of the name
    tab.wait_for_url("**/queue")
    tab.wait_for_selector("#entries button")
    tab.focus("#entries [data-key$=pause]")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#entries [data-key$=resume]")
    assert "paused" in tab.locator("#entries .state").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_narrow_and_wide_and_without_findings_of_axe(service, visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    running = service("--no-work")
    for path in (
        "/",
        "/studies/whole",
        "/studies/half",
        "/submit",
        "/queue",
        "/compare?a=whole/sgd&b=whole/adamw",
        "/login",
    ):
        tab = visit(f"{running.base}{path}", color_scheme=scheme, viewport={"width": 390, "height": 800})
        if path.startswith("/studies"):
            tab.wait_for_selector("html[data-ready]")
            tab.locator("#curves").scroll_into_view_if_needed()
            tab.wait_for_selector("#curves .scatterlayer .trace", timeout=30_000)
        if path.startswith("/compare"):
            tab.wait_for_selector("#figure[src]", timeout=60_000)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, path
        for width in (390, 1200):
            tab.set_viewport_size({"width": width, "height": 800})
            found = Axe().run(tab).response["violations"]
            assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == [], path
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(22, 22, 22)" if scheme == "dark" else "rgb(255, 255, 255)")


def test_a_finished_study_has_its_verdict_and_two_are_compared(service, visit):
    running = service("--no-work")
    tab = visit(f"{running.base}/")
    wait(tab, "!/…/.test(document.querySelector('tr[data-name=whole] .verdict-of').textContent)", timeout=60_000)
    tab.click("text=whole")
    tab.wait_for_selector(".panel .said")
    assert len(tab.locator("#verdicts strong").all()) == 2
    tab.goto(f"{running.base}/compare")
    tab.fill("[name=a]", "whole/sgd")
    tab.fill("[name=b]", "whole/adamw")
    tab.click("text=Compare >> nth=-1")
    tab.click("button")
    tab.wait_for_selector("#figure[src]", timeout=60_000)
    assert "A: whole/sgd" in tab.locator("#result").inner_text()
    with tab.expect_download() as file:
        tab.goto(f"{running.base}/studies/whole")
        tab.click("text=trials.csv")
    assert file.value.suggested_filename == "whole-trials.csv"


def test_the_token_logs_a_browser_in_and_is_nowhere_afterwards(service, visit, tmp_path):
    running = service("--no-work", "--token")
    log = tmp_path / "log"
    token = re.search(r"/login#(\S+)", log.read_text())[1]
    tab = visit(f"{running.base}/login#{token}")
    tab.wait_for_url(f"{running.base}/")
    assert tab.locator("#studies tbody tr").count() == 2
    assert log.read_text().count(token) == 1 and token not in str(tab.context.cookies())
    assert tab.evaluate("history.length") <= 2 and token not in tab.url
    assert running.end() == 0
