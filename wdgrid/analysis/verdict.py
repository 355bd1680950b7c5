"""Derives the verdict on a panel, and phrases it: what to do and what it costs, then the reason.

If the rate doubles, the best decay changes by a factor of 2^|s|: 1.19 for |s| = ¼, 1.41 for |s| = ½.
"""

from typing import Literal

from wdgrid.analysis.valley import Valley
from wdgrid.analysis.words import HYPERPARAMETERS, Interval, interval, number, the

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


def answer_of(verdict: Verdict, cost: float | None, within: Interval | None = None) -> str:
    """What to do, and what it costs: `cost` of tuning one axis after the other in points, with its interval."""
    price = "" if cost is None else f"{number(cost)} points" + (f" {interval(within)}" if within else "")
    if verdict == "can't tell":
        return "can't tell whether to tune them separately"
    if verdict == "separable":
        return "tune them separately" + (price and f": it costs {price}")
    if verdict == "weakly coupled" and price:
        return f"tune them together if {price} matter"
    return "tune them together" + (price and f": one after the other costs {price}")


def reason_of(verdict: Verdict, valley: Valley, names: tuple[str, str]) -> str:
    """Why: what the valley says; `names` are those of both axes."""
    row, col = (HYPERPARAMETERS.get(name, name) for name in names)
    slope = f"s = {number(valley.slope)}, 90 % interval {number(valley.interval[0])} to {number(valley.interval[1])}"
    if verdict == "can't tell" and not valley.seen:
        return f"no {col} is better than the others by more than the noise"
    if verdict == "can't tell":
        return f"the slope is too uncertain ({slope})"
    if verdict == "bent":
        low, high = (number(end) for end in valley.ends)
        return f"the slope is {low} at the smallest {row} and {high} at the largest"
    if verdict == "separable":
        return f"the best {col} hardly moves with {the(row)} ({slope})"
    return f"{_move(valley.slope, row, col)} ({slope})"


def sentence_of(verdict: Verdict, answer: str, reason: str) -> str:
    """Answer and reason in one sentence."""
    return f"can't tell: {reason}" if verdict == "can't tell" else f"{answer}; {verdict}: {reason}"


def _move(slope: float, row: str, col: str) -> str:
    """`if you halve the rate, double the decay`; if the slope is far from ±1, with its factor."""
    factor = 2.0 ** abs(slope)
    if 1.75 <= factor <= 2.3:
        return f"if you halve {the(row)}, {'double' if slope < 0 else 'halve'} {the(col)}"
    return f"if you halve {the(row)}, {'multiply' if slope < 0 else 'divide'} {the(col)} by {factor:.1f}"
