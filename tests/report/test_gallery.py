"""What the gallery says of its tables is what its tables say."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from wdgrid.analysis.compare import Side, compare
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import paper_surfaces, surfaces

GALLERY = Path(__file__).parents[2] / "reports/gallery"
ROW = re.compile(r"\| (?P<optimizer>\w+), (?P<schedule>\w+)(?P<beside>[^|]*) \| (?P<numbers>.*) \|")
PAPER_WORDS = {"constant": "fixed", "step": "step", "cosine": "cos"}


def sides(shown, draws, test_images=10_000):
    found = analyse(shown, draws=draws, test_images=test_images)
    return {name: Side(name, name, "", "", surface.as_printed(), found[name]) for name, surface in shown.items()}


def numbers(printed: str) -> list[float]:
    """Every number of a row in order; a lone dash is none."""
    return [math.nan if n == "–" else float(n.replace("−", "-")) for n in re.findall(r"−?[\d.]+|–", printed)]


def test_cifar10_table_is_its_csvs_numbers():
    here = sides(
        surfaces(pd.read_csv(GALLERY / "cifar10-jpeg.csv", dtype={"row": str, "col": str})), draws=200, test_images=2000
    )
    paper = {figure: sides(paper_surfaces(figure=figure), draws=200) for figure in (1, 2)}
    lines = (GALLERY / "cifar10-jpeg.md").read_text(encoding="utf-8").splitlines()
    rows = [match for line in lines if (match := ROW.fullmatch(line))]
    assert len(rows) == 10
    seen = set()
    for row in rows:
        optimizer, schedule, beside, printed = row.groups()
        name = optimizer.lower() if optimizer.startswith("SGD") else f"{optimizer.lower()}-{schedule}"
        seen.add(name)
        figure = 2 if schedule == "cosine" and "Figure 1" not in beside else 1
        b = paper[figure][optimizer if figure == 2 else f"{optimizer} {PAPER_WORDS[schedule]}"]
        pair = compare(here[name], b, draws=100)
        ours, theirs = pair.numbers
        measured = [
            *(ours.slope, *ours.intervals["slope"], theirs.slope),
            *(ours.interaction, *ours.intervals["interaction"], theirs.interaction),
            *(pair.rank_correlation, ours.best_error, theirs.best_error),
        ]
        expected = [math.nan if number is None else number for number in measured]
        assert numbers(printed) == pytest.approx(expected, abs=0.0051, nan_ok=True), row[0]
    assert seen == set(here)
