"""What the gallery says of its tables is what its tables say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces

GALLERY = Path(__file__).parents[1] / "reports/gallery"
ROW = re.compile(
    r"\| (?P<panel>\w+, \w+)[^|]*\| (?P<kappa>[−\d.]+) \[.*?\| [^|]* \| (?P<share>[\d.]+) \["
    r".*\| (?P<best>[\d.]+) % \| [\d.]+ % \|$"
)


def number(printed: str) -> float:
    return float(printed.replace("−", "-"))


def test_cifar10_table_is_its_csvs_numbers():
    table = pd.read_csv(GALLERY / "cifar10-jpeg.csv", dtype={"row": str, "col": str})
    found = analyse(surfaces(table), bootstrap=0)
    rows = [
        m for line in (GALLERY / "cifar10-jpeg.md").read_text(encoding="utf-8").splitlines() if (m := ROW.match(line))
    ]
    assert len(rows) == 10
    names = {"SGD, cosine": "sgd", "SGDW, cosine": "sgdw"}
    seen = set()
    for row in rows:
        name = names.get(row["panel"], row["panel"].lower().replace(", ", "-"))
        panel = found[name]
        seen.add(name)
        assert panel.kappa == pytest.approx(number(row["kappa"]), abs=0.0051)
        assert panel.interaction == pytest.approx(number(row["share"]), abs=0.0051)
        assert panel.best_error == pytest.approx(number(row["best"]), abs=0.0051)
    assert seen == set(found)
