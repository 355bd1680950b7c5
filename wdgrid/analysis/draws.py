"""Draws noise-free errors of a panel, given the measured ones, for the intervals of cost, regrets and interaction.

The cells to which a Gaussian process was fitted (`slope`) are drawn from it, with a slope, a setting and a scale for
each draw. All others are drawn from a normal distribution around the measured error.
"""

from collections.abc import Iterator

import numpy as np

from wdgrid.analysis import measures
from wdgrid.analysis.slope import FREEDOM, Cells, Posterior, covariances
from wdgrid.analysis.words import Interval

# Per number of the noise-free surface: its bounds, and by how much its interval is stretched about the estimate. Draws
# are rougher than the surface; TAIL and the factors were chosen on the development seeds of benchmarks/calibration.py
# and certified on others (docs/separability.md).
LIMITS = {
    "interaction": (0.0, 1.0, 1.5),
    "cost": (0.0, np.inf, 1.0),
    "regret_decay": (0.0, np.inf, 1.0),
    "regret_rate": (0.0, np.inf, 1.0),
}
TAIL = 0.02  # share of draws beyond either end
UNSURE = 0.5  # standard deviation of the correction for picking, as a share of it; chosen likewise
COMBINATIONS = 24  # of slope and setting: each gives its share of the draws


def noise_free(
    cells: Cells, found: Posterior, mean: np.ndarray, seeds: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws [count, R, C] of the errors that mean errors [R, C] over so many `seeds` [R, C] would have without noise.

    Also the standard deviation [R, C] of the noise in each mean. Missing cells stay NaN and infinite ones infinite;
    nothing is capped.
    """
    drawn = np.empty((count, *mean.shape))
    measured, start = np.isfinite(mean), 0
    others = measured.copy()
    others[cells.row[~cells.censored], cells.col[~cells.censored]] = False
    spreads = []
    share = np.where(seeds > 0, seeds, 1) / max(1.0, float(seeds[cells.row, cells.col].mean()))
    open_ = ~cells.censored
    for n, noise, scale, rough in _noises(cells, found, count, rng):
        block = np.broadcast_to(mean, (n, *mean.shape)).copy()
        block[:, cells.row[open_], cells.col[open_]] -= noise[:, open_]
        spread = scale[:, None, None] * np.sqrt(2 * rough / share)  # at the cap, 1 + t with t = 1
        block[:, others] += (spread * rng.standard_normal((n, *mean.shape)))[:, others]
        drawn[start : start + n] = block
        spreads += [*(scale * rough**0.5)]
        start += n
    relative = 2 / share
    relative[cells.row[open_], cells.col[open_]] = cells.variance[open_]
    return drawn, float(np.median(spreads)) * np.sqrt(relative)


def optimism(draws: np.ndarray, spread: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How much lower than its true error the lowest measured error is, in points [D]: a parametric bootstrap.

    Noise of standard deviation `spread` [R, C] is added to the mean of the draws [D, R, C], and the lowest cell picked.
    """
    finite = np.isfinite(draws).all(0)
    smooth = draws[:, finite].mean(0)
    noise = spread[finite] * rng.standard_normal((len(draws), len(smooth)))
    lowest = (smooth + noise).argmin(1)
    return -noise[np.arange(len(draws)), lowest]


def _noises(
    cells: Cells, found: Posterior, count: int, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray, np.ndarray, float]]:
    """Blocks of draws: their number, the noise of every cell [n, N], the scales [n], the relative noise variance.

    With P = V⁻¹ − V⁻¹X(XᵀV⁻¹X)⁻¹XᵀV⁻¹ and D the noise's covariance, noise given errors E is normal with mean DPE and
    covariance D − DPD, in units of the scale, whose square is scaled inverse χ² with n − p + ν degrees of freedom.
    """
    cumulated = np.cumsum(found.joint.ravel())
    at = np.searchsorted(cumulated, (np.arange(COMBINATIONS) + rng.random()) / COMBINATIONS * cumulated[-1])
    at, times = np.unique(np.minimum(at, cumulated.size - 1), return_counts=True)
    sizes = np.diff(np.round(np.cumsum([0, *times]) * count / COMBINATIONS).astype(int))
    error, X = cells.error - cells.error.mean(), cells.design
    freedom = len(error) - X.shape[1] + FREEDOM
    for flat, n in zip(at, sizes, strict=True):
        i, h = divmod(int(flat), len(found.settings))
        slope, setting = found.slopes[i : i + 1], found.settings[h]
        _, _, V = next(covariances(cells, slope, 0 * slope, setting[None]))
        inverse = np.linalg.inv(V[0])
        weighted = inverse @ X
        P = inverse - weighted @ np.linalg.solve(X.T @ weighted, weighted.T)
        D = setting[2] * cells.variance + cells.jump
        squares = FREEDOM * cells.least_scale**2 + error @ P @ error
        scale = np.sqrt(squares / rng.chisquare(freedom, n))
        values, vectors = np.linalg.eigh(np.diag(D) - D[:, None] * P * D)
        root = vectors * np.sqrt(np.maximum(values, 0))
        yield n, D * (P @ error) + scale[:, None] * (rng.standard_normal((n, len(D))) @ root.T), scale, setting[2]


def measure(errors: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of LIMITS [...] over capped errors [..., R, C]."""
    return {
        "interaction": measures.interaction(errors),
        "cost": measures.sequential(errors),
        "regret_decay": measures.regret(errors),
        "regret_rate": measures.regret(np.swapaxes(errors, -1, -2)),
    }


def of_draws(draws: np.ndarray, caps: np.ndarray) -> tuple[dict[str, float], dict[str, Interval]]:
    """The numbers of the mean of the draws [D, R, C], each at most at its cap [D], and their 90 % intervals.

    An interval reaches from the smallest to the largest of the draws' quantiles and of these quantiles mirrored at the
    estimate. Draws are rougher than the surface, which raises every number; mirroring corrects for that.
    """
    smooth = np.where(np.isposinf(draws).any(0), np.inf, np.where(np.isfinite(draws), draws, 0.0).mean(0))
    smooth = np.where(np.isnan(draws[0]), np.nan, smooth)
    of_draws = measure(np.minimum(draws, caps[:, None, None]))
    estimates = {name: float(value) for name, value in measure(np.minimum(smooth, np.median(caps))).items()}
    intervals = {}
    for name, (least, most, stretch) in LIMITS.items():
        values, estimate = of_draws[name][~np.isnan(of_draws[name])], estimates[name]
        if len(values) < 2 or np.isnan(estimate):
            continue
        low, high = np.quantile(values, [TAIL, 1 - TAIL])
        ends = [
            estimate + stretch * (end - estimate)
            for end in (min(low, 2 * estimate - high), max(high, 2 * estimate - low))
        ]
        intervals[name] = (float(np.clip(ends[0], least, most)), float(np.clip(ends[1], least, most)))
    return estimates, intervals
