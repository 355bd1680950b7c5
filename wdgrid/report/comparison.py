"""Two panels side by side: the picture (both on one scale, and their difference), the words, the JSON.

Knows how a comparison is drawn and worded; its numbers stand in `wdgrid.analysis.compare`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wdgrid.analysis.compare import Comparison, Interval, Side, common
from wdgrid.axes import parse_multiple
from wdgrid.report.summary import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

    from wdgrid.analysis.surface import Surface
    from wdgrid.report.grids import Grid

KINDS = {"seeds": "over seeds", "residual": "from the residuals of one seed", None: "none"}


def comparison_rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One dict per pair, ready for JSON: None where a number is not defined."""
    rows = []
    for one in found:
        row = {key: value for key, value in asdict(one).items() if key not in ("best", "circles", "numbers")}
        for place, numbers in enumerate(one.numbers):
            row[f"of_{'ab'[place]}"] = {
                "best_error": one.best[place],
                "selected_on": numbers.selected_on,
                "best_test_error": numbers.best_test_error,
                "best_row": numbers.best_row_label,
                "best_col": numbers.best_col_label,
                "circles": one.circles[place],
                "kappa": numbers.kappa,
                "interaction": numbers.interaction,
                "intervals": dict(numbers.intervals),
                "verdict": numbers.verdict,
            }
        rows.append(row)
    return rows


def comparison_lines(one: Comparison) -> list[str]:
    """A pair in words, for a terminal."""
    width = max(len(one.a) + 3, 24)

    def beside(what: str, a: str, b: str) -> str:
        return f"  {what:18} {a:{width}}  {b}"

    a, b = one.numbers
    lines = [
        beside("", f"A: {one.a}", f"B: {one.b}"),
        beside("best error", _best(one.best[0], a), _best(one.best[1], b)),
    ]
    lines += [beside("κ", _with(a, "kappa"), _with(b, "kappa"))]
    lines += [beside("interaction", _with(a, "interaction"), _with(b, "interaction"))]
    lines += [beside("verdict", a.verdict, b.verdict)]
    lines += ["", f"  difference (B − A)  {_difference(one)}"]
    correlation = signed(one.rank_correlation)
    correlation += f": {one.why_no_correlation}" if one.why_no_correlation else f" over {one.common_cells} common cells"
    lines += [f"  rank correlation    {correlation}"]
    counts = " and ".join(str(n) for n in one.circles)
    shared = f"{one.circles_shared} shared, of {counts}" if one.common_cells else f"–: no common cells ({counts})"
    return [*lines, f"  circles             {shared}"]


def _best(error: float | None, numbers: Any) -> str:
    if error is None:
        return "–"
    text = f"{error:.2f} % at {numbers.best_row_label}, {numbers.best_col_label}"
    if numbers.best_test_error is None:
        return text
    return f"{text} (validation; test {numbers.best_test_error:.2f} %)"


def _with(numbers: Any, key: str) -> str:
    """A number with its interval."""
    within = numbers.intervals.get(key)
    return signed(getattr(numbers, key)) + ("" if within is None else _span(within))


def _span(within: Interval, digits: int = 2) -> str:
    return f" [{signed(within[0], digits)}, {signed(within[1], digits)}]"


def _difference(one: Comparison) -> str:
    """`−0.22 points [−0.50, 0.10], −10.4 % relative [−20.1, 4.2]; 90 % intervals from …`."""
    if one.difference is None:
        return "–: one of them has no finite error yet"
    text = f"{signed(one.difference)} points" + (_span(one.difference_interval) if one.difference_interval else "")
    if one.relative is not None:
        text += f", {signed(one.relative, 1)} % relative"
        text += _span(one.relative_interval, 1) if one.relative_interval else ""
    if one.difference_interval is None:
        return text + "; no interval: too few cells under the cap to measure the noise; add seeds"
    kinds = dict.fromkeys(KINDS[kind] for kind in one.interval_kinds)
    return text + f"; 90 % intervals {' (A), '.join(kinds)}" + (" (B)" if len(kinds) > 1 else "")


def draw_comparison(pairs: Sequence[tuple[Side, Side]], found: Sequence[Comparison]) -> "Figure":
    """A row per pair: A and B on one colour scale for all, then B − A, blue where B is better, centred on 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from wdgrid.report.figures import draw_panel

    limits = _limits(pairs)
    figure = Figure(figsize=(15, 0.5 + 4.5 * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pairs), 3, squeeze=False)
    images, differences, reach = [], [], _reach(pairs)
    for row, ((a, b), one) in enumerate(zip(pairs, found, strict=True)):
        for place, side in enumerate((a, b)):
            images.append(draw_panel(axes[row, place], _grid(side), limits, "cells"))
            axes[row, place].set_title(f"{'AB'[place]}: {side.label}", fontsize=13, parse_math=False)
        differences.append(_difference_map(axes[row, 2], a, b, one, reach))
    bar = figure.colorbar(images[0], ax=list(axes[:, :2].flat), extend="max", aspect=30, shrink=0.8)
    picked = {side.found.selected_on for pair in pairs for side in pair}
    bar.set_label(
        {"test": "Test error (%)", "validation": "Validation error (%)"}[picked.pop()]
        if len(picked) == 1
        else "Error on what cells are picked on: validation or test (%)"
    )
    if drawn := [image for image in differences if image is not None]:
        bar = figure.colorbar(drawn[0], ax=list(axes[:, 2]), extend="both", aspect=30, shrink=0.8)
        bar.set_label("B − A (points): blue, B is better; red, A is better")
    words = (
        "circles: best cells; ×: diverged (B − A: A× in A only, B× in B only, × in both); hatched: not trained; "
        "in B − A, errors beyond the scale's end count as its end"
    )
    figure.supxlabel(words, fontsize=9, color="#404040")
    return figure


def save_comparison(figure: "Figure", path: Path) -> None:
    """Writes the PNG; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _limits(pairs: Sequence[tuple[Side, Side]]) -> tuple[float, float]:
    """From the best error of all to the largest cap that the numbers use."""
    sides = [side.found for pair in pairs for side in pair]
    best = [found.best_error for found in sides if found.best_error is not None and np.isfinite(found.best_error)]
    caps = [found.cap for found in sides if found.cap is not None]
    return (min(best), max(caps)) if best and caps and min(best) < max(caps) else (0.0, 100.0)


