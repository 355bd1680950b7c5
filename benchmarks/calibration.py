"""Measures how often the analysis is right on surfaces of known slope.

Development seeds (0 and up) chose the constants in wdgrid/analysis; certification seeds (2 000 000 and up, the default)
were run for docs/separability.md only. Prints Markdown.
"""

import argparse
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from families import FAMILIES, IMAGES, STRAIGHT, Case, draw_case

from wdgrid.analysis.draws import measure
from wdgrid.analysis.separability import Separability, analyse, error_cap
from wdgrid.analysis.surface import Surface

SEEDS = (1, 3, 5)
CERTIFICATION = 2_000_000
NUMBERS = ("interaction", "cost", "regret_decay", "regret_rate", "honest_error")


@dataclass(frozen=True)
class Result:
    """The analysis of one surface and the true values. `covered`: whether each interval has the true value."""

    family: str
    seeds: int
    true: float
    crossed: int
    verdict: str
    slope: float | None = None
    width: float | None = None
    covered: dict[str, bool] = field(default_factory=dict)


def analysed(case: Case) -> Separability:
    """The numbers of a case."""
    labels = [tuple(f"{value:g}" for value in axis) for axis in (case.x, case.y)]
    panel = Surface("p", "lr", "weight_decay", 2.0**case.x, 2.0**case.y, *labels, case.errors)
    return analyse({"p": panel}, test_images=IMAGES)["p"]


def result_of(family: str, seeds: int, seed: int) -> Result:
    """One surface, drawn and analysed."""
    case = draw_case(family, seeds, np.random.default_rng([seed, seeds, FAMILIES.index(family)]))
    said = analysed(case)
    best = float(case.truth.min())
    capped = np.minimum(case.truth, error_cap(best))
    truth = {name: float(value) for name, value in measure(capped).items()} | {"slope": case.slope}
    ranges = dict(said.intervals)
    if said.test_interval is not None:
        mean = case.errors.mean(-1)
        truth["honest_error"], ranges["honest_error"] = float(case.truth.ravel()[mean.argmin()]), said.test_interval
    covered = {name: low - 1e-9 <= truth[name] <= high + 1e-9 for name, (low, high) in ranges.items()}
    width = None if said.valley is None else said.valley.width
    return Result(family, seeds, case.slope, case.crossed, said.verdict, said.slope, width, covered)


def results(count: int, first: int, families: tuple[str, ...], processes: int) -> list[Result]:
    """So many surfaces of every family with every number of seeds."""
    work = [(family, seeds, first + k) for family in families for seeds in SEEDS for k in range(count)]
    if processes < 2:
        return [result_of(*one) for one in work]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(result_of, *zip(*work, strict=True), chunksize=8))


def _share(values: list[bool]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "–"


def _by_seeds(rows: list[Result], value) -> str:
    return " / ".join(_share([value(r) for r in rows if r.seeds == seeds]) for seeds in SEEDS)


def table(found: list[Result]) -> Iterator[str]:
    """One row for each family, then the error rates over all of them."""
    yield "| family | n | slope: bias, rmse | slope covered, by seeds | withheld, by seeds | bent | median width |"
    yield "|---|---|---|---|---|---|---|"
    for family in dict.fromkeys(r.family for r in found):
        rows = [r for r in found if r.family == family]
        decided = [r.slope - r.true for r in rows if r.slope is not None and r.verdict != "can't tell"]
        rmse = f"{np.mean(decided):+.2f}, {math.sqrt(np.mean(np.square(decided))):.2f}" if decided else "–"
        fitted = [r for r in rows if r.slope is not None]
        covered = _by_seeds(fitted, lambda r: r.covered["slope"]) if family in STRAIGHT else "–"
        crossed = [r for r in rows if r.crossed >= 4]
        withheld = _by_seeds(crossed, lambda r: r.verdict == "can't tell")
        width = f"{np.median([r.width for r in fitted]):.2f}" if fitted else "–"
        bent = _share([r.verdict == "bent" for r in rows])
        yield f"| {family} | {len(rows)} | {rmse} | {covered} | {withheld} | {bent} | {width} |"
    straight = [r for r in found if r.family in STRAIGHT]
    yield "\n| over all straight families | by seeds (1 / 3 / 5) | n |\n|---|---|---|"
    fitted = [r for r in straight if r.slope is not None]
    for name in ("slope", *NUMBERS):
        rows = [r for r in fitted if name in r.covered]
        yield f"| {name} covered | {_by_seeds(rows, lambda r, name=name: r.covered[name])} | {len(rows)} |"
    rates = {
        "*separable* where |s| ≥ ½": ([r for r in straight if abs(r.true) >= 0.5], "separable"),
        "*coupled* where |s| ≤ 0.1": ([r for r in straight if abs(r.true) <= 0.1], "coupled"),
        "*can't tell* where the valley crosses four rows or more": (
            [r for r in straight if r.crossed >= 4],
            "can't tell",
        ),
        "*bent*": (straight, "bent"),
    }
    for words, (rows, verdict) in rates.items():
        yield f"| {words} | {_by_seeds(rows, lambda r, verdict=verdict: r.verdict == verdict)} | {len(rows)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--surfaces", type=int, default=40, help="of each family with each number of seeds")
    parser.add_argument("--first", type=int, default=CERTIFICATION, help="first seed")
    parser.add_argument("--family", action="append", help="only this one")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    chosen = tuple(given.family or FAMILIES)
    print("\n".join(table(results(given.surfaces, given.first, chosen, given.processes))))
