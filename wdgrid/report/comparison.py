"""Presents two panels side by side: figure (both on one colour scale, and their difference), text and JSON.

The numbers are from `wdgrid.analysis.compare`.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wdgrid.analysis.compare import Comparison, Side, common
from wdgrid.analysis.surface import mean_over_seeds
from wdgrid.analysis.words import HYPERPARAMETERS, interval, number, percent, seeds_words, with_interval
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.findings import wrapped
from wdgrid.report.summary import certainty_words
from wdgrid.study.axes import parse_multiple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

    from wdgrid.analysis.separability import Separability
    from wdgrid.analysis.surface import Surface
    from wdgrid.report.grids import Grid


def comparison_rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One dict per pair, ready for JSON; numbers that are not defined are None."""
    rows = []
    for one in found:
        row = {key: value for key, value in asdict(one).items() if key not in ("best", "circles", "numbers")}
        for place, numbers in enumerate(one.numbers):
            row[f"of_{'ab'[place]}"] = {
                "best_error": numbers.best_error,
                "selected_on": numbers.selected_on,
                "test_error": one.best[place],
                "test_interval": numbers.test_interval,
                "test_interval_kind": numbers.certainty and numbers.certainty.kind,
                "best_row": numbers.best_row_label,
                "best_col": numbers.best_col_label,
                "circles": one.circles[place],
                "cost": numbers.cost,
                "slope": numbers.slope,
                "interaction": numbers.interaction,
                "intervals": dict(numbers.intervals),
                "verdict": numbers.verdict,
            }
        rows.append(row)
    return rows


def comparison_lines(one: Comparison) -> list[str]:
    """A pair as lines of text for a terminal."""
    a, b = one.numbers
    columns = [
        ("", f"A: {one.a}", f"B: {one.b}"),
        ("best cell", *(_cell(numbers) for numbers in (a, b))),
        ("picked on", *(f"{numbers.selected_on} images" for numbers in (a, b))),
        ("its test error", *(_tested(error, of) for error, of in zip(one.best, (a, b), strict=True))),
        ("over seeds", *(seeds_words(numbers.n_seeds) for numbers in (a, b))),
        *(
            (name, _with(a, key), _with(b, key))
            for name, key in (("cost", "cost"), ("slope s", "slope"), ("interaction", "interaction"))
        ),
        ("verdict", a.verdict, b.verdict),
    ]
    width = max(len(of_a) for _, of_a, _ in columns)
    lines = [f"  {what:18} {of_a:{width}}  {of_b}" for what, of_a, of_b in columns]
    lines += ["", *wrapped(f"  difference (B − A)  {_difference(one)}", 80)]
    if one.slope_difference is not None:
        slopes = with_interval(one.slope_difference, one.slope_difference_interval)
        lines += [f"  slopes (B − A)      {slopes}"]
    correlation = number(one.rank_correlation)
    correlation += f": {one.why_no_correlation}" if one.why_no_correlation else f" over {one.common_cells} common cells"
    lines += [f"  rank correlation    {correlation}"]
    counts = " and ".join(str(n) for n in one.circles)
    shared = f"{one.circles_shared} shared, of {counts}" if one.common_cells else f"–: no common cells ({counts})"
    lines += [f"  circles             {shared}"]
    lines.append("")
    for place, numbers in zip("AB", (a, b), strict=True):
        lines += wrapped(f"  {place}: {numbers.sentence}", 80)
    if a.selected_on != b.selected_on:
        apart, other = ("A", "B") if a.selected_on == "validation" else ("B", "A")
        lines += [
            "",
            f"  Only {apart} has a validation split. {other} picks its best cell on the test images, so its error is",
            "  optimistic. All errors here are test errors.",
        ]
    return lines


def _cell(numbers: "Separability") -> str:
    """`rate 0.125 (1/8), decay 0.032 (2)`."""
    row, col = (HYPERPARAMETERS.get(name, name) for name in (numbers.row_name, numbers.col_name))
    if numbers.best_row is None or numbers.best_col is None:
        return "–"
    values = f"{row} {numbers.best_row:.4g} ({numbers.best_row_label})"
    return f"{values}, {col} {numbers.best_col:.4g} ({numbers.best_col_label})"


def _tested(error: float | None, numbers: "Separability") -> str:
    """`2.34 % [1.93, 2.80]`."""
    if error is None or numbers.test_interval is None:
        return percent(error)
    return f"{percent(error)} {interval(numbers.test_interval)}"


def _with(numbers: "Separability", key: str) -> str:
    return with_interval(getattr(numbers, key), numbers.intervals.get(key))


