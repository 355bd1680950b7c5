"""Derives the coarse pass of a study: every second value of each axis, a quarter of the epochs, the same λ_norm.

The coarse pass is a study of its own, so that it is planned, trained, resumed and drawn like any other. `full_places`
is the number of grid places that a search may train in full after it.
"""

import math
from fractions import Fraction
from typing import Any

from wdgrid.study.model import Study
from wdgrid.study.sections import Panel, Restarts

SUFFIX = "@coarse"
PART = 4  # a coarse cell gets 1/4 of the epochs, and the whole search 1/4 of the grid's cells × epochs


def coarse_name(name: str) -> str:
    """Name of a study's coarse pass in the storage."""
    return name + SUFFIX


def coarse_study(study: Study) -> Study:
    """The coarse pass: panels of the same names, every second axis value from the smallest, a quarter of the epochs.

    Restart periods are shortened like the budget T. A raw decay is multiplied by √(T/T_coarse), so that λ_norm in
    λ = λ_norm √(b/(B T)) stays the same (appendix B.1 of the paper). A normalized decay is not changed.
    """
    axes = {
        name: {"values": [value for value in axis.values if value in sorted(axis.values)[::2]], "unit": axis.unit}
        for name, axis in study.axes.items()
    }
    panels = [_coarse_panel(study, name, panel) for name, panel in study.panel_names().items()]
    title = f"{study.title}: coarse pass" if study.title else ""
    return Study.model_validate({**study.model_dump(), "title": title, "axes": axes, "panels": panels})


def full_places(study: Study) -> dict[str, int]:
    """How many places (row, column) of each panel may be trained in full, with every seed, after its coarse pass.

    Together with the coarse pass they cost at most a quarter of the panel's cells × epochs. 0 or less if the grid is
    too small for that.
    """
    coarse = coarse_study(study)
    cells, coarse_cells = (math.prod(len(axis.values) for axis in s.axes.values()) for s in (study, coarse))
    return {
        name: math.floor(Fraction(cells, PART) - coarse_cells * Fraction(coarse.panel_epochs(c), study.panel_epochs(p)))
        for (name, p), c in zip(study.panel_names().items(), coarse.panels, strict=True)
    }


def _shorter(epochs: int) -> int:
    return max(1, (epochs + PART // 2) // PART)


def _coarse_panel(study: Study, name: str, panel: Panel) -> dict[str, Any]:
    """A panel of the coarse pass, ready for validation."""
    epochs = study.panel_epochs(panel)
    changed: dict[str, Any] = {**panel.model_dump(), "name": name, "epochs": _shorter(epochs)}
    growth = math.sqrt(epochs / changed["epochs"])
    if isinstance(panel.schedule, Restarts):
        changed["schedule"]["period"] = _shorter(panel.schedule.period)
        growth = math.sqrt(panel.schedule.period / changed["schedule"]["period"])
    if not study.normalized(panel):
        if "weight_decay" in study.axes:
            changed["weight_decay_unit"] = study.unit(panel, "weight_decay") * growth
        elif panel.weight_decay is not None:
            changed["weight_decay"] = panel.weight_decay * growth
    return changed
