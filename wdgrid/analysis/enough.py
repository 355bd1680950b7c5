"""Says why a panel's errors do not allow a verdict, if they do not."""

import numpy as np

from wdgrid.analysis.surface import Surface
from wdgrid.analysis.words import HYPERPARAMETERS, percent

MISSING_SHARE = 0.25
# Errors near guessing tell how fast cells begin to learn, not where they end. 1 − best/chance is accuracy corrected for
# chance (Cohen's κ where classes are balanced), of which less than 0.2 counts as slight (Landis & Koch, 1977).
LEAST_SKILL = 0.2


def _holes(mean: np.ndarray, planned: np.ndarray | None) -> np.ndarray:
    """Cells of mean [R, C] that are planned and missing.

    If it is not known which cells are planned: all missing cells except those beyond a row's ends. A map re-plotted
    over λ/α is a slanted band with empty corners, and its rows are complete.
    """
    there = ~np.isnan(mean)
    if planned is not None:
        return planned & ~there
    within = np.logical_or.accumulate(there, 1) & np.logical_or.accumulate(there[:, ::-1], 1)[:, ::-1]
    return ~there & (within | ~there.any(1, keepdims=True) | ~there.any(0, keepdims=True))


def why_not(mean: np.ndarray, surface: Surface, best: float | None, cap: float | None, chance: float) -> str | None:
    """Why mean errors [R, C] define no slope and no verdict, or None if they may."""
    row, col = (HYPERPARAMETERS.get(name, name) for name in (surface.row_name, surface.col_name))
    if mean.size == 0 or np.isnan(mean).all():
        return "no cell is finished"
    if not np.isfinite(np.where(np.isnan(mean), np.inf, mean)).any():
        return "every finished cell diverged"
    lowest, needed = float(np.nanmin(mean)), (1 - LEAST_SKILL) * chance
    if lowest > needed:
        return (
            f"no cell learns enough: the best error is {percent(lowest)}, that of guessing {chance:g} %; "
            f"a verdict needs {needed:g} % or less; train longer or try other values"
        )
    if best is None or cap is None or not best < cap:
        return f"the study's best error, {percent(best)}, is not below the cap, {percent(cap)}"
    if not (mean < cap).any():
        return f"no cell comes below the cap, {percent(cap)}"
    for name, values in ((row, surface.rows), (col, surface.cols)):
        if len(values) < 2:
            return f"the grid has a single {name}; it needs three or more"
    missing = int(_holes(mean, surface.planned).sum())
    if missing > MISSING_SHARE * mean.size:
        return f"{missing} of {mean.size} cells are missing; finish the sweep"
    seen = np.minimum(mean[~np.isnan(mean)], cap)
    if np.ptp(seen) < 1e-9:
        return "every cell has the same error"
    return None
