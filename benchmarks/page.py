"""Measures the response times of a report's page in Chromium: opening it, and hovering with the mouse.

    python benchmarks/page.py [--opens N] [--hovers N] [report.html ...]

Without a page: that of 10 000 cells of two steps each, swept first (growth.py). Needs Chromium and playwright. Markdown
goes to stdout, to be pasted into RESULTS.md.
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import growth
import machine
from contenders import WDGRID
from playwright.sync_api import Browser, sync_playwright

# From the pointer's event to the end of the frame in which the page has answered it: the page's own listener, which
# writes the box, was there first.
WATCH = """() => {
  window.waits = [];
  const noteSince = (begun) => setTimeout(() => waits.push(performance.now() - begun));
  const after = (event) => requestAnimationFrame(() => noteSince(event.timeStamp));
  for (const surface of document.querySelectorAll(".surface")) surface.addEventListener("pointermove", after);
}"""
ANSWERED = """(n) => new Promise((done) => {
  const look = () => (waits.length >= n ? done() : setTimeout(look, 1));
  look();
})"""
HEIGHT = 900  # of the window
READY = "performance.getEntriesByType('mark').find((m) => m.name === 'ready').startTime"


def measure(browser: Browser, path: Path, hovers: int) -> tuple[float, list[float]]:
    """Opens a page: ms until it is ready, and until each of a number of mouse moves is answered."""
    context = browser.new_context(viewport={"width": 1200, "height": HEIGHT})
    tab = context.new_page()
    tab.goto(path.resolve().as_uri())
    tab.wait_for_selector("html[data-ready]")
    ready = tab.evaluate(READY)
    surface = tab.locator(".surface").first
    surface.scroll_into_view_if_needed()
    tab.evaluate(WATCH)
    box, draw = surface.bounding_box(), random.Random(0)
    assert box
    bottom = min(box["y"] + box["height"], HEIGHT)
    for n in range(1, hovers + 1):
        tab.mouse.move(box["x"] + draw.random() * box["width"], draw.uniform(box["y"], bottom))
        tab.evaluate(ANSWERED, n)
    waits = tab.evaluate("waits")
    context.close()
    return ready, waits


@contextmanager
def pages(given: list[Path]) -> Iterator[list[Path]]:
    """The pages given, else that of a study of 10 000 cells."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="wdgrid-bench-") as name:
        list(growth.points(WDGRID, Path(name), [10_000], [machine.cores()]))
        yield list(Path(name).rglob("report.html"))


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--opens", type=int, default=5, help="times each page is opened (default: %(default)s)")
    parser.add_argument("--hovers", type=int, default=40, help="moves of the mouse in each (default: %(default)s)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with pages(options.pages) as paths, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        print(f"{machine.processor()}; Chromium {browser.version}; commit {machine.commit()}\n")
        print("| page | MiB | ready after, ms: median, most | hover answered, ms: median, most | n: opened, hovers |")
        print("|---|---|---|---|---|")
        for path in paths:
            runs = [measure(browser, path, options.hovers) for _ in range(options.opens)]
            ready, waits = [one for one, _ in runs], [wait for _, some in runs for wait in some]
            shown = [f"{statistics.median(found):.0f}, {max(found):.0f}" for found in (ready, waits)]
            size = path.stat().st_size / 2**20
            print(f"| {path.parent.name} | {size:.1f} | {shown[0]} | {shown[1]} | {len(ready)}, {len(waits)} |")
        browser.close()


if __name__ == "__main__":
    main()
