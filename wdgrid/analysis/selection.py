"""Picks the best cell of a panel, and says what its test error is and how certain that is.

If cells are picked on validation images, the test error of the picked cell is unbiased. Its interval is Student's t
over its seeds or, with one seed, binomial over its test images (Jeffreys' interval, which includes 0 if no image is
wrong and 100 % if all are: Brown, Cai & DasGupta, Statistical Science 16, 2001). A cell picked on the test images has
the lowest of many noisy errors. If a surface could be fitted, this error is corrected by a parametric bootstrap
(`draws.optimism`); else it is reported as measured.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wdgrid.analysis.surface import Surface, lowest, mean_over_seeds
from wdgrid.analysis.words import Interval

CertaintyKind = Literal["seeds", "binomial", "fit"]


@dataclass(frozen=True)
class Certainty:
    """The distribution of a true error: `mean` in percent, with standard error `error` and n − 1 degrees of freedom.

    If `kind` is "binomial", n is the number of test images instead.
    """

    kind: CertaintyKind
    mean: float
    error: float
    n: int

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Errors in percent at these shares [n] of the distribution, between 0 and 100."""
        from scipy.stats import beta, t

        if self.kind == "binomial":
            wrong = self.mean / 100 * self.n
            return 100 * beta.ppf(shares, wrong + 0.5, self.n - wrong + 0.5)
        return np.clip(self.mean + self.error * t.ppf(shares, self.n - 1), 0, 100)

    @property
    def interval(self) -> Interval:
        """The 90 % interval, which holds the mean."""
        low, high = self.at(np.array([0.05, 0.95]))
        return min(float(low), self.mean), max(float(high), self.mean)


@dataclass(frozen=True)
class Picked:
    """The cell [row, column] of the lowest mean error, that error, and its error on test; all in percent.

    Cells are picked on the surface's `errors`; if those are validation errors, `test_error` differs from `error`.
    """

    row: int
    col: int
    error: float
    test_error: float
    certainty: Certainty | None


def pick(surface: Surface, test_images: int | None = None) -> Picked | None:
    """The cell with the lowest mean error; None if no cell has a finite mean (a cell with a diverged seed has none)."""
    mean = mean_over_seeds(surface.errors, np.inf)
    best = lowest(mean, 1)
    if not best:
        return None
    row, col = best[0]
    seeds = (surface.errors if surface.test_errors is None else surface.test_errors)[row, col]
    seeds = seeds[~np.isnan(seeds)]
    tested = float(seeds.mean()) if seeds.size else np.nan
    return Picked(row, col, float(mean[row, col]), tested, _certainty(seeds, tested, test_images))


def _certainty(seeds: np.ndarray, mean: float, test_images: int | None) -> Certainty | None:
    if not np.isfinite(mean):
        return None
    if seeds.size >= 2:
        return Certainty("seeds", mean, float(seeds.std(ddof=1)) / seeds.size**0.5, seeds.size)
    return Certainty("binomial", mean, 0.0, test_images) if test_images else None
