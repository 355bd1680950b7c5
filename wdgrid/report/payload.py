"""Makes the JSON that the page's scripts (`templates/*.js`) read: panels, cells, trials and learning curves.

`page_data` is one object:

- `measures`: what a map can show, the error by which cells are picked first; each with `key`, `words`, `unit`, `label`,
  and `range`, the ends of the colours;
- `row`, `column`: the axes' names; `seeds`: their number; `steps_per_epoch`: null if unknown; `shades`: the colours as
  [share, hex]; `flags`: the divergence classes that occur; `columns`: in how many columns to draw 0, 1, … panels;
- `panels`: each with texts (`name`, `title`, `answer`, `reason`, `verdict`, `decay_form`, `row_title`, `col_title`),
  axes (`row_labels`, `row_values`, `row_ticks`, and the same of `col`), and arrays [R][C], null where there is no
  number: `measures` by key, `spread`, `done` and `diverged` (numbers of seeds), `diverged_at`, `flags` by class.
  `best` lists the circled cells as [row, column], the best first. `valley` holds rows, columns and both edges of the
  fitted line, in cells. `trials` [R][C] lists [seed, number, error].

`curve_data` is a second object, by panel: `epochs`, `kinds`, and `trials`: by number, one list for each kind.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from wdgrid.analysis.valley import Valley
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.flags import FLAGS, as_lists
from wdgrid.report.grids import Grid, error_range, thinned, valley_places
from wdgrid.report.measures import MEASURES, limits_of, stored_measures
from wdgrid.report.views import MeasureName
from wdgrid.study import Study

CURVES = ("test_error", "validation_error", "test_loss", "train_loss")
MOST_POINTS = 400_000  # per kind of curve; a larger study shows fewer epochs, so that its page stays small enough


def page_data(
    study: Study,
    panels: list[Grid],
    table: pd.DataFrame,
    words: Mapping[str, Mapping[str, str]],
    steps_per_epoch: int | None = None,
    cap: float | None = None,
    lines: Mapping[str, Valley] | None = None,
) -> dict[str, Any]:
    """All data but the curves.

    `words` are the panels' texts: `answer`, `reason` and `verdict`, each possibly missing. `steps_per_epoch` is that of
    the training; if it is None, it is computed from the study, if possible. `cap` ends the colours of errors.
    """
    images = study.task.train_size
    steps = steps_per_epoch or (images and max(1, images // study.task.batch_size))
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps["viridis_r"]
    return {
        "measures": _measures(panels, error_range(study, panels, cap)),
        "shades": [[k / 16, to_hex(shades(k / 16))] for k in range(17)],
        "row": study.row,
        "column": study.column,
        "steps_per_epoch": steps,
        "seeds": len(study.seeds),
        "flags": [kind for kind in FLAGS if any(kind in grid.flags for grid in panels)],
        "columns": [page_columns(shown) for shown in range(len(panels) + 1)],
        "panels": [
            _panel(study, grid, table.loc[table["panel"] == grid.panel], words.get(grid.panel, {}), lines or {})
            for grid in panels
        ],
    }


def page_columns(n: int) -> int:
    """Number of columns in which a wide page shows n panels: all in one row up to four, else full rows if possible."""
    return n if n <= 4 else 4 if n % 4 == 0 else 3


def _measures(panels: list[Grid], errors: tuple[float, float]) -> list[dict[str, Any]]:
    picked_on: MeasureName = "test_error" if all(grid.test_error is None for grid in panels) else "validation_error"
    names: list[MeasureName] = [picked_on, *(name for name in stored_measures(panels) if name != picked_on)]
    return [
        {
            "key": name,
            "words": MEASURES[name].words,
            "unit": MEASURES[name].unit,
            "label": MEASURES[name].label,
            "range": list(limits_of(name, [grid.measures for grid in panels], errors)),
        }
        for name in names
    ]


def _panel(
    study: Study, grid: Grid, cells: pd.DataFrame, words: Mapping[str, str], lines: Mapping[str, Valley]
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
        **{key: words.get(key, "") for key in ("answer", "reason", "verdict")},
        "row_title": grid.row_title,
        "col_title": grid.col_title,
        "row_labels": grid.row_labels,
        "col_labels": grid.col_labels,
        "row_values": grid.row_values,
        "col_values": grid.col_values,
        "row_ticks": thinned(grid.row_labels, 16),
        "col_ticks": thinned(grid.col_labels, 16),
        "measures": {name: numbers(values) for name, values in grid.measures.items()},
        "spread": numbers(grid.spread),
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
