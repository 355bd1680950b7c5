"""Computes whether each panel of a study is separable: the numbers with their intervals, the verdict and the alarms.

docs/separability.md defines the numbers and lists those of the paper's Figures 1 and 2 (Loshchilov & Hutter, ICLR
2019). A surface that does not define a number gets a reason instead; it is not an error.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from wdgrid.analysis import measures
from wdgrid.analysis.advice import Advice, advised
from wdgrid.analysis.boundary import Boundary, boundaries
from wdgrid.analysis.draws import UNSURE, measure, noise_free, of_draws, optimism
from wdgrid.analysis.enough import why_not
from wdgrid.analysis.selection import Certainty, pick
from wdgrid.analysis.slope import Cells, Posterior, informative
from wdgrid.analysis.surface import Surface, mean_over_seeds
from wdgrid.analysis.valley import Valley, valley
from wdgrid.analysis.verdict import Verdict, answer_of, reason_of, sentence_of, verdict_of
from wdgrid.analysis.words import HYPERPARAMETERS, Interval

CERTIFIED_CELLS = 25  # on fewer, correcting for the picking was not certified (docs/separability.md)


@dataclass(frozen=True)
class Separability:
    """One panel's numbers; None where the panel does not define one.

    Errors, `cap`, costs and regrets are in percent points. `slope` is that of the valley, `valley` the whole line.
    `cost` is what tuning one axis after the other costs against tuning both jointly, `regret_decay` that of a column
    value tuned at a wrong row value (the decay tuned at a wrong rate on the usual axes), `regret_rate` the other way
    round. Cost, regrets and interaction are those of the fitted noise-free surface; of the measured one where it was
    not fitted. `n_cells` counts grid cells, `n_diverged` and `n_missing` the cells with at least one diverged seed, and
    with none finished. `intervals` are 90 % by name of number. `selected_on` says which images every error here is
    over; where that is validation, `best_test_error` is the test error (mean over seeds) of the cell picked there.
    `certainty` is that of the picked cell's test error, corrected for the picking: see `selection`. `reason` says why
    the verdict is what it is.
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
    certainty: Certainty | None = None
    test_images: int | None = None
    selected_on: Literal["validation", "test"] = "test"
    interaction: float | None = None
    slope: float | None = None
    valley: Valley | None = None
    cost: float | None = None
    regret_decay: float | None = None
    regret_rate: float | None = None
    rho: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    verdict: Verdict = "can't tell"
    reason: str = ""
    alarms: tuple[Boundary, ...] = ()
    advice: Advice | None = None

    @property
    def answer(self) -> str:
        """What to do, and what it costs with its interval."""
        return answer_of(self.verdict, self.cost, self.intervals.get("cost"))

    @property
    def sentence(self) -> str:
        """The answer, then the verdict and its reason."""
        return sentence_of(self.verdict, self.answer, self.reason)

    @property
    def honest_error(self) -> float | None:
        """The picked cell's test error in percent, corrected for the picking."""
        return None if self.certainty is None else self.certainty.mean

    @property
    def test_interval(self) -> Interval | None:
        """Its 90 % interval."""
        return None if self.certainty is None else self.certainty.interval


def error_cap(best: float, chance: float = 90.0) -> float:
    """The default cap in percent: the larger of 1.75 · best and best + 3 points, but at most `chance`."""
    return min(max(1.75 * best, best + 3.0), chance)


def study_best(surfaces: Mapping[str, Surface]) -> float | None:
    """e*: the lowest mean error over all panels, in percent; None if no cell has a finite mean."""
    means = [mean_over_seeds(surface.errors, np.inf) for surface in surfaces.values() if surface.errors.size]
    lowest = min((float(np.nanmin(mean)) for mean in means if not np.isnan(mean).all()), default=np.inf)
    return lowest if np.isfinite(lowest) else None


@dataclass(frozen=True, eq=False)
class _Fitted:
    """One panel: its mean errors [R, C] (diverged seeds at the cap) and what was fitted to them."""

    surface: Surface
    mean: np.ndarray
    why_not: str | None
    cells: Cells | None = None
    valley: Valley | None = None
    posterior: Posterior | None = None
    draws: np.ndarray | None = None
    optimism: np.ndarray | None = None


def analyse(
    surfaces: Mapping[str, Surface],
    cap: float | None = None,
    chance: float = 90.0,
    draws: int = 200,
    rng_seed: int = 0,
    multiples: Mapping[str, Iterable[Fraction]] | None = None,
    test_images: int | None = None,
) -> dict[str, Separability]:
    """The numbers of every panel of one study, by name. `cap` and e* are those of the study, over all panels given.

    `chance` is the error of guessing in percent; the default cap is at most that. `draws` is the number of noise-free
    surfaces drawn (0: cost, regrets and interaction are those of the measured errors, without intervals). Unless `cap`
    is given, each drawn surface has its own best error and cap. The same input and `rng_seed` give the same intervals.
    `multiples` holds the exact multiples of an axis by its name, for alarms that propose values on axes with rounded
    labels. `test_images` is the number of test images.
    """
    best, given_cap = study_best(surfaces), cap
    if cap is None and best is not None:
        cap = error_cap(best, chance)
    printed = {name: surface.as_printed() for name, surface in surfaces.items()}
    fitted = {
        name: _fit(one, best, cap, chance, test_images, draws, np.random.default_rng([rng_seed, place]))
        for place, (name, one) in enumerate(printed.items())
    }
    drawn = [one.draws for one in fitted.values() if one.draws is not None]
    caps = np.zeros(0)
    if drawn:
        lowest = np.min([np.where(np.isnan(block), np.inf, block).min((1, 2)) for block in drawn], axis=0)
        caps = np.array([error_cap(float(value), chance) if given_cap is None else given_cap for value in lowest])
    return {name: _numbers(one, best, cap, caps, multiples, test_images) for name, one in fitted.items()}


