"""Draws one heatmap per panel on a common colour scale with matplotlib, like the paper's Figure 2.

It does not use pyplot, so figures need not be closed and no display is needed.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch, Rectangle
from matplotlib.path import Path as MarkerPath
from matplotlib.typing import ColorType
from scipy.ndimage import distance_transform_edt

from wdgrid.analysis.valley import Valley
from wdgrid.report.captions import caption_lines
from wdgrid.report.flags import FLAGS, worst
from wdgrid.report.grids import (
    Grid,
    error_range,
    grids,
    panel_columns,
    thinned,
    valley_places,
)
from wdgrid.report.measures import ERRORS, MEASURES, check_measure, limits_of
from wdgrid.report.views import MeasureName, View
from wdgrid.study import Study
from wdgrid.study.cells import selection_error

DIVERGED, MISSING, HATCH = "#c4c4c4", "#ffffff", "#8a8a8a"
# Marks differ in shape alone and are white with a black edge, so that they are visible on every colour.
BAR = MarkerPath([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3), (-1, -0.3)], closed=True)
GLYPHS = {"late blow-up": "*", "stuck at chance": BAR, "spike": "^"}
Style = Literal["cells", "paper"]


def heatmaps(
    study: Study,
    name: str,
    table: pd.DataFrame,
    *,
    style: Style = "cells",
    device: str = "",
    notes: Sequence[str] = (),
    whole: Study | None = None,
    cap: float | None = None,
    valleys: Mapping[str, Valley] | None = None,
    view: View | None = None,
    curves: pd.DataFrame | None = None,
) -> Figure:
    """One heatmap per panel: circles around the best cells, marks on those that went wrong, one colourbar for all.

    `cells` draws one square per cell in colour-blind-safe colours; `paper` is jet with interpolated shading.
    `whole` is given for a coarse pass: the study from which it was derived. `cap` is the upper end of the colour scale.
    `valleys` are the fitted valleys by panel. `view` is the measure that is drawn and the scale of its colours, by
    default the error by which cells are picked and a linear one; `curves` are needed for `epochs_to_best` only. Raises
    UsageError if the measure is not stored.
    """
    panels = grids(study, table, whole, curves)
    measure = view.measure if view and view.measure else selection_error(table)
    check_measure(measure, panels)
    norm = _norm(limits_of(measure, [grid.measures for grid in panels], error_range(study, panels, cap)), view, panels)
    columns = panel_columns(len(panels))
    rows = -(-len(panels) // columns)
    shape = np.clip(len(panels[0].row_labels) / len(panels[0].col_labels), 0.5, 1.3)  # of one heatmap
    width, height = 1.3 + 4.5 * columns, 0.7 + (0.7 + 3.8 * shape) * rows
    words = [*caption_lines(study, name, panels, device), *notes]
    caption = [part for line in words for part in wrap(line, int(14 * width))]
    legend = _legend(study, panels, style, bool(valleys), measure)
    across = min(3, columns + 1)
    lines = max(1, -(-len(legend) // across))
    foot = 0.32 + 0.23 * lines + 0.17 * len(caption)  # inches below the heatmaps: the legend, then the caption
    figure = Figure(figsize=(width, height + foot), layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_layout_engine(
        "constrained",
        h_pad=0.09,
        hspace=0.05,
        wspace=0.03,
        rect=(0, foot / (height + foot), 1, height / (height + foot)),
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    drawn = [
        draw_panel(ax, grid, norm, style, grid.measures.get(measure))
        for ax, grid in zip(axes.flat, panels, strict=False)
    ]
    valleys = valleys or {}
    for ax, grid in zip(axes.flat, panels, strict=False):
        if grid.panel in valleys:
            draw_valley(ax, grid, valleys[grid.panel])
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    _colourbar(
        figure, list(axes.flat), drawn[0], [g.measures[measure] for g in panels if measure in g.measures], measure
    )
    title = "\n".join(wrap(study.title or name, int(7 * width)))
    figure.suptitle(title, fontsize=15, parse_math=False)
    at = (0.5, (foot - 0.22 - 0.23 * lines) / (height + foot))
    figure.legend(handles=legend, loc="lower center", bbox_to_anchor=at, ncols=across, frameon=False)
    below = 0.1 / (height + foot)
    small: dict[str, Any] = {"fontsize": 8.5, "color": "#404040", "va": "bottom", "linespacing": 1.4}
    figure.text(0.1 / width, below, "\n".join(caption), parse_math=False, label="caption", **small)
    return figure


def save_heatmaps(figure: Figure, out_dir: Path, stem: str = "heatmaps") -> list[Path]:
    """Writes heatmaps.png, heatmaps.svg and heatmaps.pdf; equal figures give equal bytes."""
    out_dir.mkdir(parents=True, exist_ok=True)
    png, svg, pdf = (out_dir / f"{stem}.{kind}" for kind in ("png", "svg", "pdf"))
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "wdgrid", "svg.fonttype": "path"}):
        # If the font lacks a character of a title, matplotlib draws a box. That must not be an error.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": "wdgrid"})
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": "wdgrid", "Producer": None})
    return [png, svg, pdf]


def _norm(limits: tuple[float, float], view: View | None, panels: list[Grid]) -> Normalize:
    """The colours' scale. A logarithmic one begins at the lowest positive value if the limits begin below."""
    low, high = limits
    if view is None or view.scale == "linear":
        return Normalize(low, high)
    values = np.concatenate([g.measures[view.measure or next(iter(g.measures))].ravel() for g in panels if g.measures])
    positive = values[np.isfinite(values) & (values > 0)]
    low = low if low > 0 else float(positive.min()) if len(positive) else 1.0
    return LogNorm(low, max(high, low * 1.01), clip=True)


