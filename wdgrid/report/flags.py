"""Finds the cells whose training went wrong with a finite error, and describes them.

The divergence classes are those of the table; `wdgrid.engine.divergence` defines them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wdgrid.optim.variants import VARIANTS, Family
from wdgrid.study.cells import Divergence

# Classes with a finite error, the worst first. Non-finite cells are marked as diverged.
FLAGS: tuple[Divergence, ...] = ("late blow-up", "stuck at chance", "spike")
DID = {"late blow-up": "blew up late", "stuck at chance": "stuck at chance", "spike": "spiked"}
MEANING = {
    "late blow-up": "a tiny training loss grew a hundredfold, or the training loss rose and was still up at the end",
    "stuck at chance": "from that step to the end, loss and error were no better than guessing",
    "spike": "the training loss rose far above its earlier level, and came back",
}


@dataclass(frozen=True)
class Flag:
    """One class on a panel's R × C cells: how many seeds have it, and its earliest step (NaN if none has)."""

    seeds: np.ndarray
    step: np.ndarray


Flags = Mapping[str, Flag]


def flags_of(has: Mapping[Divergence, np.ndarray], step: np.ndarray) -> Flags:
    """The classes that occur. `has` marks the trials [R, C, S] of each class, `step` [R, C, S] is when it began."""
    found = {}
    for kind, these in has.items():
        if these.any():
            first = np.where(these, step, np.inf).min(-1)
            found[kind] = Flag(these.sum(-1), np.where(np.isfinite(first), first, np.nan))
    return found


def worst(flags: Flags, diverged: np.ndarray) -> dict[str, np.ndarray]:
    """The cells marked with each class, as masks R × C. A cell has one mark, that of its worst seed."""
    taken, marked = diverged, {}
    for kind, flag in flags.items():
        marked[kind] = (flag.seeds > 0) & ~taken
        taken = taken | marked[kind]
    return marked


def counts(flags: Flags) -> dict[str, dict[str, int]]:
    """For each class, the number of cells that have it with any seed, and the earliest step."""
    return {
        kind: {"cells": int((flag.seeds > 0).sum()), "first_step": int(np.nanmin(flag.step))}
        for kind, flag in flags.items()
    }


def sentence(flags: Flags, optimizer: str) -> str | None:
    """A sentence on what went wrong in a panel and what helps; None if nothing did."""
    parts = []
    for kind, found in counts(flags).items():
        n, step = found["cells"], found["first_step"]
        words = f"{n} cell{'s' * (n > 1)} {DID[kind]}, {'the first ' if n > 1 else ''}"
        words += f"from step {step} on" if kind == "stuck at chance" else f"at step {step}"
        if kind == "late blow-up":
            also = "a larger ε or " if VARIANTS[optimizer].family is Family.ADAM else ""
            words += f"; {also}a smaller learning rate may help"
        parts.append(words)
    return ". ".join(parts) or None


def caption_words(all_flags: list[Flags]) -> list[str]:
    """For a caption: the number of cells in all panels with each class."""
    totals: dict[str, int] = {}
    for flags in all_flags:
        for kind, found in counts(flags).items():
            totals[kind] = totals.get(kind, 0) + found["cells"]
    return [f"{totals[kind]} {DID[kind]}" for kind in FLAGS if kind in totals]


def as_lists(flags: Flags, numbers: Callable[[np.ndarray], Any]) -> dict[str, dict[str, Any]]:
    """The flags for JSON, by class."""
    return {kind: {"seeds": flag.seeds.tolist(), "step": numbers(flag.step)} for kind, flag in flags.items()}
