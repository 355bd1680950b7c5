"""Two panels held side by side: best errors and their difference, rank correlation, shared circles.

Knows surfaces and their numbers; knows nothing of where they came from or how they are drawn. Cells of two grids
are the same cell where their axis multiples are, as printed: `1/4` of SGD's unit stands beside `1/4` of Adam's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wdgrid.analysis.bootstrap import IntervalKind, interval, mean_over_seeds, noise_of
from wdgrid.analysis.separability import Separability
from wdgrid.analysis.surface import Surface

Interval = tuple[float, float]
TAIL = 0.03  # beyond either end of a 90 % interval, as for the other numbers


@dataclass(frozen=True, eq=False)
class Side:
    """One panel to be compared: its surface as printed, its numbers, and how many best cells count as its circles."""

    label: str
    panel: str
    optimizer: str
    schedule: str
    surface: Surface
    found: Separability
    top_k: int = 10
    normalized: bool = False

    @property
    def mean(self) -> np.ndarray:
        """Error [R, C] in percent: +inf where any seed diverged, NaN where none is complete."""
        return mean_over_seeds(self.surface.errors, np.inf)

    @property
    def circled(self) -> np.ndarray:
        """The circled cells [R, C]: a published figure's own, else the k lowest finite errors."""
        if self.surface.circled is not None:
            return self.surface.circled
        mean = self.mean
        order = np.argsort(np.where(np.isfinite(mean), mean, np.inf), axis=None, kind="stable")[: self.top_k]
        mask = np.zeros(mean.size, bool)
        mask[order] = True
        return mask.reshape(mean.shape) & np.isfinite(mean)


@dataclass(frozen=True)
class Comparison:
    """What B is against A. Differences are B − A: below zero, B is better.

    `difference` is in percent points, `relative` in percent of A's best error; intervals are 90 %, and
    `interval_kinds` says for A and B what noise they stand on (seeds, or one seed's residuals; None where
    there is none, and then no interval). `rank_correlation` is Spearman's over `common_cells`, diverged
    cells ranking last; None for the reason in `why_no_correlation`. Circles are counts of cells.
    """

    a: str
    b: str
    best: tuple[float | None, float | None]
    difference: float | None
    difference_interval: Interval | None
    relative: float | None
    relative_interval: Interval | None
    interval_kinds: tuple[IntervalKind | None, IntervalKind | None]
    common_cells: int
    rank_correlation: float | None
    why_no_correlation: str | None
    circles: tuple[int, int]
    circles_shared: int
    numbers: tuple[Separability, Separability]


def common(a: Side, b: Side) -> tuple[Surface, Surface, tuple[np.ndarray, np.ndarray]] | None:
    """Both surfaces over the rows and columns that both have, in A's order, and their circles; None where none is."""
    first, second, circled = a.surface, b.surface, b.circled
    if {first.row_name, first.col_name} != {second.row_name, second.col_name}:
        return None
    if first.row_name != second.row_name:
        second, circled = _turned(second), circled.T
    rows = [label for label in first.row_labels if label in second.row_labels]
    cols = [label for label in first.col_labels if label in second.col_labels]
    if not rows or not cols:
        return None
    at_a, at_b = _places(first, rows, cols), _places(second, rows, cols)
    return _cut(first, *at_a), _cut(second, *at_b), (a.circled[np.ix_(*at_a)], circled[np.ix_(*at_b)])


def _turned(surface: Surface) -> Surface:
    return replace(
        surface,
        row_name=surface.col_name, col_name=surface.row_name,
        rows=surface.cols, cols=surface.rows,
        row_labels=surface.col_labels, col_labels=surface.row_labels,
        errors=surface.errors.swapaxes(0, 1), circled=None, test_errors=None,
    )  # fmt: skip


def _places(surface: Surface, rows: list[str], cols: list[str]) -> tuple[list[int], list[int]]:
    return [surface.row_labels.index(label) for label in rows], [surface.col_labels.index(label) for label in cols]


def _cut(surface: Surface, rows: list[int], cols: list[int]) -> Surface:
    return replace(
        surface,
        rows=surface.rows[rows], cols=surface.cols[cols],
        row_labels=tuple(surface.row_labels[i] for i in rows), col_labels=tuple(surface.col_labels[j] for j in cols),
        errors=surface.errors[np.ix_(rows, cols)], circled=None, test_errors=None,
    )  # fmt: skip


def compare(a: Side, b: Side, bootstrap: int = 1000, rng_seed: int = 0) -> Comparison:
    """B against A, with `bootstrap` replicates of each grid; the same input and `rng_seed` give the same intervals."""
    best = (a.found.best_error, b.found.best_error)
    best = tuple(None if value is None or not np.isfinite(value) else value for value in best)
    difference = relative = None
    within: tuple[Interval | None, Interval | None] = (None, None)
    kinds: tuple[IntervalKind | None, IntervalKind | None] = (None, None)
    if best[0] is not None and best[1] is not None:
        difference = best[1] - best[0]
        relative = 100 * difference / best[0] if best[0] > 0 else None
        streams = np.random.default_rng(rng_seed).spawn(2)
        drawn = [_best_draws(side, bootstrap, stream) for side, stream in zip((a, b), streams, strict=True)]
        kinds = (drawn[0][0], drawn[1][0])
        within = _intervals(difference, relative, drawn[0][1], drawn[1][1])
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
        interval_kinds=kinds,
        common_cells=cells,
        rank_correlation=correlation,
        why_no_correlation=why,
        circles=(int(a.circled.sum()), int(b.circled.sum())),
        circles_shared=circles,
        numbers=(a.found, b.found),
    )


def _best_draws(side: Side, count: int, rng: np.random.Generator) -> tuple[IntervalKind | None, np.ndarray]:
    """The best error of each replicate of a grid, and what noise it stands on."""
    cap = side.found.cap
    noise = None if cap is None else noise_of(side.surface.errors, cap)
    if noise is None or count < 2:
        return None, np.empty(0)
    return noise.kind, np.concatenate([np.nanmin(block, axis=(-2, -1)) for block in noise.draw(count, rng)])


def _intervals(
    difference: float, relative: float | None, a: np.ndarray, b: np.ndarray
) -> tuple[Interval | None, Interval | None]:
    """Intervals of B − A and of it in percent of A; the sides' noise is taken as independent."""
    if not a.size or not b.size:
        return None, None
    absolute = interval(difference, b - a, TAIL, -np.inf, np.inf)
    if relative is None or (a <= 0).any():
        return absolute, None
    return absolute, interval(relative, 100 * (b - a) / a, TAIL, -100.0, np.inf)


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
    """Which panels stand side by side: one against one always; else by name, by variant and schedule, by variant."""
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
