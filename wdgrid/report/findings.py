"""Phrases each panel's results: best axes, the best cell in another library and in other units, what went wrong."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from wdgrid.analysis.words import multipliers
from wdgrid.optim.conversion import convert_cell
from wdgrid.optim.schedule import periods
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.flags import counts, sentence

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability
    from wdgrid.report.grids import Grid
    from wdgrid.study import Study

Finding = dict[str, Any]


def findings(
    study: "Study", numbers: "Mapping[str, Separability]", drawn: "Sequence[Grid]", environment: Mapping[str, Any]
) -> dict[str, Finding]:
    """Findings by panel; each is None if there is none.

    `best_axes`: axes on which the panel is separable. `conversion`: the best cell in another library's terms (decoupled
    variants only). `weight_decay_norm` and `tau_epochs`: the best cell's, see `decay_units`. `divergence`: a sentence
    on training that went wrong with a finite error, which `divergences` counts by class. `environment` is the stored
    environment of the study.
    """
    from wdgrid.analysis.best_axes import best_axes

    flags = {grid.panel: grid.flags for grid in drawn}
    found = {}
    for name, panel in numbers.items():
        optimizer = study.panel_names()[name].optimizer
        axes = best_axes(panel, optimizer)
        normalized, tau = decay_units(study, name, panel, environment)
        found[name] = {
            "best_axes": axes and axes.sentence,
            "conversion": _conversion(study, name, panel),
            "weight_decay_norm": normalized,
            "tau_epochs": tau,
            "divergence": sentence(flags[name], optimizer),
            "divergences": counts(flags[name]),
        }
    return found


def _best_values(study: "Study", name: str, found: "Separability") -> dict[str, float] | None:
    """All hyperparameters of a panel's best cell, in the panel's parametrisation; None if there is no best cell."""
    if found.best_row is None or found.best_col is None:
        return None
    fixed = study.hyperparameters(study.panel_names()[name])
    return {**fixed, study.row: found.best_row, study.column: found.best_col}


def decay_units(
    study: "Study", name: str, found: "Separability", environment: Mapping[str, Any]
) -> tuple[float | None, float | None]:
    """λ_norm and τ in epochs of a panel's best cell, as `wdgrid convert` computes them; τ is ∞ at λ = 0.

    None if one is not defined: τ of Adam with L2, and λ_norm if restart periods have several lengths. The numbers of
    images and steps per epoch are those of `environment`, else those of the study, if it has them.
    """
    panel, task = study.panel_names()[name], study.task
    images = environment.get("train_images") or task.train_size
    if (values := _best_values(study, name, found)) is None or images is None:
        return None, None
    batch = min(task.batch_size, images)
    lengths = periods(panel.schedule, study.panel_epochs(panel))
    epochs = lengths[0] if len(set(lengths)) == 1 else None
    raw = values["weight_decay"]
    if study.normalized(panel):
        if epochs is None:
            return None, None
        raw *= math.sqrt(batch / (images * epochs))
    in_units = partial(convert_cell, {**values, "weight_decay": raw}, panel.optimizer, schedule=panel.schedule.kind)
    steps = environment.get("steps_per_epoch") or images // batch
    normalized = in_units(to="normalised", batch=batch, train_size=images, epochs=epochs).value if epochs else None
    return normalized, in_units(to="tau", steps_per_epoch=steps).value


def _conversion(study: "Study", name: str, found: "Separability") -> str | None:
    panel = study.panel_names()[name]
    target, values = VARIANTS[panel.optimizer].counterpart, _best_values(study, name, found)
    if target is None or values is None or study.normalized(panel):
        return None
    same = convert_cell(values, panel.optimizer, target, panel.schedule.kind)
    warnings = [w for w in (same.warning, groups_warning(study)) if w]
    return f"{target}: {same.line}" + (f" ({'; '.join(warnings)})" if warnings else "")


def groups_warning(study: "Study") -> str:
    """A warning that a line to paste ignores the decay multipliers; empty if there are none."""
    words = multipliers(study.task.decay_multipliers)
    return words and f"for parameter groups multiply the decay: {words}"


def finding_lines(numbers: "Mapping[str, Separability]", found: Mapping[str, Finding]) -> list[str]:
    """The findings as lines of text for a terminal."""
    lines = []
    for name, words in found.items():
        lines.append(f"{name}: {numbers[name].sentence}")
        if words["best_axes"]:
            lines.append(f"  best axes: {words['best_axes']}")
        if words["conversion"]:
            lines.append(f"  best cell in {words['conversion']}")
        if words["divergence"]:
            lines.append(f"  {words['divergence']}")
    return lines