def _capped_difference(a: Side, b: Side) -> np.ndarray | None:
    """B − A over common cells [R, C] in points, each at most its scale's cap; NaN where one has none."""
    if (shared := common(a, b)) is None:
        return None
    from wdgrid.analysis.bootstrap import mean_over_seeds

    cap = _limits([(a, b)])[1]
    first, second = (np.minimum(mean_over_seeds(surface.errors, np.inf), cap) for surface in shared[:2])
    return second - first


def _reach(pairs: Sequence[tuple[Side, Side]]) -> float:
    """Half the width of the difference's scale, for all pairs."""
    sizes = [np.abs(d[np.isfinite(d)]) for a, b in pairs if (d := _capped_difference(a, b)) is not None]
    largest = float(np.quantile(np.concatenate(sizes), 0.98)) if sizes and sum(map(len, sizes)) else 0.0
    return largest if largest > 0 else 1.0


def _difference_map(ax: "Axes", a: Side, b: Side, one: Comparison, reach: float) -> "QuadMesh | None":
    from wdgrid.report.figures import DIVERGED, MISSING, paint
    from wdgrid.report.grids import AXES, thinned

    shared, values = common(a, b), _capped_difference(a, b)
    if shared is None or values is None or not one.common_cells:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no common cells", ha="center", va="center", transform=ax.transAxes, fontsize=13)
        return None
    first, second, _ = shared
    diverged = [np.asarray(np.isposinf(surface.errors).any(-1)) for surface in (first, second)]
    image = ax.pcolormesh(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-reach, vmax=reach)
    paint(ax, diverged[0] & diverged[1], DIVERGED)
    paint(ax, np.isnan(values), MISSING, "////")
    size = min(12.0, 150 / max(values.shape))
    for i, j in np.argwhere((diverged[0] | diverged[1]) & ~np.isnan(values)):
        text = "×" if diverged[0][i, j] and diverged[1][i, j] else "A×" if diverged[0][i, j] else "B×"
        ink = "white" if text != "×" and abs(values[i, j]) > 0.6 * reach else "#202020"
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=size, color=ink)
    rows, cols = thinned(list(first.row_labels), 16), thinned(list(first.col_labels), 16)
    ax.set_xticks([j + 0.5 for j in cols], [first.col_labels[j] for j in cols], rotation=45)
    ax.set_yticks([i + 0.5 for i in rows], [first.row_labels[i] for i in rows])
    ax.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0))
    titles = [AXES.get(name, "Decay") for name in (first.row_name, first.col_name)]
    ax.set(xlabel=f"{titles[1]} (multiples)", ylabel=f"{titles[0]} (multiples)")
    ax.set_title("B − A" if one.difference is None else f"B − A (best: {signed(one.difference)} points)", fontsize=13)
    if 0.5 <= values.shape[0] / values.shape[1] <= 2:
        ax.set_aspect("equal")
    ax.tick_params(length=2)
    return image


def _grid(side: Side) -> "Grid":
    """What `draw_panel` draws."""
    from wdgrid.report.grids import DECAY_FORMS, Grid, axis_title

    surface, mean = side.surface, side.mean
    undefined = np.full(mean.shape, np.nan)
    errors = surface.errors
    return Grid(
        panel=side.panel,
        title=side.label,
        decay_form=DECAY_FORMS[side.optimizer],
        row_title=axis_title(surface.row_name, _unit(surface, 0), side.optimizer, side.normalized),
        col_title=axis_title(surface.col_name, _unit(surface, 1), side.optimizer, side.normalized),
        row_labels=list(surface.row_labels),
        col_labels=list(surface.col_labels),
        row_values=surface.rows.tolist(),
        col_values=surface.cols.tolist(),
        error=mean,
        spread=undefined,
        loss=undefined,
        seeds_done=(~np.isnan(errors)).sum(-1),
        seeds_diverged=np.isposinf(errors).sum(-1),
        diverged_at=undefined,
        best=[(int(i), int(j)) for i, j in np.argwhere(side.circled)],
    )


def _unit(surface: "Surface", axis: int) -> float:
    """The unit of an axis: any positive value over its multiple."""
    _, values, labels = surface.axes[axis]
    for value, text in zip(values, labels, strict=True):
        if value > 0 and (multiple := float(parse_multiple(text))) > 0:
            return float(f"{value / multiple:.6g}")
    return 1.0
