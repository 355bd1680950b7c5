"""Formats numbers and hyperparameters, in the same way in every sentence and table."""

import math
from collections.abc import Mapping

from wdgrid.study.cells import Divergence

HYPERPARAMETERS = {"lr": "rate", "weight_decay": "decay", "eps": "ε", "beta1": "β1", "beta2": "β2"}
# In the fewest words, the worst first.
DIVERGENCES: dict[Divergence, str] = {
    "non-finite": "non-finite",
    "late blow-up": "late blow-up",
    "stuck at chance": "stuck",
    "spike": "spike",
}

Interval = tuple[float, float]


def a(word: str) -> str:
    """A hyperparameter's word with its article: `a rate`, `an ε`."""
    return f"an {word}" if word == "ε" else f"a {word}"


def the(word: str) -> str:
    """The same: `the rate`; a symbol, `ε`, has none."""
    return f"the {word}" if word.isascii() else word


def number(value: float | None, digits: int = 2) -> str:
    """A number with a minus sign (U+2212), or a dash if there is none; never −0.00."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(within: Interval, digits: int = 2) -> str:
    """`[−0.95, −0.79]`."""
    return f"[{number(within[0], digits)}, {number(within[1], digits)}]"


def with_interval(value: float | None, within: Interval | None, digits: int = 2) -> str:
    """A number and, in brackets, its interval: `−0.87 [−0.95, −0.79]`."""
    alone = number(value, digits)
    return alone if value is None or within is None else f"{alone} {interval(within, digits)}"


def seeds_words(n: int) -> str:
    """`one seed` or `mean of 3 seeds`: of what a cell's error is."""
    return "one seed" if n == 1 else f"mean of {n} seeds"


def percent(value: float | None) -> str:
    """An error: `2.34 %`, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{number(value)} %"


def figures(value: float | None) -> str:
    """A positive number to three figures, `0.0494`, `1200`: no exponent from 0.0001 to a million; ∞, or a dash."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{float(f'{value:.3g}'):g}"


def divergences(counts: Mapping[Divergence, int]) -> str:
    """`1 non-finite, 13 stuck`: the number of cells whose training went wrong, by class; empty if there are none."""
    return ", ".join(f"{counts[kind]} {words}" for kind, words in DIVERGENCES.items() if counts.get(kind))


def multipliers(by_pattern: Mapping[str, float]) -> str:
    """The decay multipliers by pattern; empty if there are none."""
    return ", ".join(f"{pattern} × {m:g}" for pattern, m in by_pattern.items())