def _fit(
    surface: Surface,
    best: float | None,
    cap: float | None,
    chance: float,
    test_images: int | None,
    count: int,
    rng: np.random.Generator,
) -> _Fitted:
    errors = surface.errors
    mean = mean_over_seeds(errors, np.inf if cap is None else cap)
    why = why_not(mean_over_seeds(errors, np.inf), surface, best, cap, chance)
    if why is not None or best is None or cap is None:
        return _Fitted(surface, mean, why or "")
    seeds = (~np.isnan(errors)).sum(-1).astype(float)
    images = test_images if surface.test_errors is None else None
    step = 100 / images / max(1.0, float(seeds.max())) if images else 0.0
    diverged = np.asarray(np.isposinf(errors).any(-1))
    cells = informative(mean, seeds, diverged, surface.rows, surface.cols, best, cap, step)
    if not cells.enough:
        row, col = (HYPERPARAMETERS.get(name, name) for name in (surface.row_name, surface.col_name))
        came = len(np.unique(cells.row[~cells.censored & ~cells.zero]))
        return _Fitted(
            surface, mean,
            f"the slope needs at least three values of {row} that have cells below the cap at several positive values "
            f"of {col}; this grid has {came or 'none'}",
        )  # fmt: skip
    line, found = valley(cells, surface.cols)
    whole = np.where(diverged, np.inf, mean)
    if not count:
        return _Fitted(surface, mean, None, cells, line, found)
    drawn, spread = noise_free(cells, found, whole, seeds, count, rng)
    lower = optimism(drawn, spread, rng)
    return _Fitted(surface, mean, None, cells, line, found, drawn, lower if mean.size >= CERTIFIED_CELLS else None)


def _numbers(
    fitted: _Fitted,
    best: float | None,
    cap: float | None,
    caps: np.ndarray,
    multiples: Mapping[str, Iterable[Fraction]] | None,
    test_images: int | None,
) -> Separability:
    surface, errors = fitted.surface, fitted.surface.errors
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
        **_best_cell(surface, test_images, fitted.optimism),
    )
    capped = fitted.mean if cap is None else np.minimum(fitted.mean, cap)
    if best is not None and cap is not None and best < cap and (fitted.mean < cap).any():
        result = replace(result, alarms=boundaries(capped, cap, surface.axes, multiples))
    if fitted.valley is None or cap is None:
        return replace(result, reason=fitted.why_not or "")
    line = fitted.valley
    numbers = {name: float(value) for name, value in measure(capped).items()}
    intervals: dict[str, Interval] = {}
    if fitted.draws is not None:
        numbers, intervals = of_draws(fitted.draws, caps)
    shown = {name: None if np.isnan(value) else value for name, value in numbers.items()}
    chosen = measures.best_cells(capped, cap) if surface.circled is None else surface.circled
    rho = float(measures.correlation(chosen, surface.rows, surface.cols))
    verdict, names = verdict_of(line), (surface.row_name, surface.col_name)
    advice = None
    if verdict in ("can't tell", "weakly coupled") and fitted.cells is not None and fitted.posterior is not None:
        advice = advised(fitted.cells, fitted.posterior, line.seen, cap, surface, multiples or {})
    return replace(
        result,
        **shown,
        slope=line.slope,
        valley=line,
        rho=None if np.isnan(rho) else rho,
        intervals={"slope": line.interval, **intervals},
        verdict=verdict,
        advice=advice,
        reason=reason_of(verdict, line, names),
    )


def _best_cell(surface: Surface, test_images: int | None, optimism: np.ndarray | None) -> dict[str, Any]:
    """The picked cell's fields; nothing where no cell has a finite error.

    Where cells were picked on the test errors, the error is corrected by the fitted `optimism` [D], if there is one:
    a panel of fewer than CERTIFIED_CELLS has none.
    """
    if (picked := pick(surface, test_images)) is None:
        return {}
    certainty = picked.certainty
    if surface.test_errors is None and optimism is not None:
        lower = float(optimism.mean())
        error = math.hypot(float(optimism.std(ddof=1)), UNSURE * lower)
        certainty = Certainty("fit", picked.error + lower, error, len(optimism))
    return {
        "best_error": picked.error,
        "best_test_error": None if surface.test_errors is None else picked.test_error,
        "certainty": certainty,
        "best_row": float(surface.rows[picked.row]),
        "best_col": float(surface.cols[picked.col]),
        "best_row_label": surface.row_labels[picked.row],
        "best_col_label": surface.col_labels[picked.col],
    }
