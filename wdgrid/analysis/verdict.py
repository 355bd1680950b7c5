"""Derives the verdict on a panel, and phrases it: the cost of tuning in turn, then the slope.

If the rate doubles, the best decay changes by a factor of 2^|s|: 1.19 for |s| = ¼, 1.41 for |s| = ½.
"""

from typing import Literal

from wdgrid.analysis.valley import Valley
from wdgrid.analysis.words import HYPERPARAMETERS, Interval, number, the, with_interval

Verdict = Literal["separable", "weakly coupled", "coupled", "bent", "can't tell"]

UPRIGHT, SLANTED = 0.25, 0.5
WIDEST = 1.0


def verdict_of(valley: Valley) -> Verdict:
    """The verdict that a fitted valley allows."""
    low, high = valley.interval
    if not valley.seen:
        return "can't tell"
    if valley.bent:
        return "bent"
    if valley.width > WIDEST:
        return "can't tell"
    if abs(valley.slope) <= UPRIGHT and low > -SLANTED and high < SLANTED:
        return "separable"
    if abs(valley.slope) >= SLANTED and (low > UPRIGHT or high < -UPRIGHT):
        return "coupled"
    return "weakly coupled"


def sentence_of(
    verdict: Verdict, valley: Valley, names: tuple[str, str], cost: float | None, within: Interval | None
) -> str:
    """The verdict in words; `cost` of tuning one after the other in points, with its interval; `names` of both axes."""
    row, col = (HYPERPARAMETERS.get(name, name) for name in names)
    slope = f"s = {number(valley.slope)}, 90 % interval {number(valley.interval[0])} to {number(valley.interval[1])}"
    price = "" if cost is None else f"tuning one after the other costs {with_interval(cost, within)} points"
    if verdict == "can't tell" and not valley.seen:
        return f"can't tell: no {col} is better than the others by more than the noise"
    if verdict == "can't tell":
        return f"can't tell: the slope is too uncertain ({slope})"
    if verdict == "bent":
        low, high = (number(end) for end in valley.ends)
        return f"bent: {price}; the slope is {low} at the smallest {row} and {high} at the largest"
    if verdict == "separable":
        return f"separable: tune each alone; {price} ({slope})"
    return f"{verdict}: {price}; {_move(valley.slope, row, col)} ({slope})"


def _move(slope: float, row: str, col: str) -> str:
    """`if you halve the rate, double the decay`; if the slope is far from ±1, with its factor."""
    factor = 2.0 ** abs(slope)
    if 1.75 <= factor <= 2.3:
        return f"if you halve {the(row)}, {'double' if slope < 0 else 'halve'} {the(col)}"
    return f"if you halve {the(row)}, {'multiply' if slope < 0 else 'divide'} {the(col)} by {factor:.1f}"
