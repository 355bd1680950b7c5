"""Searches with a quarter of a grid's budget: a coarse pass, then rounds of the most promising cells.

All cells trained in full are cells of the whole grid, so a later sweep trains only the others. Each choice is stored
before its cells are trained, so a search that was killed continues with it.
"""

# pandas has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from wdgrid.analysis.promising import promising
from wdgrid.analysis.surface import mean_over_seeds, surfaces
from wdgrid.errors import UsersFaultError
from wdgrid.runner.rounds import round_sizes
from wdgrid.store import Store
from wdgrid.study import Study
from wdgrid.study.coarse import coarse_name, coarse_study, full_places

APART = 2  # the first round's cells are two steps apart, like those of the coarse pass
CHOSEN = "searched"  # the study's attribute that holds the chosen cells, by panel
Places = dict[str, list[tuple[str, str]]]  # by panel, as multiples in axis order


def coarse_pass(name: str, study: Study) -> Study:
    """The study's coarse pass. Raises UsersFaultError if a quarter of the grid leaves no cell to train in full."""
    short = [panel for panel, n in full_places(study).items() if n < 1]
    if short:
        shape = " × ".join(str(len(axis.values)) for axis in study.axes.values())
        epochs = study.panel_epochs(study.panel_names()[short[0]])
        raise UsersFaultError(
            f"{name}: --coarse: panel {short[0]}: a quarter of {shape} cells at {epochs} epochs leaves, after the "
            "coarse pass, no cell to train in full; leave --coarse out"
        )
    return coarse_study(study)


def rounds(store: Store, name: str, study: Study) -> Iterator[Places]:
    """The cells to train in full, in rounds, until the budget is spent. Each round includes those of earlier ones.

    The coarse pass must be finished. Train each round before asking for the next. If some of its cells are then not
    finished, because another process holds them, there is no further round.
    """
    allowed = full_places(study)
    while True:
        table = store.table(name)
        chosen = chosen_places(store, name)
        if not _open(table, chosen):
            fresh = _choose(store, name, study, table, chosen, allowed)
            if not any(fresh.values()):
                return
            chosen = {panel: [*chosen.get(panel, []), *fresh[panel]] for panel in fresh}
            store.set_attrs(name, {CHOSEN: chosen})
        yield chosen
        if _open(store.table(name), chosen):
            return


def chosen_places(store: Store, name: str) -> Places:
    """The cells chosen by the rounds so far."""
    kept = store.attrs(name).get(CHOSEN, {})
    return {panel: [(row, col) for row, col in places] for panel, places in kept.items()}


def _open(table: pd.DataFrame, chosen: Places) -> bool:
    """Whether a chosen cell is waiting or running."""
    places = {(panel, *place) for panel, found in chosen.items() for place in found}
    unfinished = table.loc[table["state"].isin(["waiting", "running"]), ["panel", "row", "col"]]
    return not places.isdisjoint(unfinished.itertuples(index=False, name=None))


def _choose(
    store: Store, name: str, study: Study, table: pd.DataFrame, chosen: Places, allowed: dict[str, int]
) -> Places:
    """The next round's places: first a third of the budget, spread out; then as many, or a chunk, near the best cells.

    All cells trained in full count towards the budget, also those of other sweeps.
    """
    attrs = store.attrs(coarse_name(name))
    chance = 100 * (1 - 1 / attrs.get("environment", {}).get("classes", 10))
    full = surfaces(table, study.row, study.column)
    coarse = surfaces(store.table(coarse_name(name)), study.row, study.column)
    trained = table.loc[table["state"] == "complete"].groupby("panel").size()
    fresh: Places = {}
    for panel, surface in full.items():
        left = allowed[panel] - max(len(chosen.get(panel, [])), math.ceil(trained.get(panel, 0) / len(study.seeds)))
        before = chosen.get(panel, [])  # a cell that failed for good has no result and is not chosen again
        sizes = round_sizes(allowed[panel], attrs.get("chunk", 1))
        n = min(left, sizes[1 if before and len(sizes) > 1 else 0])
        printed = surface.as_printed()
        known = mean_over_seeds(printed.errors, np.inf)
        short = coarse[panel]
        level = short.on_grid(mean_over_seeds(short.errors, np.inf), printed.row_labels, printed.col_labels)
        picked = promising(level, known, max(n, 0) + len(before), chance, apart=1 if before else APART)
        named = [(printed.row_labels[i], printed.col_labels[j]) for i, j in picked]
        fresh[panel] = [place for place in named if place not in before][: max(n, 0)]
    return fresh
