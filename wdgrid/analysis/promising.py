"""Chooses the cells that a search trains next, from its coarse pass and the cells that are trained in full.

Errors are arrays over a grid. The surface is modelled as a Gaussian process with two levels, full = coarse + a change
that varies slowly (Kennedy & O'Hagan, *Biometrika* 87, 2000), which averages the noise of single seeds over
neighbouring cells.
"""

import numpy as np

from wdgrid.analysis.separability import error_cap
from wdgrid.analysis.surface import lowest

# Chosen on the paper's surfaces and on two studies of digits (docs/coarse.md says how, and what a third one came to).
REACH = 2.0  # cells; how far one result speaks for others (the length scale of a squared exponential)
NOISE = 0.05  # variance of one result, as a share of the surface's
CHANGE = 2.0  # variance of what the budget changes, likewise: the coarse pass may be wrong about where the best is
VAGUE = 100.0  # either level's mean is unknown: so many times the surface's variance
CURIOSITY = 1e-3  # of a standard deviation: among equals, the cell of which least is known


def promising(
    coarse: np.ndarray, full: np.ndarray, n: int, chance: float = 90.0, apart: int = 1
) -> list[tuple[int, int]]:
    """Up to n cells not trained in full yet, the most promising first, as (row, column).

    `coarse` and `full` [R, C] are mean errors in percent on the low and on the whole budget: NaN if there is none, +inf
    if the cell diverged. Each level is capped by `error_cap` of its own best error; `chance` is the error of guessing.
    Cells that are less than `apart` steps from a better one, along both axes, come after all others, because neighbours
    give similar information. Raises ValueError if shapes disagree.
    """
    if coarse.shape != full.shape or coarse.ndim != 2:
        raise ValueError(f"both levels must be [R, C], not {list(coarse.shape)} and {list(full.shape)}")
    mean, deviation = _posterior(_capped(coarse, chance), _capped(full, chance))
    ranked = lowest(np.where(np.isnan(full), mean - CURIOSITY * deviation, np.inf), full.size)
    first: list[tuple[int, int]] = []
    for row, col in ranked:
        if len(first) < n and all(max(abs(row - i), abs(col - j)) >= apart for i, j in first):
            first.append((row, col))
    return [*first, *(place for place in ranked if place not in first)][: max(n, 0)]


def _capped(errors: np.ndarray, chance: float) -> np.ndarray:
    """Errors [R, C] at most at the cap of their best; NaN stays."""
    finite = errors[np.isfinite(errors)]
    return np.minimum(errors, error_cap(float(finite.min()), chance) if finite.size else chance)


def _posterior(coarse: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [R, C] of the error on the whole budget, given capped errors [R, C] of both levels."""
    places = np.argwhere(np.ones(full.shape, bool))
    seen = [np.argwhere(~np.isnan(level)) for level in (coarse, full)]
    at = np.concatenate(seen)  # [N, 2]
    errors = np.concatenate([level[~np.isnan(level)] for level in (coarse, full)])  # [N]
    variance = float(np.var(errors)) if errors.size else 0.0
    variance = variance if variance > 1e-9 else 1.0
    is_full = np.repeat([0.0, 1.0], [len(level) for level in seen])
    own = variance * (VAGUE + CHANGE * _likeness(at, at)) * np.outer(is_full, is_full)
    between = variance * (VAGUE + _likeness(at, at)) + own + NOISE * variance * np.eye(len(at))
    towards = variance * (VAGUE + _likeness(places, at)) + variance * (VAGUE + CHANGE * _likeness(places, at)) * is_full
    weights = np.linalg.solve(between, towards.T) if len(at) else np.zeros((0, len(places)))  # [N, R·C]
    before = variance * (1 + CHANGE + 2 * VAGUE)
    left = before - (towards.T * weights).sum(0)
    return (errors @ weights).reshape(full.shape), np.sqrt(np.maximum(left, 0.0)).reshape(full.shape)


def _likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation [M, N] of the surface between places [M, 2] and [N, 2]."""
    apart = ((one[:, None] - other[None]) ** 2).sum(-1)
    return np.exp(-apart / (2 * REACH**2))
