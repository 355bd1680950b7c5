"""Computes numbers of a surface: interaction, regrets, cost of tuning in turn, correlation of the best cells.

Every function takes capped errors E [..., R, C] in percent (NaN: missing) and returns [...], NaN if a grid does not
define the number. docs/separability.md has the definitions. Of equal errors the first one counts, so grids must be
sorted as the paper prints them: row values falling, column values rising.
"""

import numpy as np

from wdgrid.analysis.surface import lowest, mask_of

TOP_CELLS = 10


def _argmin(errors: np.ndarray, axis: int) -> np.ndarray:
    """First minimum, missing cells aside."""
    return np.where(np.isnan(errors), np.inf, errors).argmin(axis)


def interaction(errors: np.ndarray) -> np.ndarray:
    """Residual sum of squares of the additive row + column model, over the total sum of squares: 0 to 1.

    Missing cells are left out of both (all grids of a stack must miss the same ones). NaN if all errors are equal, or
    if there are so few cells that the additive model fits them exactly.
    """
    present = ~np.isnan(errors.reshape(-1, *errors.shape[-2:])[0])
    rows = len(present)
    undefined = np.full(errors.shape[:-2], np.nan)
    design = np.block([[np.diag(present.sum(1)), present], [present.T, np.diag(present.sum(0))]]).astype(float)
    values, vectors = np.linalg.eigh(design)
    kept = values > 1e-9 * max(1.0, values[-1]) if values.size else np.zeros(0, bool)
    if present.sum() <= kept.sum():
        return undefined
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    mean = np.nanmean(errors, axis=(-2, -1), keepdims=True)
    centred = np.where(present, errors - mean, 0.0)
    sums = np.concatenate([centred.sum(-1), centred.sum(-2)], axis=-1)  # [..., R + C]: the normal equations' right
    effects = sums @ inverse
    fit = effects[..., :rows, None] + effects[..., None, rows:]
    residual = (np.where(present, centred - fit, 0.0) ** 2).sum((-2, -1))
    total = (centred**2).sum((-2, -1))
    some = total > 1e-12 * np.maximum(1.0, mean[..., 0, 0] ** 2)
    return np.where(some, residual / np.where(some, total, 1.0), np.nan)


def regret(errors: np.ndarray) -> np.ndarray:
    """Mean excess error, in points, in the best cell's row if the column is tuned in each of the other rows.

    Transpose the grids for rows tuned in columns. A choice whose cell in the best row is missing is left out.
    """
    stack = errors.reshape(-1, *errors.shape[-2:])
    at = np.arange(len(stack))
    flat = _argmin(stack.reshape(len(stack), -1), 1)
    best_row = flat // stack.shape[-1]
    tuned = _argmin(stack, 2)  # [N, R]
    excess = stack[at[:, None], best_row[:, None], tuned] - stack.reshape(len(stack), -1)[at, flat][:, None]
    elsewhere = ~np.isnan(stack).all(2) & (np.arange(stack.shape[1]) != best_row[:, None]) & ~np.isnan(excess)
    n = elsewhere.sum(1)
    total = np.where(elsewhere, excess, 0.0).sum(1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan).reshape(errors.shape[:-2])


def sequential(errors: np.ndarray) -> np.ndarray:
    """The cost of tuning one after the other: mean excess error, in points, over the best cell after two line searches.

    The column is tuned in a row, then the row in that column. This is averaged over the rows that have a cell below the
    largest error (the cap). The same is done with rows and columns exchanged, and the two are averaged.
    """
    stack = errors.reshape(-1, *errors.shape[-2:])
    best = np.where(np.isnan(stack), np.inf, stack).min((1, 2))
    worst = np.where(np.isnan(stack), -np.inf, stack).max((1, 2))
    costs = []
    for grid in (stack, np.swapaxes(stack, 1, 2)):
        grid = np.where(np.isnan(grid), np.inf, grid)
        tuned = grid.argmin(2)  # [N, R]
        reached = np.take_along_axis(grid.min(1), tuned, 1)
        start = grid.min(2) < worst[:, None]
        n = start.sum(1)
        excess = np.where(start, reached - best[:, None], 0.0).sum(1)
        costs.append(np.where(n > 0, excess / np.maximum(n, 1), np.nan))
    return ((costs[0] + costs[1]) / 2).reshape(errors.shape[:-2])


def best_cells(errors: np.ndarray, cap: float, k: int = TOP_CELLS) -> np.ndarray:
    """The k best cells below the cap as a mask [R, C]; ties in reading order."""
    return mask_of(lowest(np.where(errors < cap, errors, np.nan), k), errors.shape)


def correlation(chosen: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """ρ: correlation of log2 row and log2 column over the chosen cells [..., R, C].

    A zero counts as half the axis' smallest positive value. NaN with fewer than three cells, or all in one
    line.
    """
    if not (rows > 0).any() or not (cols > 0).any():
        return np.full(chosen.shape[:-2], np.nan)
    x, y = (np.log2(np.where(axis > 0, axis, axis[axis > 0].min() / 2)) for axis in (rows, cols))
    n = chosen.sum((-2, -1))
    share = np.maximum(n, 1)
    by_row, by_col = chosen.sum(-1), chosen.sum(-2)
    mean_x, mean_y = by_row @ x / share, by_col @ y / share
    var_x, var_y = by_row @ x**2 / share - mean_x**2, by_col @ y**2 / share - mean_y**2
    covariance = np.einsum("...ij,i,j->...", chosen, x, y) / share - mean_x * mean_y
    defined = (n >= 3) & (var_x > 1e-9) & (var_y > 1e-9)
    scale = np.sqrt(np.where(defined, var_x * var_y, 1.0))
    return np.where(defined, np.clip(covariance / scale, -1, 1), np.nan)
