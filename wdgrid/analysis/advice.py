"""Advises what to train next to learn the slope: more rows, columns or seeds, by their expected information.

Each design is simulated: a slope is drawn from the posterior and new errors from the fitted process with that slope,
and the posterior is computed again (the expected information of an experiment: Lindley, *Annals of Mathematical
Statistics* 27, 1956). The design with the largest expected gain for its number of training runs is advised.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from wdgrid.analysis.boundary import Edge, beyond
from wdgrid.analysis.slope import FREEDOM, Cells, Posterior, covariances, log_sum
from wdgrid.analysis.surface import Surface
from wdgrid.analysis.words import HYPERPARAMETERS

SLOPES = 15  # quantiles of the posterior that stand for it
REPEATS = 12  # simulated data sets a slope
VAGUE = 1e3  # prior variance of the parabola and of the linear term in y, relative to that of g; row effects have 1
ARRAYS = ("error", "x", "y", "row", "col", "censored", "zero", "variance", "jump")
BEYOND = 2  # rows or columns added at an edge


@dataclass(frozen=True)
class Design:
    """Training runs to add, and the expected information on the slope in nats that they bring.

    `axis` 0 and 1: `steps` is the number of rows or columns to add beyond the highest edge or, if negative, beyond the
    lowest one. `axis` 2: it is the number of seeds to add to every cell.
    """

    axis: int
    steps: int
    runs: int
    gain: float


@dataclass(frozen=True)
class Advice:
    """What to train to decide the verdict: multiples to `add` to an `axis`, or a number of `seeds` to add."""

    axis: str | None
    add: tuple[str, ...]
    seeds: int

    @property
    def text(self) -> str:
        """In words."""
        if self.axis is None:
            return f"train {self.seeds} more seed{'s' * (self.seeds > 1)}"
        word = HYPERPARAMETERS.get(self.axis, self.axis)
        return f"add {word} {', '.join(self.add)} (most information on the slope)"


def advised(
    cells: Cells,
    found: Posterior,
    seen: bool,
    cap: float,
    surface: Surface,
    multiples: Mapping[str, Iterable[Fraction]],
) -> Advice | None:
    """The best design, in a study's terms; None if no design gains anything, or if an axis has no constant ratio."""
    design = advise(cells, found, cap, surface.errors.shape[2], seen)
    if design is None or design.axis == 2:
        return None if design is None else Advice(None, (), design.steps)
    name, values, labels = surface.axes[design.axis]
    edge: Edge = "highest" if design.steps > 0 else "lowest"
    add = beyond(labels, multiples.get(name, ()), values, name, edge, abs(design.steps))
    return Advice(name, add, 0) if add else None


def advise(cells: Cells, found: Posterior, cap: float, seeds: int, seen: bool) -> Design | None:
    """The design with the largest gain divided by the square root of its runs; None if none gains anything.

    If no valley is `seen` in the noise, the design is twice the seeds. Row effects of new rows are extrapolated by a
    parabola in x, so that rows expected above the cap are not advised.
    """
    options = [(axis, sign * BEYOND) for axis in (0, 1) for sign in (-1, 1)] + [(2, seeds)]
    if not seen:
        options = options[-1:]
    rng = np.random.default_rng(0)
    designs = [_simulated(cells, found, cap, seeds, axis, steps, rng) for axis, steps in options]
    best = max(designs, key=lambda design: design.gain / design.runs**0.5)
    return best if best.gain > 0 else None


