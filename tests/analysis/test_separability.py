"""The numbers of separability: the paper's table, synthetic surfaces whose answer is known, intervals, tables read."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.known_surfaces import DECAY, LR, X, Y, alone, bowl, surface
from wdgrid.analysis.best_axes import best_axes
from wdgrid.analysis.draws import LIMITS
from wdgrid.analysis.measures import sequential
from wdgrid.analysis.separability import analyse, error_cap
from wdgrid.analysis.surface import mean_over_seeds, paper_surfaces, surfaces

# Best, interaction, rho, slope, regret of a decay tuned at a wrong rate, of a rate at a wrong decay; of measured cells.
PAPER = {
    (2, "SGD"): (3.99, 0.752, -0.92, -0.88, 1.91, 1.79),
    (2, "SGDW"): (3.97, 0.141, -0.15, 0.02, 0.03, 0.42),
    (2, "Adam"): (5.06, 0.481, -0.80, -2.06, 0.60, 0.71),
    (2, "AdamW"): (4.02, 0.148, 0.07, 0.11, 0.00, 1.16),
    (1, "Adam fixed"): (6.07, 0.520, -0.68, None, 0.05, 0.66),
    (1, "Adam step"): (5.74, 0.397, -0.82, -2.47, 0.45, 0.40),
    (1, "Adam cos"): (5.04, 0.364, -0.80, -2.10, 0.50, 0.26),
    (1, "AdamW fixed"): (6.07, 0.515, 0.13, None, 0.03, 0.71),
    (1, "AdamW step"): (4.96, 0.162, 0.27, 0.14, 0.32, 0.16),
    (1, "AdamW cos"): (4.01, 0.116, 0.07, 0.15, 0.02, 0.07),
}


@pytest.fixture(scope="module")
def paper():
    return {figure: analyse(paper_surfaces(figure=figure), draws=0) for figure in (1, 2)}


@pytest.mark.parametrize(("figure", "panel"), PAPER)
def test_the_papers_figures(paper, figure, panel):
    result = paper[figure][panel]
    best, interaction, rho, slope, decay, rate = PAPER[figure, panel]
    assert result.cap == pytest.approx(7, abs=0.04)
    assert result.best_error == pytest.approx(best, abs=0.02)
    assert result.interaction == pytest.approx(interaction, abs=0.02)
    assert result.rho == pytest.approx(rho, abs=0.02)
    assert result.regret_decay == pytest.approx(decay, abs=0.02)
    assert result.regret_rate == pytest.approx(rate, abs=0.02)
    if slope is None:
        assert result.verdict == "can't tell"
    else:
        assert result.slope == pytest.approx(slope, abs=0.02)


def test_the_library_axis_is_found_out():
    sgdw = paper_surfaces(figure=2)["SGDW"]
    here, decays = sgdw.errors[..., 0], sgdw.cols
    ratios = np.unique(np.round(np.log2(decays[1:] / sgdw.rows[:, None]), 6))
    there = np.full((len(sgdw.rows), len(ratios)), np.nan)
    for i, rate in enumerate(sgdw.rows):
        for j, decay in enumerate(decays[1:], start=1):
            there[i, np.abs(ratios - np.log2(decay / rate)).argmin()] = here[i, j]
    moved = alone(there, rows=sgdw.rows, cols=2.0**ratios, cap=7.0)
    before = analyse({"SGDW": sgdw}, cap=7.0)["SGDW"]
    assert moved.slope == pytest.approx(before.slope - 1, abs=0.1)
    assert (before.verdict, moved.verdict) == ("separable", "coupled")
    assert moved.interaction > before.interaction + 0.2


@settings(max_examples=10, deadline=None)
@given(
    a=st.floats(0.05, 0.2),
    b=st.floats(0.05, 0.2),
    x=st.floats(-1.5, 1.5),
    y=st.floats(-1.0, 1.0),
)
def test_additive_surfaces(a, b, x, y):
    result = alone(bowl(0, a, b, (x, y)), draws=0, cap=90.0)
    assert result.interaction < 0.01
    assert abs(result.slope) < 0.1
    assert max(result.regret_decay, result.regret_rate, result.cost) < 1e-9


@pytest.mark.parametrize("slope", [-1, 1])
def test_product_and_ratio(slope):
    x, y = np.meshgrid(X, Y, indexing="ij")
    result = alone(4 + 0.5 * (y - slope * x) ** 2, cap=7.0)
    assert result.slope == pytest.approx(slope, abs=0.1)
    assert result.verdict == "coupled"
    assert result.interaction > 0.3
    assert f"halve the rate, {'double' if slope < 0 else 'halve'} the decay" in result.sentence
    axes = best_axes(result, "sgd")
    assert axes is not None and axes.power == pytest.approx(-slope, abs=0.1)
    assert axes.interval is not None and axes.interval[0] <= axes.power <= axes.interval[1]


def test_intervals_are_repeatable_and_hold_the_estimate():
    noisy = bowl(-1)[..., None] + 0.2 * np.random.default_rng(0).standard_normal((11, 11, 3))
    first, again = alone(noisy), alone(noisy)
    assert first.intervals == again.intervals and set(first.intervals) == {"slope", *LIMITS}
    for name, (low, high) in first.intervals.items():
        assert low <= getattr(first, name) <= high


def test_sequential_tuning_is_two_searches_in_a_line():
    errors = np.array([[5.0, 3.0, 7.0], [4.0, 6.0, 2.0], [7.0, 7.0, 7.0]])
    rows = [errors[:, j].min() - 2 for j in (1, 2)]  # the third row has no cell below the cap
    cols = [errors[i].min() - 2 for i in (1, 0, 1)]
    assert sequential(errors) == pytest.approx((np.mean(rows) + np.mean(cols)) / 2)


def test_a_best_error_is_corrected_for_having_been_picked():
    rng, errors = np.random.default_rng(0), []
    for grid in range(8):
        truth = bowl(-0.5, at=tuple(rng.uniform(-2, 2, 2)))
        found = alone(truth[..., None] + 0.3 * rng.standard_normal((11, 11, 2)), rng_seed=grid, draws=100)
        true = truth[list(LR).index(found.best_row), list(DECAY).index(found.best_col)]
        errors.append([found.best_error - true, found.honest_error - true])
    raw, corrected = np.mean(errors, 0)
    assert raw < -0.2 and abs(corrected) < 0.5 * abs(raw)


def test_order_of_axes_and_seeds_does_not_matter():
    noisy = bowl(-1)[..., None] + 0.2 * np.random.default_rng(0).standard_normal((11, 11, 3))
    order = np.random.default_rng(1).permutation(11)
    shuffled = alone(noisy[order][:, order], rows=LR[order], cols=DECAY[order], draws=0)
    straight = alone(noisy, draws=0)
    for name in ("best_row", "best_col", "slope", "interaction", "regret_decay", "regret_rate", "rho"):
        assert getattr(shuffled, name) == pytest.approx(getattr(straight, name), abs=1e-6)


def test_the_cap_and_the_best_error_are_the_studys():
    assert error_cap(4) == 7 and error_cap(10) == 17.5 and error_cap(60) == 90 and error_cap(40, 50) == 50
    good, bad = surface(bowl(0)), surface(bowl(0) + 2.5, panel="bad")
    results = analyse({"good": good, "bad": bad}, draws=0)
    assert results["bad"].cap == results["good"].cap == pytest.approx(error_cap(bowl(0).min()))
    assert results["bad"].valley.width > results["good"].valley.width  # few cells of bad lie below the cap


def test_a_diverged_seed_enters_at_the_cap():
    errors = np.array([[[5.0, np.inf]], [[np.nan, 3.0]], [[np.nan, np.nan]]])
    assert mean_over_seeds(errors, 7.0)[:, 0].tolist() == pytest.approx([6, 3, np.nan], nan_ok=True)
    noisy = bowl(0)[..., None] + np.zeros(2)
    noisy[5, 6, 1] = np.inf  # the bottom of the bowl: one of two seeds blew up
    result = alone(noisy, draws=0)
    assert result.n_diverged == 1
    assert (result.best_row, result.best_col) != (LR[5], DECAY[6])


def test_a_few_missing_cells_and_ties_change_little():
    holes = bowl(-1)
    holes[[0, 3, 9], [0, 8, 2]] = np.nan
    assert alone(holes, draws=0).interaction == pytest.approx(alone(bowl(-1), draws=0).interaction, abs=0.05)
    additive = bowl(0)
    additive[[0, 3, 9], [0, 8, 2]] = np.nan
    assert alone(additive, cap=90, draws=0).interaction < 0.01
    tied = alone(np.round(bowl(0)))
    assert tied.intervals["slope"][0] < 0 < tied.intervals["slope"][1]


def test_surfaces_from_the_tidy_table():
    lines = []
    for panel in ("sgd", "adamw"):
        for seed in (0, 1):
            for row, lr in (("1", 0.1), ("1/2", 0.05)):
                for col, decay in (("0", 0.0), ("1/4", 2.5e-4), ("1", 1e-3)):
                    error = lr + decay + seed + (panel == "sgd")
                    lines.append([panel, seed, row, col, lr, decay, "complete", error])
    columns = ["panel", "seed", "row", "col", "lr", "weight_decay", "state", "test_error"]
    frame = pd.DataFrame(lines, columns=columns)
    frame.loc[0, ["state", "test_error"]] = ["running", np.nan]
    frame.loc[1, "test_error"] = np.inf
    frame.loc[2, "state"] = "failed"
    found = surfaces(frame, "lr", "weight_decay")
    assert list(found) == ["sgd", "adamw"]
    sgd = found["sgd"]
    assert sgd.row_labels == ("1", "1/2") and sgd.col_labels == ("0", "1/4", "1")
    assert sgd.errors.shape == (2, 3, 2)
    assert np.isnan(sgd.errors[0, [0, 2], 0]).all() and sgd.errors[0, 1, 0] == np.inf
    assert sgd.errors[1, 2, 1] == pytest.approx(0.05 + 1e-3 + 2)
    assert surfaces(frame, "weight_decay", "lr")["sgd"].row_labels == ("0", "0.00025", "0.001")
    with pytest.raises(ValueError, match="lacks the column momentum"):
        surfaces(frame, "momentum", "lr")
    assert analyse(surfaces(frame, "lr", "weight_decay"))["sgd"].verdict == "can't tell"


def test_the_papers_circles_and_axes():
    panel = paper_surfaces()["figure2 SGDW"]
    assert panel.errors.shape == (11, 11, 1) and panel.circled.sum() == 10
    assert panel.row_labels[:2] == ("1", "1/2") and panel.rows[1] == 0.5
    assert panel.col_labels[:2] == ("0", "1/32") and panel.cols[1] == pytest.approx(1e-3 / 32)
