"""What a panel's numbers mean, in sentences: the verdict, the axes on which it is separable, its best cell elsewhere,
and how training went wrong.

Knows words. What they stand on is in `wdgrid.analysis`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wdgrid.analysis.conversion import convert
from wdgrid.report.flags import counts, sentence

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability
    from wdgrid.report.grids import Grid
    from wdgrid.study import Study

Finding = dict[str, Any]
# Where the other half of the world would look: the libraries' line for the paper's decay, and the other way round.
ELSEWHERE = {"sgdw": "timm", "adamw": "torch", "sgdw-torch": "paper", "adamw-torch": "paper"}


def findings(study: "Study", numbers: "Mapping[str, Separability]", drawn: "Sequence[Grid]") -> list[Finding]:
    """Per panel `best_axes`, `conversion` (of the best cell, decoupled variants only) and `divergence` (what training
    went wrong with a finite error); None where there is none. `divergences` counts the latter by class.
    """
    from wdgrid.analysis.best_axes import best_axes

    flags = {grid.panel: grid.flags for grid in drawn}
    found = []
    for name, panel in numbers.items():
        optimizer = study.panel_names()[name].optimizer
        axes = best_axes(panel, optimizer)
        found.append(
            {
                "best_axes": axes and axes.sentence,
                "conversion": _conversion(study, name, panel),
                "divergence": sentence(flags[name], optimizer),
                "divergences": counts(flags[name]),
            }
        )
    return found


def _conversion(study: "Study", name: str, found: "Separability") -> str | None:
    panel = study.panel_names()[name]
    target = ELSEWHERE.get(panel.optimizer)
    if target is None or study.normalized(panel) or found.best_row is None or found.best_col is None:
        return None
    values = study.hyperparameters(panel) | {study.row: found.best_row, study.column: found.best_col}
    same = convert(
        values["lr"],
        values["weight_decay"],
        panel.optimizer,
        target,
        schedule=panel.schedule.kind,
        momentum=values.get("momentum", 0.9),
        betas=(values.get("beta1", 0.9), values.get("beta2", 0.999)),
        eps=values.get("eps", 1e-8),
    )
    warnings = [w for w in (same.warning, groups_warning(study)) if w]
    return f"{target}: {same.line}" + (f" ({'; '.join(warnings)})" if warnings else "")


def multiplier_words(study: "Study") -> str:
    """What decay is multiplied by for some parameters; empty where all decay alike."""
    return ", ".join(f"{pattern} × {m:g}" for pattern, m in study.task.decay_multipliers.items())


def groups_warning(study: "Study") -> str:
    """What a line to paste leaves out where parameters do not decay alike."""
    words = multiplier_words(study)
    return words and f"for parameter groups multiply the decay: {words}"


def finding_lines(numbers: "Mapping[str, Separability]", found: Sequence[Finding]) -> list[str]:
    """The sentences for a terminal."""
    lines = []
    for (name, panel), words in zip(numbers.items(), found, strict=True):
        lines.append(f"{name}: {panel.sentence}")
        if words["best_axes"] and panel.verdict != "can't tell":  # a slope nobody can tell advises nobody
            lines.append(f"  best axes: {words['best_axes']}")
        if words["conversion"]:
            lines.append(f"  best cell in {words['conversion']}")
        if words["divergence"]:
            lines.append(f"  {words['divergence']}")
    return lines
