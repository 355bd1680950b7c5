"""What people look at: the figure, the page and the terminal's table, from what is stored and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from wdgrid.analysis.separability import Separability
    from wdgrid.study import Study


@dataclass(frozen=True)
class Written:
    """The files of a report, and the numbers it gives."""

    paths: list[Path]
    numbers: "dict[str, Separability]"


def analyse_table(study: "Study", table: "pd.DataFrame", attrs: Mapping[str, Any]) -> "dict[str, Separability]":
    """Separability of every panel of a stored study; chance is that of its number of classes."""
    from wdgrid.analysis.separability import analyse
    from wdgrid.analysis.surface import surfaces

    classes = attrs.get("environment", {}).get("classes", 10)
    return analyse(surfaces(table, study.row, study.column), chance=100 * (1 - 1 / classes))


def write_report(
    study: "Study",
    name: str,
    table: "pd.DataFrame",
    curves: "pd.DataFrame",
    attrs: Mapping[str, Any],
    out: Path,
    style: Literal["cells", "paper"] = "cells",
) -> Written:
    """Writes heatmaps.png, heatmaps.svg, trials.csv and report.html into `out`; `attrs` as the store keeps them."""
    from wdgrid.export import export
    from wdgrid.report.figures import heatmaps, save_heatmaps
    from wdgrid.report.page import write_page

    environment = dict(attrs.get("environment", {}))
    numbers = analyse_table(study, table, attrs)
    out.mkdir(parents=True, exist_ok=True)
    figure = heatmaps(study, name, table, style=style, device=environment.get("device", ""))
    paths = [*save_heatmaps(figure, out), out / "trials.csv", out / "report.html"]
    export(table, "csv", out / "trials.csv")
    write_page(study, name, table, curves, numbers, environment, paths[0], out / "report.html")
    return Written(paths, numbers)
