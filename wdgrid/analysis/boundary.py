"""Detects best cells on an edge of the grid, beyond which the optimum may lie, and names the values to add."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from wdgrid.analysis.measures import best_cells
from wdgrid.analysis.words import HYPERPARAMETERS, a
from wdgrid.study.axes import exact_label, label, parse_multiple

Edge = Literal["lowest", "highest"]
BELOW_ONE = {"momentum", "beta1", "beta2"}


@dataclass(frozen=True)
class Boundary:
    """One edge that holds the best cells, and the multiples to add beyond it, as a study file prints them.

    `where` and `advice` say so in words.
    """

    axis: str
    edge: Edge
    at: str
    add: tuple[str, ...]
    where: str
    advice: str

    @property
    def text(self) -> str:
        """Both, in one sentence."""
        return f"{self.where}; {self.advice}"


def beyond(
    labels: Sequence[str], exact: Iterable[Fraction], values: np.ndarray, name: str, edge: Edge, count: int = 2
) -> tuple[str, ...]:
    """Multiples that continue an axis in its own ratio: `16` after `8` gives `32`, `64`; none if there is no ratio.

    If a label is rounded, as `0.333333` is, the `exact` multiple with this label is used.
    """
    known = {label(multiple): multiple for multiple in exact}
    order = [int(i) for i in np.argsort(values)]
    try:
        multiples = [known.get(labels[i]) or parse_multiple(labels[i]) for i in order if values[i] > 0]
    except ValueError:
        return ()
    if len(multiples) < 2:
        return ()
    last, inner = (multiples[-1], multiples[-2]) if edge == "highest" else (multiples[0], multiples[1])
    ratio = last / inner
    if ratio == 1:
        return ()
    unit = float(values[order[-1]]) / float(multiples[-1])
    added = [last * ratio**step for step in range(1, count + 1)]
    if name in BELOW_ONE and edge == "highest":
        added = [value for value in added if float(value) * unit < 1]
    return tuple(exact_label(value) for value in added)


def boundaries(
    errors: np.ndarray,
    cap: float,
    axes: tuple[tuple[str, np.ndarray, tuple[str, ...]], ...],
    multiples: Mapping[str, Iterable[Fraction]] | None = None,
) -> tuple[Boundary, ...]:
    """Alarms for capped errors [R, C] and the two axes as (name, values, labels).

    `multiples` holds the exact multiples of an axis by its name, since labels may be rounded.

    There is an alarm if an edge holds the best cell, or three of the ten best (of fewer on a grid of less than 80
    cells). An axis of one value has no edge. The smallest positive value is no edge if the axis has a 0.
    """
    k = int(np.clip(errors.size // 8, 1, 10))
    best, top = best_cells(errors, cap, 1), best_cells(errors, cap, k)
    found = []
    for axis, (name, values, labels) in enumerate(axes):
        if len(values) < 2:
            continue
        ends: tuple[tuple[Edge, int], ...] = (("lowest", int(values.argmin())), ("highest", int(values.argmax())))
        for edge, index in ends:
            holds_best = bool(best.take(index, axis).any())
            held = int(top.take(index, axis).sum())
            if not (holds_best or held >= 3):
                continue
            add = beyond(labels, (multiples or {}).get(name, ()), values, name, edge)
            word = HYPERPARAMETERS.get(name, name)
            what = "the best cell lies" if holds_best else f"{held} of the {int(top.sum())} best cells lie"
            fallback = f"try a small positive {word}" if values[index] == 0 else f"try {a(word)} beyond it"
            advice = f"add {word} {', '.join(add)}" if add else fallback
            where = f"at {word} 0" if values[index] == 0 else f"on the {edge} {word} ({labels[index]})"
            found.append(Boundary(name, edge, labels[index], add, f"{what} {where}", advice))
    return tuple(found)