def _added(cells: Cells, axis: int, steps: int) -> Cells:
    """The new cells of a design, as `Cells`."""
    plain = ~cells.censored & ~cells.zero
    if axis == 2:
        return replace(cells, **{name: getattr(cells, name)[plain] for name in ARRAYS})
    x, y = (np.unique(values[~cells.zero]) for values in (cells.x, cells.y))
    values, step = (x, y)[axis], cells.steps[axis]
    edge = values[-1] if steps > 0 else values[0]
    new = edge + np.sign(steps) * step * np.arange(1, abs(steps) + 1)
    grid_x, grid_y = np.meshgrid(new if axis == 0 else x, y if axis == 0 else new, indexing="ij")
    rows = np.searchsorted(np.unique(np.concatenate([x, new])) if axis == 0 else x, grid_x.ravel())
    if axis == 1:
        rows = np.array([cells.row[cells.x == value][0] for value in grid_x.ravel()])
    else:
        rows = rows + int(cells.row.max()) + 1
    n = grid_x.size
    blank, mask = np.zeros(n), np.zeros(n, bool)
    level = float(np.median(cells.variance[plain]))
    return Cells(
        blank, grid_x.ravel(), grid_y.ravel(), rows, np.full(n, -1), mask, mask, blank + level, blank,
        cells.steps, cells.least_scale,
    )  # fmt: skip


def _joined(old: Cells, new: Cells) -> Cells:
    return replace(old, **{name: np.concatenate([getattr(old, name), getattr(new, name)]) for name in ARRAYS})


def _simulated(
    cells: Cells, found: Posterior, cap: float, seeds: int, axis: int, steps: int, rng: np.random.Generator
) -> Design:
    """The design with its expected gain: the mutual information of slope and new errors, by simulation.

    New cells that the fit expects above the cap bring no information and are left out, but their runs are counted.
    """
    added = _added(cells, axis, steps)
    runs = len(added.error) * seeds
    slopes = found.quantile((np.arange(SLOPES) + 0.5) / SLOPES)
    setting = found.settings[int(found.joint.sum(0).argmax())][None]
    mean, covariance = _predicted(cells, added, slopes, setting)
    below = mean[SLOPES // 2] + cells.error.mean() < cap
    if not below.any():
        return Design(axis, steps, runs, 0.0)
    mean, covariance = mean[:, below], covariance[:, below][:, :, below]
    roots = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(roots)
    log_det = np.log(np.einsum("kii->ki", roots)).sum(1)
    drawn = mean[:, None] + np.einsum("kij,krj->kri", roots, rng.standard_normal((SLOPES, REPEATS, below.sum())))
    white = np.einsum("kij,trkj->trki", inverse, drawn[:, :, None] - mean)
    log_p = -0.5 * (white**2).sum(-1) - log_det  # [true slope, repeat, slope]
    log_p -= log_sum(log_p.reshape(-1, SLOPES), 1).reshape(SLOPES, REPEATS)[..., None]
    entropy = -(np.exp(log_p) * log_p).sum(-1).mean()
    return Design(axis, steps, runs, float(np.log(SLOPES) - entropy))


def _predicted(old: Cells, new: Cells, slopes: np.ndarray, setting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [K, m], less the old cells' mean error, and covariance [K, m, m] of new errors [m] under slopes [K]."""
    whole, n = _joined(old, new), len(old.error)
    error = old.error - old.error.mean()
    x, rows = (whole.x - whole.centre) / max(float(whole.x.std()), 1e-9), len(np.unique(whole.row))
    shape = np.column_stack([whole.design[:, rows] - whole.y.mean(), whole.design[:, rows + 1 :], x**0, x, x**2])
    effects = VAGUE * shape @ shape.T + whole.design[:, :rows] @ whole.design[:, :rows].T
    freedom = n - old.design.shape[1] + FREEDOM
    mean, covariance = np.zeros((len(slopes), len(new.error))), np.zeros((len(slopes), len(new.error), len(new.error)))
    for i, _, V in covariances(whole, slopes, 0 * slopes, setting):
        joint = V + effects
        solved = np.linalg.solve(joint[:, :n, :n], np.concatenate([joint[:, :n, n:], _column(error, len(i))], axis=2))
        squares = FREEDOM * old.least_scale**2 + solved[:, :, -1] @ error
        mean[i] = np.einsum("knm,n->km", solved[:, :, :-1], error)
        rest = joint[:, n:, n:] - joint[:, n:, :n] @ solved[:, :, :-1]
        covariance[i] = (squares / freedom)[:, None, None] * rest
    return mean, covariance


def _column(values: np.ndarray, times: int) -> np.ndarray:
    return np.broadcast_to(values[:, None], (times, len(values), 1))
