"""The slope s of the valley in E(x, y) = f(x) + g(y − s·x), x = log2 of the row value, y = log2 of the column value.

f is any function, one free effect a row. g is a Gaussian process in u = y − s·x̃ (x̃ = x less its mean), and the slope is
estimated from its marginal likelihood (Rasmussen & Williams, *Gaussian Processes for Machine Learning*, 2006, sections
2.7 and 5.4): restricted to contrasts free of the row effects and of a linear term in y, the scale of the covariance
integrated out, the settings of the covariance averaged over a fixed set. docs/separability.md has the formulas and how
often the intervals cover the true slope.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

LENGTHS = (1.5, 3.0, 6.0)  # of the Matérn-3/2 covariance in u, in steps of the column axis
CHANGES = (0.02, 0.1, 0.3, 0.7)  # share of the variance of g that changes from row to row
NOISES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # noise variance at the best error, relative to that of g
SETTINGS = np.array([(length, change, noise) for length in LENGTHS for change in CHANGES for noise in NOISES])
SCAN = np.array([(length, 0.1, noise) for length in LENGTHS for noise in (1e-3, 0.03, 0.3)])
STEEPEST = 3.0  # prior: s uniform from −3 to 3
COARSE, FINE = 0.25, 0.05  # steps of s
NEGLIGIBLE = 9.0  # a slope whose log evidence is so far below the best is left out
MOST_SETTINGS = 16
FREEDOM = 2.0  # prior degrees of freedom of the scale
LEAST_SCALE = 0.03  # prior scale, relative to cap − best
CENSORED = 9.0  # variance of a censored cell, relative to that of a cell at the best error
# A slope is not known better than the line's place in a column is, whatever the model says: standard deviation of a
# column's place, in steps, over the range of the rows.
PLACE = 0.5
BLOCK_NUMBERS = 2_000_000


@dataclass(frozen=True, eq=False)
class Cells:
    """The n cells of one panel that tell of the slope: those below the cap, and their capped neighbours in a row.

    `error` [n] is in percent points, `x` and `y` [n] in octaves, `row` and `col` [n] are places in the grid,
    `censored` [n] says which are known to be at or above the cap only. `variance` [n] is a cell's noise variance
    relative to one at the best error: 1 + t for t = (E − best)/(cap − best), over its number of seeds.
    `zero` [n] marks cells at column value 0, where y is minus infinity (held as 0): they share the row effects, and
    what they tell beside that is a function of x of its own. `jump` [n] is a
    further variance of censored cells, relative to that of the errors below the cap: (cap − neighbour)²/4. A cell that
    blew up beside a good one says little of g. `least_scale` is in points.
    """

    error: np.ndarray
    x: np.ndarray
    y: np.ndarray
    row: np.ndarray
    col: np.ndarray
    censored: np.ndarray
    zero: np.ndarray
    variance: np.ndarray
    jump: np.ndarray
    steps: tuple[float, float]
    least_scale: float

    @cached_property
    def centre(self) -> float:
        """Mean of x."""
        return float(self.x.mean())

    @cached_property
    def design(self) -> np.ndarray:
        """Regressors [n, p]: one indicator a row, y, and an indicator of column value 0 where there is one."""
        zero = [self.zero] if self.zero.any() else []
        return np.column_stack([self.row[:, None] == np.unique(self.row), self.y, *zero]).astype(float)

    @property
    def enough(self) -> bool:
        """Whether rows and cells are more than what is fitted anyway: three rows, four cells beyond the regressors."""
        rows = np.unique(self.row[~self.censored & ~self.zero])
        several = len(np.unique(self.y[~self.zero])) >= 2
        return several and len(rows) >= 3 and len(self.error) >= self.design.shape[1] + 4 and np.ptp(self.error) > 0

    @property
    def range(self) -> float:
        """Octaves from the first to the last row with a cell below the cap."""
        return float(np.ptp(self.x[~self.censored & ~self.zero]))


def informative(
    mean: np.ndarray, seeds: np.ndarray, censored: np.ndarray, rows: np.ndarray, cols: np.ndarray,
    best: float, cap: float, resolution: float = 0.0,
) -> Cells:  # fmt: skip
    """The cells to fit, of mean errors [R, C] over so many `seeds` [R, C]; NaN where one is missing.

    `censored` [R, C] marks cells that are no value even below the cap: a seed diverged or never learned.
    A row value of 0 is left out. `resolution` is the smallest step between two mean errors.
    """
    there = ~np.isnan(mean) & (rows > 0)[:, None]
    open_ = there & (mean < cap) & ~censored
    by_col = np.flatnonzero(cols > 0)[np.argsort(cols[cols > 0], kind="stable")]
    inside = np.zeros_like(open_)
    inside[:, by_col] = _beside(open_[:, by_col])
    inside[:, cols == 0] = open_[:, cols == 0] & inside.any(1, keepdims=True)
    row, col = np.nonzero(inside & there)
    x, y = np.log2(np.where(rows > 0, rows, 1.0))[row], np.log2(np.where(cols > 0, cols, 1.0))[col]
    error = np.minimum(mean[row, col], cap)
    shut = ~open_[row, col]
    n = seeds[row, col] / max(1.0, float(seeds[row, col].mean()) if len(row) else 1.0)
    beside = np.full(mean.shape, -np.inf)
    ordered = np.where(open_[:, by_col], mean[:, by_col], -np.inf)
    beside[:, by_col] = np.maximum(
        np.pad(ordered[:, 1:], ((0, 0), (0, 1)), constant_values=-np.inf),
        np.pad(ordered[:, :-1], ((0, 0), (1, 0)), constant_values=-np.inf),
    )
    spread = float(error[~shut].var()) if (~shut).any() else 1.0
    jump = np.where(shut, cap - np.where(shut, beside[row, col], cap), 0.0) ** 2 / max(4 * spread, 1e-12)
    height = np.clip((error - best) / (cap - best), 0, 1)
    return Cells(
        error, x, y, row, col, shut, cols[col] == 0, np.where(shut, CENSORED, 1 + height) / n, jump,
        (_step(np.log2(rows[rows > 0])), _step(np.log2(cols[cols > 0]))),
        max(LEAST_SCALE * (cap - best), resolution / 12**0.5),
    )  # fmt: skip


def _beside(mask: np.ndarray) -> np.ndarray:
    """The mask [R, C] and the cells next to it in the same row."""
    wider = mask.copy()
    wider[:, 1:] |= mask[:, :-1]
    wider[:, :-1] |= mask[:, 1:]
    return wider


def _step(values: np.ndarray) -> float:
    """Median step of an axis in octaves; 1 where it has a single value."""
    return float(np.median(np.diff(np.unique(values)))) if len(np.unique(values)) > 1 else 1.0


def _change_with_rows(cells: Cells) -> np.ndarray:
    """Correlation [n, n] over rows of what changes in g: half of it forgets over three rows, half is a trend in x."""
    apart = np.abs(cells.x[:, None] - cells.x) / cells.steps[0]
    trend = (cells.x - cells.centre) / max(float(cells.x.std()), 1e-9)
    return 0.5 * np.exp(-apart / 3) + 0.5 * np.outer(trend, trend)


def place(cells: Cells, slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """u [..., n] = y − s x̃ − b (x̃² − its mean), for slopes s and bends b [...]."""
    x = cells.x - cells.centre
    return cells.y - slope[..., None] * x - bend[..., None] * (x**2 - (x**2).mean())


def matern(apart: np.ndarray) -> np.ndarray:
    """Matérn-3/2 correlation at distances in units of its length."""
    z = np.sqrt(3) * apart
    return (1 + z) * np.exp(-z)


def covariances(
    cells: Cells, slope: np.ndarray, bend: np.ndarray, settings: np.ndarray
) -> Iterator[tuple[Any, Any, Any]]:
    """Blocks (index of slope [B], index of setting [B], covariance V [B, n, n] in units of the scale)."""
    n, changing = len(cells.error), _change_with_rows(cells)
    both, neither = (np.logical_and.outer(mask, mask) for mask in (cells.zero, ~cells.zero))
    at_zero = both * np.exp(-np.abs(cells.x[:, None] - cells.x) / cells.steps[0] / 3)
    u = place(cells, slope, bend)
    apart = np.abs(u[:, :, None] - u[:, None, :]) / cells.steps[1]
    size = max(1, BLOCK_NUMBERS // n**2)
    diagonal = np.arange(n)
    for length, change in np.unique(settings[:, :2], axis=0):
        signal = matern(apart / length) * (neither * (1 - change + change * changing)) + at_zero
        same = np.flatnonzero((settings[:, :2] == (length, change)).all(1))
        at_slope, at_setting = (part.ravel() for part in np.meshgrid(np.arange(len(slope)), same, indexing="ij"))
        for start in range(0, len(at_slope), size):
            i, h = at_slope[start : start + size], at_setting[start : start + size]
            V = signal[i]
            V[:, diagonal, diagonal] += settings[h, 2][:, None] * cells.variance + cells.jump + 1e-9
            yield i, h, V


def log_evidence(cells: Cells, slope: np.ndarray, bend: np.ndarray, settings: np.ndarray) -> np.ndarray:
    """Log restricted likelihood [S, H] of slopes s and bends b [S] under settings [H, 3], the scale integrated out.

    −½ log|V| − ½ log|XᵀV⁻¹X| − (n − p + ν)/2 · log(ν s₀² + Q), Q the generalised residual sum of squares; up to a
    constant that is the same for all slopes. One Cholesky factorisation gives all of it: that of V bordered by
    [X, E], whose lower left block L₂₁ has L₂₁L₂₁ᵀ = [X, E]ᵀ V⁻¹ [X, E].
    """
    n, p = cells.design.shape
    border = np.column_stack([cells.design, cells.error - cells.error.mean()]).T
    q, result = p + 1, np.empty((len(slope), len(settings)))
    corner = np.arange(n, n + q)
    for i, h, V in covariances(cells, slope, bend, settings):
        whole = np.zeros((len(i), n + q, n + q))
        whole[:, :n, :n] = V
        whole[:, n:, :n] = border
        whole[:, corner, corner] = 1e15  # any number that leaves the whole positive definite
        L = np.linalg.cholesky(whole)
        below = L[:, n:, :n]
        outer = below @ below.transpose(0, 2, 1)
        root = np.linalg.cholesky(outer[:, :p, :p])
        explained = np.linalg.solve(root, outer[:, :p, p:])[..., 0]
        log_v = np.log(np.einsum("bii->bi", L[:, :n, :n])).sum(1)
        log_x = np.log(np.einsum("bii->bi", root)).sum(1)
        residual = np.maximum(outer[:, p, p] - (explained**2).sum(1), 0)  # 0 where the design explains all
        result[i, h] = -log_v - log_x - _half(n, p) * np.log(FREEDOM * cells.least_scale**2 + residual)
    return result


def _half(n: int, p: int) -> float:
    return (n - p + FREEDOM) / 2


def _log_evidence_of_none(cells: Cells) -> float:
    """The same without any g: row effects, a linear term in y, and noise."""
    n, p = cells.design.shape
    root = np.sqrt(cells.variance)
    Q, R = np.linalg.qr(cells.design / root[:, None])
    scaled = (cells.error - cells.error.mean()) / root
    residual = float(((scaled - Q @ (Q.T @ scaled)) ** 2).sum())
    log_x = float(np.log(np.abs(np.diag(R))).sum())
    return -float(np.log(root).sum()) - log_x - _half(n, p) * np.log(FREEDOM * cells.least_scale**2 + residual)


def log_sum(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """log Σ exp along an axis."""
    top = values.max(axis=axis, keepdims=True)
    return np.squeeze(top + np.log(np.exp(values - top).sum(axis=axis, keepdims=True)), axis=axis)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the cells say of s: `slopes` [S] in steps of 0.05 with probabilities `mass` [S], averaged over settings.

    `joint` [S, H] is the probability of slope and setting together. `evidence` is the log Bayes factor of a valley
    (any slope, any setting) against none.
    """

    slopes: np.ndarray
    mass: np.ndarray
    settings: np.ndarray
    joint: np.ndarray
    evidence: float

    def quantile(self, share: np.ndarray) -> np.ndarray:
        """Slopes below which these shares of the probability lie."""
        return np.interp(share, np.cumsum(self.mass) - self.mass / 2, self.slopes)


