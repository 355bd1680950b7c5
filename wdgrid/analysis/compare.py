"""Compares two panels: best errors and their difference, rank correlation, shared circles.

Cells of two grids correspond if their axis multiples are the same as printed: `1/4` of SGD's unit corresponds to `1/4`
of Adam's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wdgrid.analysis.selection import CertaintyKind, pick
from wdgrid.analysis.separability import Separability
from wdgrid.analysis.surface import Surface, lowest, mask_of, mean_over_seeds
from wdgrid.analysis.words import Interval


@dataclass(frozen=True, eq=False)
class Side:
    """One panel to be compared: its surface as printed, its numbers, and the number of its circled best cells."""

    label: str
    panel: str
    optimizer: str
    schedule: str
    surface: Surface
    found: Separability
    top_k: int = 10
    normalized: bool = False

    @property
    def tested(self) -> Surface:
        """The surface of test errors, which are compared also if cells are picked on validation images."""
        errors = self.surface.errors if self.surface.test_errors is None else self.surface.test_errors
        return replace(self.surface, errors=errors, circled=None, test_errors=None, planned=None, columns={})

    @property
    def mean(self) -> np.ndarray:
        """Test error [R, C] in percent: +inf if any seed diverged, NaN if none is complete."""
        return mean_over_seeds(self.tested.errors, np.inf)

    @property
    def circled(self) -> np.ndarray:
        """The circled cells [R, C]: a published figure's own, else the k lowest of the errors they are picked on."""
        if self.surface.circled is not None:
            return self.surface.circled
        mean = mean_over_seeds(self.surface.errors, np.inf)
        return mask_of(lowest(mean, self.top_k), mean.shape)


@dataclass(frozen=True)
class Comparison:
    """The comparison of B with A. Differences are B − A: if they are negative, B is better.

    Test errors are compared with test errors: `best` has those of the cell that each side picked, corrected for the
    picking (see `selection`) if that was possible. `difference` is in percentage points, `relative` in percent of A's
    error. Intervals are 90 %, from the same distributions as each side's `test_interval`, taken as independent; None if
    a side has none. `rank_correlation` is Spearman's over `common_cells`, with diverged cells last; None for the reason
    in `why_no_correlation`. `circles` and `circles_shared` are numbers of cells.
    """

    a: str
    b: str
    best: tuple[float | None, float | None]
    difference: float | None
    difference_interval: Interval | None
    relative: float | None
    relative_interval: Interval | None
    slope_difference: float | None
    slope_difference_interval: Interval | None
    interval_kinds: tuple[CertaintyKind | None, CertaintyKind | None]
    common_cells: int
    rank_correlation: float | None
    why_no_correlation: str | None
    circles: tuple[int, int]
    circles_shared: int
    numbers: tuple[Separability, Separability]


def common(a: Side, b: Side) -> tuple[Surface, Surface, tuple[np.ndarray, np.ndarray]] | None:
    """Both sides' test errors and circles over the rows and columns that both have, in A's order; None without any."""
    first, second, circled = a.tested, b.tested, b.circled
    if {first.row_name, first.col_name} != {second.row_name, second.col_name}:
        return None
    if first.row_name != second.row_name:
        second, circled = _turned(second), circled.T
    rows = [label for label in first.row_labels if label in second.row_labels]
    cols = [label for label in first.col_labels if label in second.col_labels]
    if not rows or not cols:
        return None
    at_a, at_b = _places(first, rows, cols), _places(second, rows, cols)
    return first.taken(*at_a), second.taken(*at_b), (a.circled[np.ix_(*at_a)], circled[np.ix_(*at_b)])


def _turned(surface: Surface) -> Surface:
    return replace(
        surface,
        row_name=surface.col_name, col_name=surface.row_name,
        rows=surface.cols, cols=surface.rows,
        row_labels=surface.col_labels, col_labels=surface.row_labels,
        errors=surface.errors.swapaxes(0, 1),
    )  # fmt: skip


def _places(surface: Surface, rows: list[str], cols: list[str]) -> tuple[list[int], list[int]]:
    return [surface.row_labels.index(label) for label in rows], [surface.col_labels.index(label) for label in cols]


