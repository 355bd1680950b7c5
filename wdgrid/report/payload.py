"""Makes the JSON that the page's scripts (`templates/*.js`) read: panels, cells, trials and learning curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from wdgrid.analysis.valley import Valley
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.flags import FLAGS, as_lists
from wdgrid.report.grids import Grid, error_range, error_words, panel_columns, thinned, valley_places
from wdgrid.study import Study

CURVES = ("test_error", "validation_error", "test_loss", "train_loss")
MOST_POINTS = 400_000  # per kind of curve; a larger study shows fewer epochs, so that its page stays small enough


def page_data(
    study: Study,
    panels: list[Grid],
    table: pd.DataFrame,
    verdicts: Mapping[str, str],
    steps_per_epoch: int | None = None,
    cap: float | None = None,
    lines: Mapping[str, Valley] | None = None,
) -> dict[str, Any]:
    """All data but the curves: axes, errors, circles and trials by panel, and the common colour scale.

    `verdicts` are the texts below the panels' titles. `steps_per_epoch` is that of the training; if it is None, it is
    computed from the study, if possible.
    """
    images = study.task.train_size
    steps = steps_per_epoch or (images and max(1, images // study.task.batch_size))
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps["viridis_r"]
    return {
        "range": list(error_range(study, panels, cap)),
        "shades": [[k / 16, to_hex(shades(k / 16))] for k in range(17)],
        "row": study.row,
        "column": study.column,
        "error_words": error_words(study),
        "steps_per_epoch": steps,
        "seeds": len(study.seeds),
        "flags": [kind for kind in FLAGS if any(kind in grid.flags for grid in panels)],
        "columns": [panel_columns(shown) for shown in range(len(panels) + 1)],
        "panels": [
            _panel(study, grid, table.loc[table["panel"] == grid.panel], verdicts, lines or {}) for grid in panels
        ],
    }


def _panel(
    study: Study, grid: Grid, cells: pd.DataFrame, verdicts: Mapping[str, str], lines: Mapping[str, Valley]
) -> dict[str, Any]:
    panel = study.panel_names()[grid.panel]
    kind, normalized = panel.schedule.model_dump_json(), study.normalized(panel)
    return {
        "name": grid.panel,
        "title": grid.title,
        "decay": VARIANTS[panel.optimizer].decay.name.lower(),
        "epochs": study.panel_epochs(panel),
        "normalized": normalized,
        "family": f"{panel.optimizer} {kind} {normalized}",
        "decay_form": grid.decay_form,
        "verdict": verdicts.get(grid.panel, ""),
        "row_title": grid.row_title,
        "col_title": grid.col_title,
        "row_labels": grid.row_labels,
        "col_labels": grid.col_labels,
        "row_values": grid.row_values,
        "col_values": grid.col_values,
        "row_ticks": thinned(grid.row_labels, 16),
        "col_ticks": thinned(grid.col_labels, 16),
        "error": numbers(grid.error),
        "test_error": None if grid.test_error is None else numbers(grid.test_error),
        "spread": numbers(grid.spread),
        "loss": numbers(grid.loss),
        "done": grid.seeds_done.tolist(),
        "diverged": grid.seeds_diverged.tolist(),
        "diverged_at": numbers(grid.diverged_at),
        "flags": as_lists(grid.flags, numbers),
        "best": grid.best,
        "valley": [place.round(3).tolist() for place in valley_places(grid, lines[grid.panel])]
        if grid.panel in lines
        else None,
        "trials": _trials(grid, cells),
    }


def _trials(grid: Grid, cells: pd.DataFrame) -> list[list[list[list[float | None]]]]:
    """For each cell, its complete trials as [seed, number, error]; the error of a diverged one is None."""
    picked_on = "test_error" if grid.test_error is None else "validation_error"
    found: list[list[list[list[float | None]]]] = [[[] for _ in grid.col_labels] for _ in grid.row_labels]
    row_at = {text: i for i, text in enumerate(grid.row_labels)}
    col_at = {text: j for j, text in enumerate(grid.col_labels)}
    done = cells.loc[(cells["state"] == "complete") & cells[picked_on].notna()].sort_values("seed")
    columns = (done[name].tolist() for name in ("row", "col", "seed", "number", picked_on))
    for row, col, seed, number, error in zip(*columns, strict=True):
        if row in row_at and col in col_at:
            shown = round(error, 4) if np.isfinite(error) else None
            found[row_at[row]][col_at[col]].append([int(seed), int(number), shown])
    return found


def curve_data(curves: pd.DataFrame) -> dict[str, Any]:
    """Learning curves: for each panel the epochs shown, for each trial one list per kind, shorter if it diverged."""
    step = -(-len(curves) // MOST_POINTS)
    result: dict[str, Any] = {}
    for panel, block in curves.groupby("panel", sort=False):
        epochs = np.unique(block["epoch"])
        kept = np.unique(np.append(epochs[::step], epochs[-1:]))
        block = block.loc[block["epoch"].isin(kept.tolist())].sort_values(["number", "epoch"], kind="stable")
        at = np.searchsorted(kept, block["epoch"])
        trial, first = np.unique(block["number"], return_index=True)
        ends = [*first[1:], len(block)]
        values = {kind: block[kind].to_numpy(float) for kind in CURVES if kind in block and block[kind].notna().any()}
        drawn = {}
        for number, start, end in zip(trial.tolist(), first.tolist(), ends, strict=True):
            drawn[number] = [_aligned(values[kind][start:end], at[start:end]) for kind in values]
        result[str(panel)] = {"epochs": kept.tolist(), "kinds": list(values), "trials": drawn}
    return result


def _aligned(values: np.ndarray, at: np.ndarray) -> list[float | None]:
    """Values at their positions among the epochs shown, None between them."""
    line = np.full(int(at[-1]) + 1, np.nan)
    line[at] = values
    return numbers(line)


def numbers(values: np.ndarray) -> Any:
    """Nested lists with five significant digits; None for numbers that are not finite, which JSON does not have."""
    finite = np.isfinite(values)
    digits = 4 - np.floor(np.log10(np.abs(np.where(finite & (values != 0), values, 1.0))))
    scale = 10.0**digits
    rounded = np.round(np.where(finite, values, 0.0) * scale) / scale
    plain = rounded.astype(object)
    plain[~finite] = None
    return plain.tolist()
