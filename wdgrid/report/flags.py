"""Cells whose training went wrong although a number came out: where, since which step, and in words.

Knows divergence classes as the table has them (what they are stands in `wdgrid.engine.divergence`). Knows nothing of
colours, marks or HTML.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wdgrid.optim.variants import VARIANTS, Family
from wdgrid.study.cells import Divergence

# Classes with a finite error, the worst first; cells that diverged are marked as such.
FLAGS: tuple[Divergence, ...] = ("late blow-up", "stuck at chance", "spike")
DID = {"late blow-up": "blew up late", "stuck at chance": "stuck at chance", "spike": "spiked"}
MEANING = {
    "late blow-up": "a tiny training loss grew a hundredfold, or a low one rose and had not come back at the end",
    "stuck at chance": "from that step to the end, loss and error were no better than guessing",
    "spike": "training loss rose far above what it had been, and came back",
}
Arrange = Callable[[pd.DataFrame, str, str, float], np.ndarray]


@dataclass(frozen=True)
class Flag:
    """One class on a panel's R × C cells: how many seeds have it, and its earliest step (NaN where none has)."""

    seeds: np.ndarray
    step: np.ndarray


Flags = Mapping[str, Flag]


def flags_of(cells: pd.DataFrame, arranged: Arrange) -> Flags:
    """The classes that occur among these trials; `arranged` makes an R × C array of a column."""
    found = {}
    for kind in FLAGS:
        these = cells.loc[cells["divergence"].isin([kind])]
        if len(these):
            seeds = arranged(these, "divergence_step", "size", 0).astype(int)
            found[kind] = Flag(seeds, arranged(these, "divergence_step", "min", np.nan))
    return found


def worst(flags: Flags, diverged: np.ndarray) -> dict[str, np.ndarray]:
    """Which cells each class marks, as masks R × C: a cell has one mark, that of its worst seed."""
    taken, marked = diverged, {}
    for kind, flag in flags.items():
        marked[kind] = (flag.seeds > 0) & ~taken
        taken = taken | marked[kind]
    return marked


def counts(flags: Flags) -> dict[str, dict[str, int]]:
    """For each class the cells that have it with any seed, and the earliest step."""
    return {
        kind: {"cells": int((flag.seeds > 0).sum()), "first_step": int(np.nanmin(flag.step))}
        for kind, flag in flags.items()
    }


def sentence(flags: Flags, optimizer: str) -> str | None:
    """What happened in a panel, and what helps against it; None where nothing did."""
    parts = []
    for kind, found in counts(flags).items():
        n, step = found["cells"], found["first_step"]
        words = f"{n} cell{'s' * (n > 1)} {DID[kind]}, {'the first ' if n > 1 else ''}"
        words += f"from step {step} on" if kind == "stuck at chance" else f"at step {step}"
        if kind == "late blow-up":
            words += f"; {'a larger ε or ' if VARIANTS[optimizer].family is Family.ADAM else ''}a smaller rate helps"
        parts.append(words)
    return ". ".join(parts) or None


def caption_words(all_flags: list[Flags]) -> list[str]:
    """For a caption: how many cells of all panels each class marks."""
    totals: dict[str, int] = {}
    for flags in all_flags:
        for kind, found in counts(flags).items():
            totals[kind] = totals.get(kind, 0) + found["cells"]
    return [f"{totals[kind]} {DID[kind]}" for kind in FLAGS if kind in totals]


def as_lists(flags: Flags, numbers: Callable[[np.ndarray], Any]) -> dict[str, dict[str, Any]]:
    """The same for JSON, by class."""
    return {kind: {"seeds": flag.seeds.tolist(), "step": numbers(flag.step)} for kind, flag in flags.items()}
