"""Writes the figure, the HTML page and the terminal's table of a stored study."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import pandas as pd

    from wdgrid.analysis.separability import Separability
    from wdgrid.analysis.valley import Valley
    from wdgrid.report.views import View
    from wdgrid.study import Study


class _Fitted(TypedDict):
    cap: float | None
    valleys: "dict[str, Valley]"


@dataclass(frozen=True)
class Written:
    """The files of a report, and each panel's numbers and findings."""

    paths: list[Path]
    numbers: "dict[str, Separability]"
    findings: dict[str, dict[str, Any]]


def analyse_table(study: "Study", table: "pd.DataFrame", attrs: Mapping[str, Any]) -> "dict[str, Separability]":
    """Separability of every panel of a stored study; chance is the error of guessing one of its classes."""
    from wdgrid.analysis.separability import analyse
    from wdgrid.analysis.surface import surfaces

    environment = attrs.get("environment", {})
    shown = surfaces(table, study.row, study.column)
    exact = {name: axis.values for name, axis in study.axes.items()}
    return analyse(shown, chance=chance_of(attrs), multiples=exact, test_images=environment.get("test_images"))


def chance_of(attrs: Mapping[str, Any]) -> float:
    """The error of guessing in percent; for ten classes if the number of classes is not stored."""
    return 100 * (1 - 1 / attrs.get("environment", {}).get("classes", 10))


def fitted(numbers: "Mapping[str, Separability]") -> "_Fitted":
    """What a heatmap uses of the analysis: the cap, where its colours end, and the valleys that were found."""
    cap = next((panel.cap for panel in numbers.values()), None)
    seen = {panel: one.valley for panel, one in numbers.items() if one.valley is not None and one.valley.seen}
    return {"cap": cap, "valleys": seen}


def prepare() -> None:
    """Imports all that `write_report` uses, so that it draws at once; may run in a thread."""
    from importlib import import_module

    for name in (
        "seaborn",
        "scipy.optimize",
        "plotly.offline",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
        "rich.table",
        *(f"{__name__}.{part}" for part in ("export", "extend", "figures", "findings", "page", "summary")),
    ):
        import_module(name)


def write_report(
    study: "Study",
    name: str,
    table: "pd.DataFrame",
    curves: "pd.DataFrame",
    attrs: Mapping[str, Any],
    out: Path,
    style: Literal["cells", "paper"] = "cells",
    coarse: "tuple[Study, pd.DataFrame] | None" = None,
    view: "View | None" = None,
    steps: "Callable[[Mapping[str, Separability]], list[str]] | None" = None,
) -> Written:
    """Writes the heatmaps as PNG, SVG and PDF, trials.csv and report.html into `out`; `attrs` are `Store.attrs`.

    The `paper` style and another `view` add pictures with names of their own, such as heatmaps-test_loss-paper.png.
    `coarse` is the study and table of a coarse pass: it adds its pictures and a section of the page. `steps` makes
    lines on what to train next, for the page. Each file is replaced atomically: a reader sees the old file or the new
    one, never a part of one. Raises UsageError if the view's measure is not stored.
    """
    from wdgrid.report.captions import search_words
    from wdgrid.report.export import export
    from wdgrid.report.figures import heatmaps, save_heatmaps
    from wdgrid.report.findings import findings
    from wdgrid.report.grids import grids
    from wdgrid.report.output import replaced
    from wdgrid.report.page import write_page
    from wdgrid.report.views import View
    from wdgrid.study.coarse import coarse_name

    environment = dict(attrs.get("environment", {}))
    numbers = analyse_table(study, table, attrs)
    found = findings(study, numbers, grids(study, table), environment)
    device = environment.get("device", "")
    notes = [search_words(study, table, *coarse)] if coarse else []
    drawn_from = fitted(numbers)
    figures = {"heatmaps": heatmaps(study, name, table, device=device, notes=notes, **drawn_from)}
    view = view or View()
    if suffix := view.suffix + ("-paper" if style == "paper" else ""):
        figures[f"heatmaps{suffix}"] = heatmaps(
            study, name, table, style=style, device=device, notes=notes, view=view, curves=curves, **drawn_from
        )
    if coarse:
        title, cap = coarse_name(name), drawn_from["cap"]
        figures["coarse"] = heatmaps(coarse[0], title, coarse[1], device=device, whole=study, cap=cap)
    with replaced(out) as fresh:
        pictures = [path for stem, figure in figures.items() for path in save_heatmaps(figure, fresh, stem)]
        export(table, "csv", fresh / "trials.csv")
        write_page(
            study,
            name,
            table,
            curves,
            numbers,
            found,
            environment,
            fresh / "heatmaps.png",
            fresh / "report.html",
            (notes[0], fresh / "coarse.png") if coarse else None,
            steps(numbers) if steps else (),
        )
    paths = [out / name for name in (*(p.name for p in pictures), "trials.csv", "report.html")]
    return Written(paths, numbers, found)
