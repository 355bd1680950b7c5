"""Computes the sizes of a search's rounds, and its share of the whole grid's time."""

import math

from wdgrid.runner.eta import even_chunk
from wdgrid.study import Study
from wdgrid.study.coarse import coarse_study, full_places

ROUNDS = 3


def search_share(study: Study, chunk: int, *, one_by_one: bool) -> float | None:
    """A search's (`--coarse`) share of the whole grid's time; None if the grid is too small for a search."""
    if any(places < 1 for places in full_places(study).values()):
        return None
    return time_share(study, 1 if one_by_one else chunk)


def time_share(study: Study, chunk: int) -> float:
    """The search's share of the whole grid's time if `chunk` cells train together and a smaller chunk takes as long."""
    coarse, places = coarse_study(study), full_places(study)
    cells, coarse_cells = (math.prod(len(axis.values) for axis in s.axes.values()) for s in (study, coarse))
    size = even_chunk(cells, chunk)
    taken = whole = 0
    for (name, panel), small in zip(study.panel_names().items(), coarse.panels, strict=True):
        epochs = study.panel_epochs(panel)
        taken += _padded(coarse_cells, even_chunk(coarse_cells, chunk)) * coarse.panel_epochs(small)
        taken += sum(_padded(n, size) for n in round_sizes(places[name], chunk)) * epochs
        whole += _padded(cells, size) * epochs
    return taken / whole


def _padded(cells: int, size: int) -> int:
    return math.ceil(cells / size) * size


def round_sizes(places: int, chunk: int) -> list[int]:
    """Sizes of a panel's rounds: first a third of its places; then as many, or as many as a chunk holds."""
    third = math.ceil(places / ROUNDS)
    sizes = [third]
    while sum(sizes) < places:
        sizes.append(min(max(third, chunk), places - sum(sizes)))
    return sizes
