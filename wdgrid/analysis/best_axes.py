"""Proposes the axes on which a panel would be separable: α, and λ·α^p instead of λ.

On the axis λ·α^p a valley of slope s has the slope s + p, so p = −s makes its slope 0 (docs/separability.md).
"""

from dataclasses import dataclass

from wdgrid.analysis.separability import Separability
from wdgrid.analysis.words import HYPERPARAMETERS, Interval, number, the
from wdgrid.optim.variants import VARIANTS, Decay

NEAR = 0.25


@dataclass(frozen=True)
class BestAxes:
    """The power p for which column · row^p is separable from the row, its 90 % interval, and what that means."""

    power: float
    interval: Interval
    sentence: str


def best_axes(panel: Separability, optimizer: str | None = None) -> BestAxes | None:
    """The best power for a coupled panel; `optimizer` names its variant, for the libraries' terms.

    None if the panel is neither coupled nor weakly coupled: a separable panel needs no other axes, and for the others
    no single power is known.
    """
    if panel.slope is None or panel.verdict not in ("coupled", "weakly coupled"):
        return None
    power = 0.0 - panel.slope
    low, high = panel.intervals["slope"]
    interval = -high, -low
    whole = next((n for n in (1, -1) if _holds(n, power, interval)), None)
    usual = (panel.row_name, panel.col_name) == ("lr", "weight_decay")
    row, col = (the(HYPERPARAMETERS.get(name, name)) for name in (panel.row_name, panel.col_name))
    found = f"p = {number(power)}, 90 % interval {number(interval[0])} to {number(interval[1])}: "
    if whole is None:
        form = f"{col} times {row}^{number(power)}"
        return BestAxes(power, interval, f"{found}{form} would be separable from {row}; no library has this form")
    plain = {1: f"the product of {col} and {row}", -1: f"{col} divided by {row}"}[whole]
    meaning = _in_libraries(whole, optimizer) if usual else None
    return BestAxes(power, interval, found + f"tune {plain}" + (f"; {meaning}" if meaning else ""))


def _holds(whole: int, power: float, interval: Interval) -> bool:
    """Whether a whole power fits: within NEAR of the estimate, or in its interval and less than ½ from it."""
    if abs(power - whole) <= NEAR:
        return True
    return interval[0] <= whole <= interval[1] and abs(power - whole) < 0.5


def _in_libraries(whole: int, optimizer: str | None) -> str | None:
    decay = VARIANTS[optimizer].decay if optimizer else None
    if decay is Decay.PAPER:
        return {
            -1: "this is the libraries' form (torch, timm, optax, Keras), in which a step subtracts lr * weight_decay",
            1: "the decay per step would have to fall as the rate grows; no library has this form",
        }[whole]
    if decay is Decay.LIBRARY:
        return {
            1: "this is the paper's form (Composer), in which a step subtracts weight_decay at any rate",
            -1: "no library divides so",
        }[whole]
    if decay is Decay.GRADIENT:
        return {
            1: "only the product matters: keep it the same if you change the rate, or decouple the decay (SGDW, AdamW)",
            -1: "no library divides so",
        }[whole]
    return None