def draw_panel(
    ax: Axes, grid: Grid, norm: Normalize, style: Style, values: np.ndarray | None = None
) -> QuadMesh | AxesImage:
    """Draws one heatmap and returns what the colourbar describes. `values` [R, C] are the errors if not given."""
    values = grid.error if values is None else values
    ax.set_title(shorten(grid.title, 44, placeholder=" …"), fontsize=13, parse_math=False)
    image = _interpolated(ax, grid, norm, values) if style == "paper" else _cells(ax, grid, norm, values)
    cell = 4.0 * 72 / max(grid.error.shape)
    at_row, at_col = np.nonzero(grid.diverged)
    ink = "white" if style == "paper" else "#404040"
    ax.plot(at_col + 0.5, at_row + 0.5, "x", color=ink, ms=cell * 0.28, mew=1.0, label="diverged")
    for kind, where in worst(grid.flags, grid.diverged).items():
        at_row, at_col = np.nonzero(where)
        ax.plot(at_col + 0.5, at_row + 0.5, label=kind, **_glyph(kind, cell * 0.3))
    for row, col in grid.best:
        ring = Ellipse((col + 0.5, row + 0.5), 0.66, 0.66, fill=False, ec="black", lw=min(2.0, cell / 10), zorder=3)
        ring.set_label("best")
        if values is not grid.error:  # best cells may have any colour
            edge = patheffects.Stroke(linewidth=ring.get_linewidth() + 1.5, foreground="white")
            ring.set_path_effects([edge, patheffects.Normal()])
        ax.add_patch(ring)
    rows, cols = thinned(grid.row_labels, 16), thinned(grid.col_labels, 16)
    ax.set_xticks([i + 0.5 for i in cols], [grid.col_labels[i] for i in cols], rotation=45)
    ax.set_yticks([i + 0.5 for i in rows], [grid.row_labels[i] for i in rows])
    ax.set(xlim=(0, len(grid.col_labels)), ylim=(len(grid.row_labels), 0))
    ax.set(xlabel=grid.col_title, ylabel=grid.row_title)
    if 0.5 <= len(grid.row_labels) / len(grid.col_labels) <= 2:
        ax.set_aspect("equal")
    ax.tick_params(length=2)
    return image


def draw_valley(ax: Axes, grid: Grid, line: Valley) -> None:
    """The fitted valley across the rows in which it lies on the map; the band is the 90 % interval of its slope."""
    rows, middle, low, high = valley_places(grid, line)
    ax.fill_betweenx(rows, low, high, color="white", alpha=0.35, lw=0, label="valley's slope", zorder=2.5)
    stroke = [patheffects.Stroke(linewidth=3.2, foreground="black"), patheffects.Normal()]
    ax.plot(middle, rows, color="white", lw=1.6, label="valley", path_effects=stroke, zorder=2.6)


def _glyph(kind: str, size: float) -> dict[str, Any]:
    """The mark of a divergence class, as line properties."""
    size *= 1.4 if kind == "late blow-up" else 1.0  # a star's points are thin
    return {"marker": GLYPHS[kind], "ls": "", "mfc": "white", "mec": "black", "ms": size, "mew": 0.9}


def _cells(ax: Axes, grid: Grid, norm: Normalize, values: np.ndarray) -> QuadMesh:
    """One square per cell; diverged and missing cells have their own colours and hatches."""
    import seaborn as sns  # imported here: it takes most of a second

    masked = ~np.isfinite(values)
    values = np.where(masked, np.nan, values)
    sns.heatmap(
        pd.DataFrame(values),
        ax=ax,
        mask=masked,
        vmin=norm.vmin,
        vmax=norm.vmax,
        norm=norm,
        cmap="viridis_r",
        cbar=False,
        xticklabels=False,
        yticklabels=False,
    )
    paint(ax, grid.diverged, DIVERGED)
    paint(ax, grid.missing, MISSING, "////")
    return next(c for c in ax.collections if isinstance(c, QuadMesh))


