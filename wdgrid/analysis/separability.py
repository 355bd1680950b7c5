"""Is a panel's space separable? The numbers with intervals, the verdict and the alarms, per panel of one study.

Definitions and the paper's values under them: docs/separability.md (Loshchilov & Hutter,
ICLR 2019, Figures 1 and 2). Surfaces in, frozen dataclasses out; a surface that defines no number gets a
reason, not an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from wdgrid.analysis import measures
from wdgrid.analysis.bootstrap import IntervalKind, Noise, interval, mean_over_seeds, noise_of
from wdgrid.analysis.boundary import Boundary, boundaries
from wdgrid.analysis.selection import CertaintyKind, pick
from wdgrid.analysis.surface import Surface
from wdgrid.analysis.verdict import Verdict, judge
from wdgrid.analysis.words import HYPERPARAMETERS, Interval, number, percent

# Per number: its bounds, and the share of draws beyond either end of a 90 % interval. The shares are calibrated: on
# 100 noisy grids each of f + g, f(αλ), f(λ/α) and f(λ √α), with 1, 2 and 3 seeds, 5 % at either end covered the truth
# 83 to 100 % of the time (regrets, which turn on single cells: 74 to 94 %), these 88 to 100 % (regrets: 87 to 99 %).
LIMITS = {
    "interaction": (0.0, 1.0, 0.03),
    "kappa": (-np.inf, np.inf, 0.03),
    "regret_decay": (0.0, np.inf, 0.01),
    "regret_rate": (0.0, np.inf, 0.01),
    "rho": (-1.0, 1.0, 0.03),
}
MISSING_SHARE = 0.25
# Errors near guessing tell how fast cells begin to learn, not where they end. 1 − best/chance is accuracy corrected for
# chance (Cohen's κ where classes are balanced), of which less than 0.2 counts as slight (Landis & Koch, 1977).
LEAST_SKILL = 0.2


@dataclass(frozen=True)
class Separability:
    """One panel's numbers; None where the panel does not define one.

    Errors, `cap` and regrets are in percent points. `regret_decay` is the cost of a column value tuned at a
    wrong row value (the decay tuned at a wrong rate on the usual axes), `regret_rate` the other way round.
    `n_cells` counts grid cells, `n_diverged` and `n_missing` the cells with at least one diverged seed, and
    with none finished. `intervals` are 90 % by name of number; `interval_kind` says what noise they stand
    on: seeds, or one seed's residuals. `selected_on` says which images every error here is over; where that
    is validation, `best_test_error` is the test error (mean over seeds) of the cell picked there.
    `test_interval` is the 90 % interval of the picked cell's test error, whatever it was picked on: over its
    seeds or, with one seed, binomial over `test_images`; it does not know that the cell was picked for being low.
    """

    panel: str
    row_name: str
    col_name: str
    n_cells: int
    n_seeds: int
    n_diverged: int
    n_missing: int
    cap: float | None
    best_error: float | None = None
    best_row: float | None = None
    best_col: float | None = None
    best_row_label: str | None = None
    best_col_label: str | None = None
    best_test_error: float | None = None
    test_interval: Interval | None = None
    test_interval_kind: CertaintyKind | None = None
    test_images: int | None = None
    selected_on: Literal["validation", "test"] = "test"
    interaction: float | None = None
    kappa: float | None = None
    kappa_rows: int = 0
    regret_decay: float | None = None
    regret_rate: float | None = None
    rho: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    interval_kind: IntervalKind | None = None
    verdict: Verdict = "can't tell"
    sentence: str = ""
    alarms: tuple[Boundary, ...] = ()


def error_cap(best: float, chance: float = 90.0) -> float:
    """The default cap in percent: the larger of 1.75 · best and best + 3 points, never above chance."""
    return min(max(1.75 * best, best + 3.0), chance)


def study_best(surfaces: Mapping[str, Surface]) -> float | None:
    """e*: the lowest mean error over all panels, in percent; None where no cell has a finite mean."""
    means = [mean_over_seeds(surface.errors, np.inf) for surface in surfaces.values() if surface.errors.size]
    lowest = min((float(np.nanmin(mean)) for mean in means if not np.isnan(mean).all()), default=np.inf)
    return lowest if np.isfinite(lowest) else None


def analyse(
    surfaces: Mapping[str, Surface],
    cap: float | None = None,
    chance: float = 90.0,
    bootstrap: int = 1000,
    rng_seed: int = 0,
    multiples: Mapping[str, Iterable[Fraction]] | None = None,
    test_images: int | None = None,
) -> dict[str, Separability]:
    """Every panel of one study, by name; `cap` and e* are the study's, over all panels given.

    `chance` is the error in percent of guessing, above which no default cap goes. `bootstrap` is the number
    of replicates (0: no intervals, and so no verdict). The same input and `rng_seed` give the same
    intervals, whatever the other panels. `multiples` holds an axis' exact multiples by its name, for alarms that
    go on where labels are rounded; `test_images` is how many a test error is over, for its interval with one seed.
    """
    best = study_best(surfaces)
    if cap is None and best is not None:
        cap = error_cap(best, chance)
    return {
        name: _analyse_one(surface, best, cap, chance, bootstrap, rng_seed, multiples, test_images)
        for name, surface in surfaces.items()
    }


def _holes(mean: np.ndarray, planned: np.ndarray | None) -> np.ndarray:
    """Cells of mean [R, C] still to be run: those planned that are missing.

    Where it is not known which were planned, all missing ones but those beyond a row's ends in a column of others: a
    map re-plotted on λ/α is a slanted band with empty corners; its rows are whole all the same.
    """
    there = ~np.isnan(mean)
    if planned is not None:
        return planned & ~there
    within = np.logical_or.accumulate(there, 1) & np.logical_or.accumulate(there[:, ::-1], 1)[:, ::-1]
    return ~there & (within | ~there.any(1, keepdims=True) | ~there.any(0, keepdims=True))


def _why_not(
    mean: np.ndarray, surface: Surface, best: float | None, cap: float | None, chance: float, noise: Noise | None
) -> str | None:
    """Why mean errors [R, C] carry no number at all, or None."""
    row, col = (HYPERPARAMETERS.get(name, name) for name in (surface.row_name, surface.col_name))
    if mean.size == 0 or np.isnan(mean).all():
        return "no cell is finished"
    if not np.isfinite(np.where(np.isnan(mean), np.inf, mean)).any():
        return "every finished cell diverged"
    lowest, needed = float(np.nanmin(mean)), (1 - LEAST_SKILL) * chance
    if lowest > needed:
        return (
            f"nothing learns well enough: the best cell errs on {percent(lowest)}, guessing on {chance:g} %; "
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
    if noise is not None and noise.hides(cap):
        source = "between seeds" if noise.kind == "seeds" else "between neighbours, of one seed each,"
        return (
            f"the cells' errors differ by {number(float(np.std(seen, ddof=1)))} points (standard deviation), which the "
            f"noise {source} explains ({number(noise.variance**0.5)} points); widen the axes, or add seeds"
        )
    return None


def _measure(errors: np.ndarray, surface: Surface, best: float, cap: float) -> dict[str, np.ndarray]:
    """All numbers over capped errors [..., R, C]."""
    kappa, kappa_rows = measures.valley(errors, surface.rows, surface.cols, best, cap)
    return {
        "interaction": measures.interaction(errors),
        "kappa": kappa,
        "kappa_rows": kappa_rows,
        "regret_decay": measures.regret(errors),
        "regret_rate": measures.regret(np.swapaxes(errors, -1, -2)),
        "rho": measures.correlation(measures.best_cells(errors, cap), surface.rows, surface.cols),
    }


def _intervals(
    surface: Surface, noise: Noise, numbers: Mapping[str, float | None], best: float, cap: float, count: int, seed: int
) -> dict[str, Interval]:
    blocks = noise.draw(count, np.random.default_rng(seed))
    measured = [_measure(block, surface, best, cap) for block in blocks]
    intervals = {}
    for name, (low, high, tail) in LIMITS.items():
        estimate = numbers[name]
        if estimate is None or (name == "rho" and surface.circled is not None):
            continue  # circles were read off a figure: nothing to draw again
        drawn = interval(estimate, np.concatenate([block[name] for block in measured]), tail, low, high)
        if drawn is not None:
            intervals[name] = drawn
    return intervals


def _analyse_one(
    surface: Surface,
    best: float | None,
    cap: float | None,
    chance: float,
    bootstrap: int,
    rng_seed: int,
    multiples: Mapping[str, Iterable[Fraction]] | None,
    test_images: int | None,
) -> Separability:
    surface = surface.as_printed()
    errors = surface.errors
    uncapped = mean_over_seeds(errors, np.inf)
    result = Separability(
        panel=surface.panel,
        row_name=surface.row_name,
        col_name=surface.col_name,
        n_cells=errors.shape[0] * errors.shape[1],
        n_seeds=int((~np.isnan(errors)).any((0, 1)).sum()),
        n_diverged=int(np.isposinf(errors).any(-1).sum()),
        n_missing=int(np.isnan(errors).all(-1).sum()),
        cap=cap,
        test_images=test_images,
        selected_on="test" if surface.test_errors is None else "validation",
        **_best_cell(surface, test_images),
    )
    noise = None if cap is None else noise_of(errors, cap)
    why = _why_not(uncapped, surface, best, cap, chance, noise)
    if best is not None and cap is not None and best < cap and (uncapped < cap).any():
        mean = np.minimum(mean_over_seeds(errors, cap), cap)
        result = replace(result, alarms=boundaries(mean, cap, surface.axes, multiples))
        if why is None:
            return _with_numbers(result, mean, surface, noise, best, cap, bootstrap, rng_seed)
    return replace(result, sentence=f"can't tell: {why}")


def _best_cell(surface: Surface, test_images: int | None) -> dict[str, Any]:
    """The picked cell's fields; nothing where no cell has a finite error."""
    if (picked := pick(surface, test_images)) is None:
        return {}
    certainty = picked.certainty
    return {
        "best_error": picked.error,
        "best_test_error": None if surface.test_errors is None else picked.test_error,
        "test_interval": None if certainty is None else certainty.interval,
        "test_interval_kind": None if certainty is None else certainty.kind,
        "best_row": float(surface.rows[picked.row]),
        "best_col": float(surface.cols[picked.col]),
        "best_row_label": surface.row_labels[picked.row],
        "best_col_label": surface.col_labels[picked.col],
    }


def _with_numbers(
    result: Separability,
    mean: np.ndarray,
    surface: Surface,
    noise: Noise | None,
    best: float,
    cap: float,
    bootstrap: int,
    rng_seed: int,
) -> Separability:
    measured = _measure(mean, surface, best, cap)
    if surface.circled is not None:
        measured["rho"] = measures.correlation(surface.circled, surface.rows, surface.cols)
    numbers = {name: None if np.isnan(measured[name]) else float(measured[name]) for name in LIMITS}
    kappa_rows = int(measured["kappa_rows"])
    intervals = {}
    if noise is not None and bootstrap > 1:
        intervals = _intervals(surface, noise, numbers, best, cap, bootstrap, rng_seed)
    verdict, sentence = judge(numbers, intervals, kappa_rows, (surface.row_name, surface.col_name), cap - best)
    return replace(
        result,
        interaction=numbers["interaction"],
        kappa=numbers["kappa"],
        kappa_rows=kappa_rows,
        regret_decay=numbers["regret_decay"],
        regret_rate=numbers["regret_rate"],
        rho=numbers["rho"],
        intervals=intervals,
        interval_kind=noise.kind if noise is not None and intervals else None,
        verdict=verdict,
        sentence=sentence,
    )