def _difference(one: Comparison) -> str:
    """`−0.22 points [−0.50, 0.10], −10.4 % relative [−20.1, 4.2]; 90 % intervals …`."""
    if one.difference is None:
        return "–: one of them has no finite error"
    text = f"{number(one.difference)} points"
    text += f" {interval(one.difference_interval)}" if one.difference_interval else ""
    if one.relative is not None:
        text += f", {number(one.relative, 1)} % relative"
        text += f" {interval(one.relative_interval, 1)}" if one.relative_interval else ""
    if one.difference_interval is None:
        return text + "; no interval: there is one seed, and the number of test images is unknown"
    kinds = [certainty_words(numbers) for numbers in one.numbers]
    return f"{text}; 90 % intervals {kinds[0] if kinds[0] == kinds[1] else f'{kinds[0]} (A), {kinds[1]} (B)'}"


def draw_comparison(pairs: Sequence[tuple[Side, Side]], found: Sequence[Comparison]) -> "Figure":
    """One row for each pair: A and B on a common colour scale, then B − A, blue where B is better, centred on 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from wdgrid.report.figures import draw_panel

    limits = _limits(pairs)
    figure = Figure(figsize=(15, 0.5 + 4.5 * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pairs), 3, squeeze=False)
    images, differences, reach = [], [], _reach(pairs)
    for row, ((a, b), one) in enumerate(zip(pairs, found, strict=True)):
        for place, side in enumerate((a, b)):
            images.append(draw_panel(axes[row, place], _grid(side), Normalize(*limits), "cells"))
            axes[row, place].set_title(f"{'AB'[place]}: {side.label}", fontsize=13, parse_math=False)
        differences.append(_difference_map(axes[row, 2], a, b, one, reach))
    bar = figure.colorbar(images[0], ax=list(axes[:, :2].flat), extend="max", aspect=30, shrink=0.8)
    bar.set_label("Test error (%)")
    if drawn := [image for image in differences if image is not None]:
        bar = figure.colorbar(drawn[0], ax=list(axes[:, 2]), extend="both", aspect=30, shrink=0.8)
        bar.set_label("B − A (points): blue, B is better; red, A is better")
    words = (
        "circles: best cells; ×: diverged (B − A: A× in A only, B× in B only, × in both); hatched: not trained; "
        "in B − A, errors are capped at the end of the colour scale"
    )
    figure.supxlabel(words, fontsize=9, color="#404040")
    return figure


def save_comparison(figure: "Figure", path: Path) -> None:
    """Writes the PNG; equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _limits(pairs: Sequence[tuple[Side, Side]]) -> tuple[float, float]:
    """Colour limits: from the lowest of all errors to the largest cap of the analysis."""
    sides = [side for pair in pairs for side in pair]
    errors = np.concatenate([side.mean.ravel() for side in sides])
    errors = errors[np.isfinite(errors)]
    caps = [side.found.cap for side in sides if side.found.cap is not None]
    return (float(errors.min()), max(caps)) if len(errors) and caps and errors.min() < max(caps) else (0.0, 100.0)


def _capped_difference(a: Side, b: Side) -> np.ndarray | None:
    """B − A over common cells [R, C] in points, errors capped at the colour scale's end; NaN if one is missing."""
    if (shared := common(a, b)) is None:
        return None
    cap = _limits([(a, b)])[1]
    first, second = (np.minimum(mean_over_seeds(surface.errors, np.inf), cap) for surface in shared[:2])
    return second - first


def _reach(pairs: Sequence[tuple[Side, Side]]) -> float:
    """The largest difference on the colour scale of B − A, for all pairs."""
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
    algorithm = VARIANTS[a.optimizer].algorithm
    titles = [AXES.get(name, "Decay").format(algorithm) for name in (first.row_name, first.col_name)]
    ax.set(xlabel=f"{titles[1]} (multiples)", ylabel=f"{titles[0]} (multiples)")
    ax.set_title("B − A" if one.difference is None else f"B − A (best: {number(one.difference)} points)", fontsize=13)
    if 0.5 <= values.shape[0] / values.shape[1] <= 2:
        ax.set_aspect("equal")
    ax.tick_params(length=2)
    return image


def _grid(side: Side) -> "Grid":
    """A side as `draw_panel` needs it."""
    from wdgrid.report.grids import grid_of

    surface = side.tested
    units = _unit(surface, 0), _unit(surface, 1)
    best = [(int(i), int(j)) for i, j in np.argwhere(side.circled)]
    return grid_of(replace(surface, panel=side.panel), units, side.label, side.optimizer, side.normalized, best)


def _unit(surface: "Surface", axis: int) -> float:
    """The unit of an axis: any positive value over its multiple."""
    _, values, labels = surface.axes[axis]
    for value, text in zip(values, labels, strict=True):
        if value > 0 and (multiple := float(parse_multiple(text))) > 0:
            return float(f"{value / multiple:.6g}")
    return 1.0
