"""Phrases each panel's results: the answer, the best cell in PyTorch's and other terms, best axes, what went wrong."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from wdgrid.analysis.verdict import answer_of
from wdgrid.analysis.words import multipliers, percent, seeds_words
from wdgrid.optim.conversion import convert_cell
from wdgrid.optim.schedule import normalization, periods
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.flags import counts, sentence

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability
    from wdgrid.report.grids import Grid
    from wdgrid.study import Study

Finding = dict[str, Any]
SHORT = {"weight_decay": "decay", "eps": "ε", "beta1": "β1", "beta2": "β2"}
LIBRARIES = ("torch", "timm", "composer", "optax", "keras", "pytorch_optimizer")


def findings(
    study: "Study", numbers: "Mapping[str, Separability]", drawn: "Sequence[Grid]", environment: Mapping[str, Any]
) -> dict[str, Finding]:
    """Findings by panel; each is None if there is none.

    `best_of`: over which seeds the best cell's error is the mean. `place`: its hyperparameters in numbers; `multiples`
    adds their multiples. `answer`: a sentence with place, error and verdict. `torch`: a line for PyTorch, and
    `torch_warning` why training is not exactly the same. `best_axes`: axes on which the panel is separable.
    `conversion`: the best cell in the terms of the counterpart in another library (decoupled variants only).
    `weight_decay_norm` and `tau_epochs`: the best cell's, see `decay_units`. `divergence`: a sentence on training that
    went wrong with a finite error, which `divergences` counts by class. `environment` is the stored environment.
    """
    from wdgrid.analysis.best_axes import best_axes

    flags = {grid.panel: grid.flags for grid in drawn}
    grids = {grid.panel: grid for grid in drawn}
    found = {}
    for name, panel in numbers.items():
        optimizer = study.panel_names()[name].optimizer
        axes = best_axes(panel, optimizer)
        normalized, tau = decay_units(study, name, panel, environment)
        of, place = best_of(grids[name]), _place(study, name, panel)
        torch, torch_warning = _torch(study, name, panel, environment)
        found[name] = {
            "best_of": of,
            "place": place,
            "multiples": _place(study, name, panel, multiples=True),
            "answer": place and _answer(grids[name].title, panel, place, of or ""),
            "torch": torch,
            "torch_warning": torch_warning,
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


def best_of(grid: "Grid") -> str | None:
    """`one seed` or `mean of 3 seeds`: of what the error of a panel's best cell is. None if there is no such cell."""
    if not grid.best:
        return None
    return seeds_words(int(grid.seeds_done[grid.best[0]]))


def _place(study: "Study", name: str, found: "Separability", multiples: bool = False) -> str | None:
    """`lr 0.025, decay 0.001`, or `lr 0.025 (1/4), decay 0.001 (1/16)`: a panel's best cell."""
    if found.best_row is None or found.best_col is None:
        return None
    normalized = study.normalized(study.panel_names()[name])
    words = SHORT | ({"weight_decay": "λ_norm"} if normalized else {})
    axes = (study.row, found.best_row, found.best_row_label), (study.column, found.best_col, found.best_col_label)
    return ", ".join(
        f"{words.get(axis, axis)} {value:.4g}" + (f" ({label})" if multiples else "") for axis, value, label in axes
    )


def _answer(title: str, found: "Separability", place: str, of: str) -> str:
    """`AdamW: lr 0.025, decay 0.001: 1.41 % (one seed). Tune them separately: it costs 0.05 points.`"""
    error = found.best_error if found.best_test_error is None else found.best_test_error
    words = answer_of(found.verdict, found.cost)
    return f"{title}: {place}: {percent(error)} ({of}). {words[0].upper()}{words[1:]}."


def _torch(
    study: "Study", name: str, found: "Separability", environment: Mapping[str, Any]
) -> tuple[str | None, str | None]:
    """The best cell as a line for PyTorch, and why training is not exactly the same; None if there is none."""
    if (values := _raw_values(study, name, found, environment)) is None:
        return None, None
    panel = study.panel_names()[name]
    same = convert_cell(values, panel.optimizer, "torch", panel.schedule.kind)
    warnings = [w for w in (same.warning, groups_warning(study)) if w]
    return same.line or None, "; ".join(warnings) or None


def _raw_values(
    study: "Study", name: str, found: "Separability", environment: Mapping[str, Any]
) -> dict[str, float] | None:
    """The best cell's hyperparameters with the weight decay λ itself, not λ_norm; None if they are not known."""
    panel, values = study.panel_names()[name], _best_values(study, name, found)
    if values is None or not study.normalized(panel):
        return values
    images = environment.get("train_images") or study.task.train_size
    if images is None:
        return None
    batch = min(study.task.batch_size, images)
    factor = normalization(panel.schedule, study.panel_epochs(panel), 1, batch, images)[0]
    return {**values, "weight_decay": values["weight_decay"] * factor}


def _conversion(study: "Study", name: str, found: "Separability") -> str | None:
    panel = study.panel_names()[name]
    target, values = VARIANTS[panel.optimizer].counterpart, _best_values(study, name, found)
    if target is None or values is None or study.normalized(panel):
        return None
    same = convert_cell(values, panel.optimizer, target, panel.schedule.kind)
    warnings = [w for w in (same.warning, groups_warning(study)) if w]
    return f"{target}: {same.line}" + (f" ({'; '.join(warnings)})" if warnings else "")


def elsewhere(study: "Study", name: str, found: "Separability") -> Iterator[tuple[str, str, str]]:
    """A panel's best cell in other libraries' terms: library, line to paste, warning. Nothing if λ is normalized."""
    panel, values = study.panel_names()[name], _best_values(study, name, found)
    if values is None or study.normalized(panel):
        return
    for library in LIBRARIES:
        same = convert_cell(values, panel.optimizer, library, panel.schedule.kind)
        if same.line:
            yield library, same.line, "; ".join(w for w in (same.warning, groups_warning(study)) if w)


def groups_warning(study: "Study") -> str:
    """A warning that a line to paste ignores the decay multipliers; empty if there are none."""
    words = multipliers(study.task.decay_multipliers)
    return words and f"for parameter groups multiply the decay: {words}"


def finding_lines(
    numbers: "Mapping[str, Separability]", found: Mapping[str, Finding], width: int | None = None
) -> list[str]:
    """The findings as lines of text, each at most `width` characters if that is given.

    For each panel its answer and the reason, then what belongs to it, indented.
    """
    lines: list[str] = []
    for name, words in found.items():
        lines += wrapped(f"{name}: {numbers[name].sentence}", width)
        if words["best_axes"]:
            lines += wrapped(f"  best axes: {words['best_axes']}", width)
        if words["torch"]:
            lines += wrapped(f"  {words['torch']}", width)
        if words["torch"] and words["torch_warning"]:
            lines += wrapped(f"  # {words['torch_warning']}", width)
        if words["divergence"]:
            lines += wrapped(f"  {words['divergence']}", width)
    return lines


def wrapped(line: str, width: int | None) -> list[str]:
    """A line in as many as it needs, all but the first indented by four; a command on lines of its own stays whole."""
    text, *commands = line.split("\n")
    if width is None:
        return [line]
    lines = wrap(text, max(width, 40), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [*lines, *commands]
