"""Noise around a surface: replicates of its error grid, over seeds or over residuals, and intervals from them.

Knows arrays only. Two sources of noise, in order of honesty. *seeds*: where most cells have two seeds or
more, each cell's seeds are drawn again with replacement, their residuals widened by √(n/(n−1)) because n
seeds spread less than the population they come from. *residual*: with one seed, noise is what a second
difference along both axes leaves over (weights (1, −2, 1) ⊗ (1, −2, 1) / 6, which removes every additive
surface and every product of slopes); where the cap leaves too few such stencils, second differences along
either axis alone, which take a surface's own curvature for noise and so widen the interval. Cells at or
above the cap keep their value: noise there is not seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

IntervalKind = Literal["seeds", "residual"]
MIN_STENCILS = 12
# Stencils share cells: their squares carry the information of this many times fewer independent ones. Along one axis
# neighbours correlate by −2/3 and 1/6, so 1 + 2 (4/9 + 1/36) = 1.94; along both, its square.
STENCIL_OVERLAP = 1.94**2
BLOCK_NUMBERS = 2_000_000


def mean_over_seeds(errors: np.ndarray, cap: float) -> np.ndarray:
    """Mean over seeds [R, C] of errors [R, C, S], diverged runs entering at the cap; NaN where every seed is missing.

    The mean itself is not capped yet: noise is added first.
    """
    values = np.where(np.isposinf(errors), cap, errors)
    there = ~np.isnan(values)
    n = there.sum(-1)
    return np.where(n > 0, np.where(there, values, 0.0).sum(-1) / np.maximum(n, 1), np.nan)


def _stencil_residuals(mean: np.ndarray) -> np.ndarray:
    """Noise-sized numbers left by second differences of mean [R, C], NaN where it is not to be looked at."""
    if min(mean.shape) >= 3:
        both = mean[:-2] - 2 * mean[1:-1] + mean[2:]
        both = (both[:, :-2] - 2 * both[:, 1:-1] + both[:, 2:]) / 6
        both = both[np.isfinite(both)]
        if both.size >= MIN_STENCILS:
            return both
    along = [(grid[:-2] - 2 * grid[1:-1] + grid[2:]).ravel() / np.sqrt(6) for grid in (mean, mean.T)]
    single = np.concatenate(along)
    return single[np.isfinite(single)]


@dataclass(frozen=True, eq=False)
class Noise:
    """What one grid's cells would differ by if it were trained again.

    `variance` is that of one cell's mean, in points², averaged over the cells below the cap, and rests on `freedom`
    degrees of freedom. `draw(count, rng)` yields blocks [n, R, C] of capped replicates, `count` in all.
    """

    kind: IntervalKind
    mean: np.ndarray
    variance: float
    freedom: float
    draw: Callable[[int, np.random.Generator], Iterator[np.ndarray]]

    def hides(self, cap: float) -> bool:
        """Whether the cells' means [R, C], capped, vary no more than the noise does: an F-test at 5 %."""
        from scipy.stats import f

        cells = self.mean[~np.isnan(self.mean)]
        if cells.size < 2 or self.variance == 0:
            return False
        ratio = np.var(np.minimum(cells, cap), ddof=1) / self.variance
        return bool(ratio < f.ppf(0.95, cells.size - 1, max(1.0, self.freedom)))


def noise_of(errors: np.ndarray, cap: float) -> Noise | None:
    """The noise that errors [R, C, S] show; None where they show none: one seed and too few cells under the cap."""
    mean = mean_over_seeds(errors, cap)
    n = (~np.isnan(errors)).sum(-1)
    seen = (n > 0) & (mean < cap)
    if not seen.any():
        return None
    if (n[seen] >= 2).mean() > 0.5:
        values = np.sort(np.where(np.isposinf(errors), cap, errors), axis=-1)  # NaN last: the first n are there
        widen = np.sqrt(n / np.maximum(n - 1, 1))
        residuals = np.where(np.isnan(values), 0.0, values - mean[..., None]) * widen[..., None]
        residuals[~seen] = 0.0
        of_mean = (residuals**2).sum(-1) / np.maximum(n, 1) ** 2  # s² / n
        several = seen & (n >= 2)
        return Noise(
            "seeds",
            mean,
            float(of_mean[several].mean()),
            float((n[several] - 1).sum()),
            lambda count, rng: _seed_blocks(mean, residuals, n, cap, count, rng),
        )
    pool = _stencil_residuals(np.where(seen, mean, np.nan))
    if pool.size < MIN_STENCILS:
        return None
    return Noise(
        "residual",
        mean,
        float((pool**2).mean()),
        pool.size / STENCIL_OVERLAP,
        lambda count, rng: _residual_blocks(mean, np.where(seen, 1.0, 0.0), pool, cap, count, rng),
    )


def _blocks(count: int, numbers_each: int) -> Iterator[int]:
    size = max(1, BLOCK_NUMBERS // max(1, numbers_each))
    for start in range(0, count, size):
        yield min(size, count - start)


def _seed_blocks(
    mean: np.ndarray, residuals: np.ndarray, n: np.ndarray, cap: float, count: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    rows, cols, seeds = residuals.shape
    at_row, at_col = np.arange(rows)[:, None], np.arange(cols)
    size = np.maximum(n, 1)
    for block in _blocks(count, residuals.size):
        noise = np.zeros((block, rows, cols))
        for draw in range(seeds):  # cells with fewer seeds draw fewer
            picked = (rng.random((block, rows, cols)) * size).astype(int)
            noise += np.where(draw < n, residuals[at_row, at_col, picked], 0.0)
        yield np.minimum(mean + noise / size, cap)


def _residual_blocks(
    mean: np.ndarray, seen: np.ndarray, pool: np.ndarray, cap: float, count: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    # Signs are drawn too: a stencil's sign says nothing, and the pool then needs no centring.
    for block in _blocks(count, mean.size):
        shape = (block, *mean.shape)
        noise = rng.choice(pool, shape) * rng.choice([-1.0, 1.0], shape)
        yield np.minimum(mean + noise * seen, cap)


def interval(estimate: float, draws: np.ndarray, tail: float, low: float, high: float) -> tuple[float, float] | None:
    """An interval from draws [n], within [low, high], or None where the draws are undefined.

    From the least to the largest of: the draws' quantiles at `tail` and 1 − tail, the same mirrored at the
    estimate, and the estimate. Draws carry noise twice, so what noise does to a number (it raises an
    interaction, it levels a valley) shows in them once more than in the estimate; the mirrored ends take
    that back, while the plain ones serve where the number is bounded or jumps.
    """
    draws = draws[~np.isnan(draws)]
    if draws.size < 2:
        return None
    lower, upper = np.quantile(draws, [tail, 1 - tail])
    ends = (min(lower, 2 * estimate - upper, estimate), max(upper, 2 * estimate - lower, estimate))
    return float(np.clip(ends[0], low, high)), float(np.clip(ends[1], low, high))
