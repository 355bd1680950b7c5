"""The valley of one panel: its slope with a 90 % interval, where it lies, and whether one line describes it."""

from dataclasses import dataclass

import numpy as np

from wdgrid.analysis.slope import (
    CHANGES,
    PLACE,
    Cells,
    Posterior,
    covariances,
    log_evidence,
    log_sum,
    matern,
    place,
    posterior,
)
from wdgrid.analysis.words import Interval

TAIL = 0.05
LEAST_EVIDENCE = 3.0  # a log Bayes factor of 3 is strong (Kass & Raftery, J. Am. Stat. Assoc. 90, 1995)
NORMAL = 1.6449  # of a standard normal, beyond which 5 % lie
BEND_TAIL = 0.005  # a bend is believed where 99 % of its probability lie on one side of no bend
MOST_CHANGE = 3.0  # prior: the slope changes by −3 to 3 over the rows
CHANGE_STEP = 0.25


@dataclass(frozen=True)
class Valley:
    """The line log2 column = at + slope · (log2 row − centre), on which the best column value moves.

    `interval` is the 90 % interval of the slope. `evidence` is the log Bayes factor of any valley against none.
    `change` is how much the slope grows from the smallest row value with cells below the cap to the largest, and
    `change_interval` its 99 % interval; `ends` are the slopes at these two. `crosses` counts the rows in which the
    line lies on the grid. `curvature` and `spread` bend the line: see `position`.
    """

    slope: float
    interval: Interval
    evidence: float
    centre: float
    at: float
    change: float
    change_interval: Interval
    ends: tuple[float, float]
    crosses: int
    curvature: float = 0.0
    spread: float = 0.0

    def position(self, log_row: np.ndarray, slope: float | None = None) -> np.ndarray:
        """log2 of the best column value at these log2 row values; on another slope through the same centre, if given.

        A bent valley has the term curvature · ((log2 row − centre)² − spread).
        """
        x = np.asarray(log_row) - self.centre
        bend = self.curvature * (x**2 - self.spread) if self.bent else 0.0
        return self.at + (self.slope if slope is None else slope) * x + bend

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.interval[1] - self.interval[0]

    @property
    def seen(self) -> bool:
        """Whether a valley stands out of the noise."""
        return self.evidence >= LEAST_EVIDENCE

    @property
    def bent(self) -> bool:
        """Whether a single line is refuted."""
        return self.change_interval[0] > 0 or self.change_interval[1] < 0


def valley(cells: Cells, cols: np.ndarray) -> tuple[Valley, Posterior]:
    """Fits the cells of a panel with column values [C]; `cells.enough` must hold."""
    found = posterior(cells)
    low, middle, high = found.quantile(np.array([TAIL, 0.5, 1 - TAIL]))
    extra = NORMAL * PLACE * cells.steps[1] / cells.range
    interval = float(middle - np.hypot(middle - low, extra)), float(middle + np.hypot(high - middle, extra))
    change, change_interval, ends = _bend(cells, found)
    at = _bottom(cells, found, float(middle))
    rows = np.unique(cells.x[~cells.censored & ~cells.zero])
    line = at + middle * (rows - cells.centre)
    positive = np.log2(cols[cols > 0])
    crosses = int(((line >= positive.min()) & (line <= positive.max())).sum())
    return Valley(
        float(middle), interval, found.evidence, cells.centre, at, change, change_interval, ends, crosses,
        change / (2 * cells.range), float(((cells.x - cells.centre) ** 2).mean()),
    ), found  # fmt: skip


def _bend(cells: Cells, found: Posterior) -> tuple[float, Interval, tuple[float, float]]:
    """Change of the slope over the rows, its 99 % interval, and the slopes at both ends.

    u = y − s x̃ − b (x̃² − mean), so the slope at x̃ is s + 2 b x̃ and changes by 2 b · range. The settings are the most
    probable length and noise with every share of change: a bent valley fitted by a straight one looks like change.
    """
    best = found.settings[int(found.joint.sum(0).argmax())]
    settings = np.array([(best[0], share, best[2]) for share in CHANGES])
    low, middle, high = found.quantile(np.array([TAIL, 0.5, 1 - TAIL]))
    slopes = middle + max(0.15, (high - low) / 2) * np.linspace(-2, 2, 7)
    changes = np.linspace(-MOST_CHANGE, MOST_CHANGE, 13)
    mass = _joint(cells, slopes, changes, settings).sum(0)
    possible = changes[mass > 1e-4 * mass.max()]
    step = changes[1] - changes[0]
    changes = np.linspace(max(possible[0] - step, -MOST_CHANGE), min(possible[-1] + step, MOST_CHANGE), 15)
    joint = _joint(cells, slopes, changes, settings)
    mass = joint.sum(0)
    cumulated = np.cumsum(mass) - mass / 2
    low, change, high = (float(v) for v in np.interp([BEND_TAIL, 0.5, 1 - BEND_TAIL], cumulated, changes))
    slope = float((joint.sum(1) * slopes).sum())
    x = cells.x[~cells.censored & ~cells.zero] - cells.centre
    at_ends = [slope + change / cells.range * float(end) for end in (x.min(), x.max())]
    return change, (low, high), (at_ends[0], at_ends[1])


def _joint(cells: Cells, slopes: np.ndarray, changes: np.ndarray, settings: np.ndarray) -> np.ndarray:
    """Probability [S, B] of every slope with every change, averaged over settings."""
    s, b = (part.ravel() for part in np.meshgrid(slopes, changes / (2 * cells.range), indexing="ij"))
    log_joint = log_sum(log_evidence(cells, s, b, settings), 1).reshape(len(slopes), len(changes))
    joint = np.exp(log_joint - log_joint.max())
    return joint / joint.sum()


def _bottom(cells: Cells, found: Posterior, slope: float) -> float:
    """log2 of the column value where the fitted g is lowest at the mean row, among the columns of the cells.

    Averaged over the settings by their probability.
    """
    here = np.array([slope])
    u, X, e = place(cells, here, 0 * here)[0], cells.design, cells.error - cells.error.mean()
    near = np.exp(-np.abs(cells.x - cells.centre) / cells.steps[0] / 3)
    of_y = len(np.unique(cells.row))  # the regressor after those of the rows
    at = np.linspace(cells.y[~cells.zero].min(), cells.y[~cells.zero].max(), 400)
    fitted = np.zeros(len(at))
    for _, h, V in covariances(cells, here, 0 * here, found.settings):
        solved = np.linalg.solve(V, np.column_stack([X, e])[None])
        for setting, one in zip(h, solved, strict=True):
            length, change, _ = found.settings[setting]
            effects = np.linalg.solve(X.T @ one[:, :-1], X.T @ one[:, -1])
            weights = (one[:, -1] - one[:, :-1] @ effects) * ~cells.zero * (1 - change + change * 0.5 * near)
            signal = effects[of_y] * at + matern(np.abs(at[:, None] - u) / cells.steps[1] / length) @ weights
            fitted += found.joint[:, setting].sum() * signal
    return float(at[fitted.argmin()])
