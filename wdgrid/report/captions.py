"""Phrases the texts around the heatmaps: panel titles, captions, which images pick the cells, what a search cost."""

from typing import TYPE_CHECKING

import pandas as pd

from wdgrid.analysis.words import multipliers, percent
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.flags import caption_words
from wdgrid.study import Study

if TYPE_CHECKING:
    from wdgrid.report.grids import Grid

OPTIMISTIC = (
    "The best cells are picked on the test images, so the best test error is optimistic (see task.validation_size)."
)


def error_words(study: Study) -> str:
    """The name of the error that is drawn and compared: that on the images by which cells are picked."""
    return "validation error" if study.task.validation_size else "test error"


def selection_words(study: Study) -> str:
    """A sentence on which images the best cells are picked, and what that means for their errors."""
    if n := study.task.validation_size:
        return f"The best cells are picked on {n} validation images; their test error is reported."
    return OPTIMISTIC


def _selection_line(study: Study, all_grids: "list[Grid]") -> str:
    """The same for a caption, with the test error of every panel's best cell."""
    found = [f"{g.title} {percent(g.test_error[g.best[0]])}" for g in all_grids if g.test_error is not None and g.best]
    words = selection_words(study)
    return f"{words} Test error of the best cells: {', '.join(found)}" if found else words


def search_words(study: Study, table: pd.DataFrame, coarse: Study, coarse_table: pd.DataFrame) -> str:
    """A sentence on the cost of a search, compared with the whole grid, and on what it cannot show."""
    cells = study.cells()
    whole = sum(len(cells[name]) * study.panel_epochs(panel) for name, panel in study.panel_names().items())
    done, seen = (t.loc[t["state"] == "complete"] for t in (table, coarse_table))
    n_all, share = len(table), 100 * float(done["epochs"].sum() + seen["epochs"].sum()) / whole
    epochs = ", ".join(map(str, sorted({coarse.panel_epochs(p) for p in coarse.panels})))
    words = f"Coarse pass: {len(seen)} cells at {epochs} epochs, every second value of each axis"
    if len(done) == n_all:
        return f"{words}. All {n_all} cells were then trained in full."
    return (
        f"{words}. Then {len(done)} of {n_all} cells were trained in full, close to the best ones. In all, this is "
        f"{share:.1f} % of the whole grid's cells × epochs. The best cells are the best of these; the others are not "
        "trained, and separability needs the whole grid."
    )


def panel_title(study: Study, name: str, whole: Study | None = None) -> str:
    """A panel's title: its name if the study gives one, else the optimizer, and schedule and budget if panels differ.

    A coarse pass names all its panels; for it, the names that the `whole` study gives are used.
    """
    panel = study.panel_names()[name]
    if (own := (whole or study).panel_names().get(name, panel).name) is not None:
        return own
    words = [VARIANTS[panel.optimizer].title]
    if len({p.schedule.kind for p in study.panels}) > 1:
        words.append(panel.schedule.kind)
    if len({study.panel_epochs(p) for p in study.panels}) > 1:
        epochs = study.panel_epochs(panel)
        words.append(f"{epochs} epoch{'s' * (epochs > 1)}")
    return ", ".join(words)


def caption_lines(study: Study, name: str, all_grids: "list[Grid]", device: str) -> list[str]:
    """The caption: forms of decay, number of cells, seeds, budget, data, device."""
    forms: dict[str, list[str]] = {}
    for variant in (VARIANTS[name] for name in dict.fromkeys(panel.optimizer for panel in study.panels)):
        forms.setdefault(variant.decay.value, []).append(variant.title)
    lines = ["Weight decay in one step:  " + ";  ".join(f"{', '.join(t)} – {f}" for f, t in forms.items())]
    norm = [study.normalized(panel) for panel in study.panels]
    if any(norm):
        where = "" if all(norm) else " where the axis says so"
        lines.append(f"Decay is normalized{where}: λ = λ_norm √(b / (B T)), b batch size, B training images, T epochs")
    if words := multipliers(study.task.decay_multipliers):
        lines.append(f"Decay multipliers by parameter name (the last pattern that matches counts):  {words}")
    cells = sum(g.error.size for g in all_grids)
    diverged = sum(int(g.diverged.sum()) for g in all_grids)
    missing = sum(int(g.missing.sum()) for g in all_grids)
    epochs = sorted({study.panel_epochs(p) for p in study.panels})
    seeds = f"seed {study.seeds[0]}" if len(study.seeds) == 1 else f"mean of {len(study.seeds)} seeds"
    schedules = list(dict.fromkeys(p.schedule.kind for p in study.panels))
    facts = [
        f"{name}: {cells} cells",
        *([f"{diverged} diverged"] if diverged else []),
        *caption_words([g.flags for g in all_grids]),
        *([f"{missing} not trained"] if missing else []),
        seeds,
        f"{', '.join(map(str, epochs))} epochs",
        f"schedule {', '.join(schedules)}",
        f"{study.task.dataset}, {study.task.model}, batch {study.task.batch_size}",
        *([f"device {device}"] if device else []),
    ]
    return [*lines, " · ".join(facts), _selection_line(study, all_grids)]
