"""A share of the calibration: the slopes of a few surfaces of known slope, and no verdict without a valley."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def calibration(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import calibration

    yield calibration
    for name in ("calibration", "families"):
        sys.modules.pop(name, None)


def test_intervals_cover_the_true_slope_and_false_verdicts_are_rare(calibration):
    families = ("symmetric", "wall at large decay", "V", "no valley")
    found = calibration.results(1, 10_000, families, 1)
    slanted = [one for one in found if one.family != "no valley" and one.slope is not None]
    assert np.mean([one.covered["slope"] for one in slanted]) >= 0.8
    assert all(one.verdict == "can't tell" for one in found if one.family == "no valley")
    assert not any(one.verdict == "separable" and abs(one.true) >= 0.5 for one in slanted)
    assert not any(one.verdict == "coupled" and abs(one.true) <= 0.1 for one in slanted)
    text = "\n".join(calibration.table(found))
    assert "| symmetric | 3 |" in text and "slope covered" in text