def _interpolated(ax: Axes, grid: Grid, norm: Normalize, values: np.ndarray) -> AxesImage:
    """Shading between cell centres. Cells without a finite error do not affect it: they are painted over."""
    finite, (low, high) = np.isfinite(values), (norm.vmin, norm.vmax)
    filled = np.full_like(values, high)
    if finite.any():
        nearest = distance_transform_edt(~finite, return_distances=False, return_indices=True)
        assert nearest is not None
        filled = np.clip(values[tuple(nearest)], low, high)  # type: ignore[arg-type]
    rows, cols = values.shape
    image = ax.imshow(
        filled,
        cmap="jet",
        norm=norm,
        interpolation="bilinear",
        interpolation_stage="data",
        extent=(0, cols, rows, 0),
        aspect="auto",
    )
    paint(ax, ~finite & ~grid.diverged & ~grid.missing, MISSING)
    paint(ax, grid.diverged, mpl.colormaps["jet"](1.0))
    paint(ax, grid.missing, MISSING, "////")
    return image


def paint(ax: Axes, where: np.ndarray, colour: ColorType, hatch: str = "") -> None:
    """Paints the cells of a mask in one colour, with an optional hatch."""
    if not where.any():
        return
    shown = np.ma.masked_where(~where, np.zeros(where.shape))
    ax.pcolormesh(
        shown,
        cmap=ListedColormap(np.array([to_rgba(colour)])),
        vmin=0,
        vmax=1,
        label="missing" if hatch else "diverged",
    )
    for row, col in np.argwhere(where) if hatch else ():
        ax.add_patch(Rectangle((col, row), 1, 1, fill=False, hatch=hatch, ec=HATCH, lw=0))


def _colourbar(
    figure: Figure,
    axes: list[Axes],
    image: QuadMesh | AxesImage,
    values: list[np.ndarray],
    measure: MeasureName,
) -> None:
    """One colourbar for all panels, an arrow where it is saturated."""
    finite = np.concatenate([block[np.isfinite(block)] for block in values])
    low, high = image.get_clim()
    below, error = bool((finite < low).any()), measure in ERRORS
    above = error or bool((finite > high).any())
    extend = ("both" if above else "min") if below else "max" if above else "neither"
    bar = figure.colorbar(image, ax=axes, extend=extend, shrink=0.8, pad=0.02, aspect=30)
    if isinstance(image.norm, LogNorm):
        ticks = np.geomspace(low, high, 7)
        bar.set_ticks(ticks.tolist(), labels=[f"{tick:.3g}" for tick in ticks])
        bar.minorticks_off()
    words = MEASURES[measure].label
    bar.set_label("\n".join(wrap(words[0].upper() + words[1:], 45)))


def _legend(
    study: Study, panels: list[Grid], style: Style, valleys: bool, measure: MeasureName
) -> list[Patch | Line2D]:
    """Legend entries for the circles, crosses and hatches that the figure has."""
    entries: list[Patch | Line2D] = []
    if study.report.top_k and any(g.best for g in panels):
        words = "the best cell" if study.report.top_k == 1 else f"the {study.report.top_k} best cells"
        ring: dict[str, Any] = {"marker": "o", "ls": "", "mfc": "none", "mec": "black", "ms": 11, "mew": 1.5}
        entries.append(Line2D([], [], label=f"{words} of each panel", **ring))
    if any(g.diverged.any() for g in panels):
        colour = mpl.colormaps["jet"](1.0) if style == "paper" else DIVERGED
        words = "diverged" if len(study.seeds) == 1 else "diverged with at least one seed"
        square: dict[str, Any] = {"marker": "s", "ls": "", "mfc": colour, "mec": "none", "ms": 12}
        entries.append(Line2D([], [], label=f"× {words}", **square))
    for kind in FLAGS:
        if any(kind in g.flags for g in panels):
            words = kind if len(study.seeds) == 1 else f"{kind} (any seed)"
            entries.append(Line2D([], [], label=words, **_glyph(kind, 8)))
    if valleys:
        stroke = [patheffects.Stroke(linewidth=3.2, foreground="black"), patheffects.Normal()]
        words = "fitted valley, 90 % band of its slope"
        entries.append(Line2D([], [], color="white", lw=1.6, path_effects=stroke, label=words))
    if any(np.isposinf(g.measures[measure][~g.diverged]).any() for g in panels if measure in g.measures):
        entries.append(Patch(fc=MISSING, ec=HATCH, label="never"))
    if any(g.missing.any() for g in panels):
        entries.append(Patch(fc=MISSING, ec=HATCH, hatch="////", label="not trained yet"))
    return entries
