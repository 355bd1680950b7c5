"""Which cells a search trains next: on the paper's surfaces, on valleys of every slope, and whatever the input."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wdgrid.analysis.promising import CHANGE, CURIOSITY, NOISE, REACH, VAGUE, promising
from wdgrid.analysis.separability import error_cap
from wdgrid.analysis.surface import paper_surfaces

PAPER = {name: surface.as_printed().errors[:, :, 0] for name, surface in paper_surfaces().items()}
SHAPE = st.tuples(st.integers(1, 7), st.integers(1, 7))
ERRORS = st.one_of(st.floats(0, 100), st.just(math.inf), st.just(math.nan))


def every_second(shape):
    """The coarse pass' cells of a grid as printed: from the smallest rate up, from the smallest decay up."""
    mask = np.zeros(shape, bool)
    mask[(shape[0] - 1) % 2 :: 2, ::2] = True
    return mask


def search(coarse, truth, rounds):
    """Regret in points at a quarter of the grid's cost, a coarse cell costing a quarter of a cell.

    A third of it is spread; the rest is spent in one go, or in two.
    """
    total = math.floor(truth.size / 4 - (~np.isnan(coarse)).sum() / 4)
    full = np.full(truth.shape, np.nan)
    left = total
    while left:
        third, spread = math.ceil(total / 3), left == total
        n = min(left, third if spread or rounds == 3 else left)
        for place in promising(coarse, full, n, apart=2 if spread else 1):
            full[place] = truth[place]
            left -= 1
    return np.nanmin(full) - truth.min()


@pytest.mark.parametrize("rounds", [2, 3])
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_best_cells_are_found_through_a_noisy_coarse_pass(name, rounds):
    truth = PAPER[name]
    for seed in range(3):  # a low budget is worse everywhere, steeper, and noisy
        low = 1.0 + 1.3 * truth + np.random.default_rng(seed).normal(0, 0.3, truth.shape)
        assert (
            search(np.where(every_second(truth.shape), low, np.nan), truth, rounds) <= 0.2
        )  # what was read off is ±0.2


@pytest.mark.parametrize("towards", [(1, 0), (-1, 0), (0, 1), (0, -1)])
@pytest.mark.parametrize("name", PAPER)
def test_rounds_make_up_for_a_budget_that_moves_the_optimum_by_a_cell(name, towards):
    truth = PAPER[name]
    rows, cols = (1 + step + np.arange(n) for step, n in zip(towards, truth.shape, strict=True))
    low = 1.0 + 1.3 * np.pad(truth, 1, mode="edge")[np.ix_(rows, cols)]
    assert search(np.where(every_second(truth.shape), low, np.nan), truth, rounds=3) <= 0.2


@given(
    slope=st.floats(-1.2, 1.2),  # −1: coupled, 0: separable, 1: only the ratio counts
    row=st.floats(0, 10),
    col=st.floats(0, 10),
    along=st.floats(0.02, 0.3),
    across=st.floats(0.1, 0.6),
    blown=st.integers(0, 6),
    lost=st.sets(st.integers(0, 35), max_size=4),
)
@settings(deadline=None, max_examples=60)
def test_any_valley_is_found_beside_diverged_cells_and_cells_that_failed(slope, row, col, along, across, blown, lost):
    i, j = np.mgrid[:11.0, :11.0]
    truth = 2 + across * ((j - col) - slope * (i - row)) ** 2 / (1 + slope**2) + along * (i - row) ** 2
    truth[(10 - i) + j > 20 - blown] = np.inf  # the fastest rates with the largest decays, as it happens
    coarse = np.where(every_second(truth.shape), truth + 1.5, np.nan)
    coarse[tuple(np.argwhere(every_second(truth.shape))[sorted(lost)].T)] = np.nan
    assume(np.isfinite(coarse).any())
    assert search(coarse, truth, rounds=3) <= 0.2


@given(data=st.data(), shape=SHAPE, n=st.integers(0, 60))
def test_whatever_the_results_untrained_cells_are_picked_once(data, shape, n):
    coarse, full = (data.draw(arrays(float, shape, elements=ERRORS)) for _ in range(2))
    picked = promising(coarse, full, n)
    assert len(set(picked)) == len(picked) == min(n, int(np.isnan(full).sum()))
    assert all(np.isnan(full[place]) for place in picked)


@given(seed=st.integers(0, 10**6), flip=st.booleans())
@settings(deadline=None, max_examples=25)
def test_which_way_an_axis_runs_makes_no_difference(seed, flip):
    rng = np.random.default_rng(seed)
    coarse = np.where(rng.random((7, 6)) < 0.4, rng.uniform(3, 5, (7, 6)), np.nan)
    full = np.where(rng.random((7, 6)) < 0.2, rng.uniform(2, 4, (7, 6)), np.nan)
    there = promising(coarse, full, 8)
    if flip:
        back = [(6 - i, j) for i, j in promising(coarse[::-1], full[::-1], 8)]
    else:
        back = [(i, j) for j, i in promising(coarse.T, full.T, 8)]
    assert back == there


@pytest.mark.parametrize("results", [8, 0])
def test_order_is_that_of_the_conditional_normal_distribution(results):
    """Against the definition, cell by cell: two levels of unknown mean, the joint normal conditioned on results."""
    rng = np.random.default_rng(1)
    coarse, full = np.full((4, 5), np.nan), np.full((4, 5), np.nan)
    coarse[::2, ::2] = rng.uniform(2, 5, (2, 3))
    full.flat[rng.permutation(20)[:results]] = rng.uniform(1, 3, results)
    seen = [(i, j, 0) for i, j in np.argwhere(~np.isnan(coarse))] + [(i, j, 1) for i, j in np.argwhere(~np.isnan(full))]
    caps = [error_cap(np.nanmin(level)) if (~np.isnan(level)).any() else 0 for level in (coarse, full)]
    y = np.array([min((coarse, full)[level][i, j], caps[level]) for i, j, level in seen])

    def covariance(a, b):
        shape = math.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * REACH**2))
        return VAGUE + shape + (VAGUE + CHANGE * shape) * (a[2] == b[2] == 1)

    between = np.array([[covariance(a, b) + NOISE * (a is b) for b in seen] for a in seen])
    scores = {}
    for i in range(4):
        for j in range(5):
            if np.isnan(full[i, j]):
                cell = (i, j, 1)
                gain = np.linalg.inv(between) @ [covariance(cell, other) for other in seen]
                left = covariance(cell, cell) - gain @ [covariance(cell, other) for other in seen]
                scores[i, j] = gain @ y - CURIOSITY * math.sqrt(y.var() * left)
    assert promising(coarse, full, 20) == sorted(scores, key=lambda place: scores[place])


def test_where_nothing_is_known_the_least_known_comes_first():
    nothing = np.full((5, 5), np.nan)
    assert len(promising(nothing, nothing, 3)) == 3
    diverged = nothing.copy()
    diverged[:, :3] = np.inf
    assert {col for _, col in promising(diverged, nothing, 5)} == {4}


def test_levels_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[3, 2\]"):
        promising(np.zeros((2, 3)), np.zeros((3, 2)), 1)