def posterior(cells: Cells) -> Posterior:
    """The posterior of s: a coarse scan, the settings that matter near its best, fine steps where there is mass."""
    coarse = np.arange(-STEEPEST, STEEPEST + COARSE / 2, COARSE)
    scan = log_sum(log_evidence(cells, coarse, 0 * coarse, SCAN), 1)
    near = coarse[np.argsort(-scan)[:3]]
    of_setting = log_sum(log_evidence(cells, near, 0 * near, SETTINGS), 0)
    order = np.argsort(-of_setting)
    share = np.cumsum(np.exp(of_setting[order] - of_setting[order[0]]))
    chosen = SETTINGS[order[: min(MOST_SETTINGS, int(np.searchsorted(share, 0.99 * share[-1])) + 1)]]
    possible = coarse[scan > scan.max() - NEGLIGIBLE]
    fine = np.round(np.arange(-STEEPEST, STEEPEST + FINE / 2, FINE), 10)
    fine = fine[np.abs(fine[:, None] - possible).min(1) <= COARSE + 1e-9]
    log_joint = log_evidence(cells, fine, 0 * fine, chosen)
    total = float(log_sum(log_joint.ravel(), 0))
    joint = np.exp(log_joint - total)
    evidence = total + np.log(FINE / (2 * STEEPEST)) - np.log(len(SETTINGS)) - _log_evidence_of_none(cells)
    return Posterior(fine, joint.sum(1), chosen, joint, evidence)
