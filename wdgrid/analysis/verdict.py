"""Coupled, separable or can't tell, and the sentence a person needs.

Knows the numbers and their intervals; knows no arrays. κ decides, since it alone tells an upright valley
from a slanted one (an interaction well above zero also comes from large decays that kill slow rates,
docs/separability.md). Its whole 90 % interval must lie on one side of one half, where a doubled rate moves the best
decay by more, or less, than √2.
"""

from collections.abc import Mapping
from typing import Literal

from wdgrid.analysis.words import HYPERPARAMETERS, Interval, a, number, the

Verdict = Literal["coupled", "separable", "can't tell"]

SLANTED = 0.5
DEAR_SHARE = 0.25  # of cap − best: a decay tuned elsewhere that costs more than this is not "tuned alone"


def judge(
    numbers: Mapping[str, float | None],
    intervals: Mapping[str, Interval],
    kappa_rows: int,
    names: tuple[str, str],
    room: float,
) -> tuple[Verdict, str]:
    """The verdict on one panel and its sentence.

    `numbers` and `intervals` go by `kappa` and `regret_decay`; `names` are the row and column
    hyperparameters; `room` is cap − best, in points.
    """
    row, col = (HYPERPARAMETERS.get(name, name) for name in names)
    kappa, cost, within = numbers["kappa"], numbers["regret_decay"], intervals.get("kappa")
    if kappa is None:
        return "can't tell", (
            f"can't tell: the slope needs three values of {row} that come within reach of the study's best error, over "
            f"several positive values of {col}; {kappa_rows or 'none'} came"
        )
    if within is None:
        return "can't tell", (
            f"can't tell: the valley's slope is {number(kappa)}, with no interval to judge it by: one seed, on too few "
            "cells under the cap to measure the noise; add seeds"
        )
    span = f"κ = {number(kappa)}, 90 % interval {number(within[0])} to {number(within[1])}"
    if within[0] > SLANTED or within[1] < -SLANTED:
        price = "" if cost is None else f"; {a(col)} tuned at a wrong {row} costs {number(cost)} points"
        return "coupled", f"coupled: {_move(kappa, row, col)} ({span}){price}"
    if within[0] > -SLANTED and within[1] < SLANTED:
        if cost is None:
            return "can't tell", f"can't tell: the valley is upright ({span}), but no other {row} was finished"
        if cost > DEAR_SHARE * room:
            return "can't tell", (
                f"can't tell: the valley is upright ({span}), yet {a(col)} tuned at a wrong {row} costs "
                f"{number(cost)} points"
            )
        return "separable", f"separable: tune each alone: costs {number(cost)} points ({span})"
    return "can't tell", f"can't tell: the slope is too uncertain ({span}); add seeds or finer steps"


def _move(kappa: float, row: str, col: str) -> str:
    """`halve the rate, double the decay`, or the factor that a slope far from ±1 asks for."""
    factor = 2.0 ** abs(kappa)
    if 1.75 <= factor <= 2.3:
        return f"halve {the(row)}, {'double' if kappa < 0 else 'halve'} {the(col)}"
    return f"halve {the(row)}, {'multiply' if kappa < 0 else 'divide'} {the(col)} by {factor:.1f}"
