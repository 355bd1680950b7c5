"""The estimator of the valley's slope: an independent implementation, invariances, and surfaces of known slope."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from helpers.known_surfaces import DECAY, LR, bowl
from wdgrid.analysis.slope import CHANGES, Cells, informative, log_evidence
from wdgrid.analysis.valley import Valley, valley


def cells_of(errors: np.ndarray, rows=LR, cols=DECAY, cap: float = 7.0) -> Cells:
    diverged = np.isinf(errors)
    seeds = np.ones(errors.shape)
    return informative(np.where(diverged, cap, errors), seeds, diverged, rows, cols, float(np.nanmin(errors)), cap)


def fit(errors: np.ndarray, rows=LR, cols=DECAY, cap: float = 7.0) -> Valley:
    return valley(cells_of(errors, rows, cols, cap), cols)[0]


def noisy(slope: float, seed: int = 0, **where) -> np.ndarray:
    return bowl(slope, **where) + 0.15 * np.random.default_rng(seed).standard_normal((11, 11))


def test_evidence_is_the_likelihood_of_contrasts_with_the_scale_integrated_numerically():
    """Contrasts from an SVD, their multivariate t density from scipy, the covariance written out pair by pair."""
    cells = cells_of(noisy(-1)[3:8, 4:9], LR[3:8], DECAY[4:9])
    slopes, bends = np.array([-1.2, 0.4]), np.array([0.0, 0.1])
    length, change, noise = setting = (1.5, CHANGES[1], 0.03)
    n, p = cells.design.shape
    contrasts = np.linalg.svd(cells.design)[0][:, p:]
    x = cells.x - np.mean(cells.x)
    wanted = []
    for s, b in zip(slopes, bends, strict=True):
        V = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                u = [cells.y[k] - s * x[k] - b * (x[k] ** 2 - np.mean(x**2)) for k in (i, j)]
                z = 3**0.5 * abs(u[0] - u[1]) / cells.steps[1] / length
                drift = 0.5 * np.exp(-abs(x[i] - x[j]) / cells.steps[0] / 3) + 0.5 * x[i] * x[j] / np.mean(x**2)
                V[i, j] = (1 + z) * np.exp(-z) * (1 - change + change * drift)
            V[i, i] += noise * cells.variance[i] + cells.jump[i] + 1e-9
        scales = np.exp(np.linspace(-12, 6, 4001))  # variances; prior: scaled inverse chi square, 2 degrees of freedom
        normal = [
            multivariate_normal(cov=v * contrasts.T @ V @ contrasts).pdf(contrasts.T @ cells.error) for v in scales
        ]
        prior = np.exp(-(cells.least_scale**2) / scales) / scales  # in log scales, up to a constant
        wanted.append(np.log(np.trapezoid(np.array(normal) * prior, np.log(scales))))
    measured = log_evidence(cells, slopes, bends, np.array([setting]))[:, 0]
    assert measured[1] - measured[0] == pytest.approx(wanted[1] - wanted[0], abs=1e-3)


@pytest.mark.parametrize("slope", [-1.5, -0.75, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("at", [(0.0, 0.0), (0.0, 4.0), (0.0, -4.0)])
def test_the_slope_is_the_true_one_wherever_the_valley_lies(slope, at):
    found = fit(noisy(slope, at=at))
    assert found.interval[0] < slope < found.interval[1]
    assert found.slope == pytest.approx(slope, abs=0.2) and found.evidence > 3 and not found.bent


def test_a_diagonal_of_ties_is_one():
    i, j = np.indices((9, 9))
    errors = np.round((4 + 0.3 * (i - j) ** 2) * 169 / 100) * 100 / 169  # 169 test examples
    found = fit(errors, 2.0 ** np.arange(9), 2.0 ** np.arange(9))
    assert found.slope == pytest.approx(1, abs=0.05) and found.interval[0] > 0.5


@settings(max_examples=10, deadline=None)
@given(
    rate=st.floats(1e-4, 1e4), decay=st.floats(1e-4, 1e4), shift=st.floats(-50, 50), seed=st.integers(0, 10_000),
    slope=st.sampled_from([-1.0, 0.0, 0.6]),
)  # fmt: skip
def test_units_a_constant_order_and_mirrors(rate, decay, shift, seed, slope):
    errors = noisy(slope, seed)
    errors[0, 9:] = np.inf
    rng = np.random.default_rng(seed)
    plain = fit(errors)
    numbers = [plain.slope, *plain.interval, plain.evidence, plain.change, *plain.change_interval]
    i, j = rng.permutation(11), rng.permutation(11)
    other = fit(errors[np.ix_(i, j)] + shift, rate * LR[i], decay * DECAY[j], 7.0 + shift)
    moved = [other.slope, *other.interval, other.evidence, other.change, *other.change_interval]
    assert moved == pytest.approx(numbers, abs=1e-5)
    for rows, cols in ((1 / LR, DECAY), (LR, np.where(DECAY > 0, 1 / np.where(DECAY > 0, DECAY, 1), 0))):
        mirrored = fit(errors, rows, cols)
        assert mirrored.slope == pytest.approx(-plain.slope, abs=1e-5)
        assert mirrored.interval == pytest.approx((-plain.interval[1], -plain.interval[0]), abs=1e-5)
        assert mirrored.evidence == pytest.approx(plain.evidence, abs=1e-5)


def test_censored_cells_are_no_values():
    """What stands in a capped or diverged cell changes nothing."""
    errors = noisy(-1)
    base = fit(errors)
    assert fit(np.where(errors > 7, errors * 3, errors)) == base
    assert fit(np.where(errors > 7, np.inf, errors)) == base
    assert fit(np.where(errors > 12, np.nan, errors)).slope == pytest.approx(base.slope, abs=0.05)


@pytest.mark.parametrize("change", [-2.0, 2.0])
def test_a_bend_is_seen_with_the_slopes_at_its_ends(change):
    x, y = np.log2(LR), np.log2(np.where(DECAY > 0, DECAY, DECAY[1] / 2))
    x, y = x - x.mean(), y - y[1:].mean()
    line = change / 20 * (x**2 - np.mean(x**2))
    errors = 4 + 0.15 * (y - line[:, None]) ** 2 + 0.15 * np.random.default_rng(0).standard_normal((11, 11))
    found = fit(errors)
    assert found.bent and found.change == pytest.approx(change, abs=0.6)
    assert found.ends == pytest.approx((-change / 2, change / 2), abs=0.5)


def test_without_a_valley_there_is_no_evidence():
    rng = np.random.default_rng(0)
    for _ in range(4):
        errors = 4 + 0.1 * (np.arange(11) - 5)[:, None] ** 2 + 0.3 * rng.standard_normal((11, 11))
        assert fit(errors).evidence < 3