def compare(a: Side, b: Side, draws: int = 4000, rng_seed: int = 0) -> Comparison:
    """Compares B with A. Intervals are from `draws` draws; the same input and `rng_seed` give the same intervals."""
    certain = [side.found.certainty for side in (a, b)]
    picked = [pick(side.surface) for side in (a, b)]
    errors = [
        one.mean if one is not None else None if cell is None else cell.test_error
        for one, cell in zip(certain, picked, strict=True)
    ]
    best = tuple(None if error is None or not np.isfinite(error) else error for error in errors)
    difference = relative = None
    within: tuple[Interval | None, Interval | None] = (None, None)
    if best[0] is not None and best[1] is not None:
        difference = best[1] - best[0]
        relative = 100 * difference / best[0] if best[0] > 0 else None
        if certain[0] is not None and certain[1] is not None:
            shares = np.random.default_rng(rng_seed).random((2, draws))
            within = _intervals(certain[0].at(shares[0]), certain[1].at(shares[1]), relative is not None)
    slopes = _slope_difference(a.found, b.found)
    shared = common(a, b)
    correlation, why, cells, circles = None, "no common cells", 0, 0
    if shared is not None:
        correlation, why, cells = _rank_correlation(*(mean_over_seeds(s.errors, np.inf) for s in shared[:2]))
        circles = int((shared[2][0] & shared[2][1]).sum())
    return Comparison(
        a=a.label,
        b=b.label,
        best=(best[0], best[1]),
        difference=difference,
        difference_interval=within[0],
        relative=relative,
        relative_interval=within[1],
        slope_difference=slopes[0],
        slope_difference_interval=slopes[1],
        interval_kinds=(certain[0] and certain[0].kind, certain[1] and certain[1].kind),
        common_cells=cells,
        rank_correlation=correlation,
        why_no_correlation=why,
        circles=(int(a.circled.sum()), int(b.circled.sum())),
        circles_shared=circles,
        numbers=(a.found, b.found),
    )


def _intervals(a: np.ndarray, b: np.ndarray, share: bool) -> tuple[Interval, Interval | None]:
    """90 % intervals of B − A from draws [n] of either, and of it in percent of A."""

    def ends(values: np.ndarray) -> Interval:
        low, high = np.quantile(values, [0.05, 0.95])
        return float(low), float(high)

    return ends(b - a), ends(100 * (b - a) / a) if share and (a > 0).all() else None


def _slope_difference(a: Separability, b: Separability) -> tuple[float | None, Interval | None]:
    """Slope of B − slope of A, and its 90 % interval: half-widths of independent intervals add as squares."""
    if a.slope is None or b.slope is None:
        return None, None
    of_a, of_b, difference = a.intervals["slope"], b.intervals["slope"], b.slope - a.slope
    down, up = np.hypot(b.slope - of_b[0], of_a[1] - a.slope), np.hypot(of_b[1] - b.slope, a.slope - of_a[0])
    return difference, (float(difference - down), float(difference + up))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> tuple[float | None, str | None, int]:
    """Spearman's ρ over cells [R, C] that both have, why there is none, and the number of cells."""
    from scipy.stats import rankdata

    there = ~np.isnan(a) & ~np.isnan(b)
    n = int(there.sum())
    if n == 0:
        return None, "no common cells", 0
    if n < 3:
        return None, f"only {n} common cell{'s' * (n > 1)}", n
    ranks = [rankdata(values[there]) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None, "every common cell has the same error in one of them", n
    return float(np.corrcoef(*ranks)[0, 1]), None, n


def pairs(a: Mapping[str, Side], b: Mapping[str, Side]) -> list[tuple[Side, Side]]:
    """Which panels are compared: the only ones; else those of equal name, variant and schedule, or variant."""
    if len(a) == len(b) == 1:
        return [(next(iter(a.values())), next(iter(b.values())))]
    left, right = list(a.values()), list(b.values())
    matched: dict[int, Side] = {}
    for key in (_name, lambda s: (s.optimizer, s.schedule), lambda s: s.optimizer):
        for side in [s for s in left if id(s) not in matched]:
            mine = [s for s in left if key(s) == key(side)]
            theirs = [s for s in right if key(s) == key(side)]
            if len(mine) == len(theirs) == 1 and theirs[0] not in matched.values():
                matched[id(side)] = theirs[0]
    return [(side, matched[id(side)]) for side in left if id(side) in matched]


def _name(side: Side) -> str:
    return plain_name(side.panel)


def plain_name(panel: str) -> str:
    """A panel's name as commands take it: the paper's `AdamW cosine` is `adamw-cosine`."""
    return panel.lower().replace(" ", "-")
