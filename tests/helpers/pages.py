"""Pages written for tests: of synthetic tables, with text in them that would be a script if it were not escaped."""

from pathlib import Path

import pandas as pd

from helpers.synthetic_tables import make_curves, make_study, make_table
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces
from wdgrid.report.figures import heatmaps, save_heatmaps
from wdgrid.report.findings import findings
from wdgrid.report.grids import grids
from wdgrid.report.page import write_page
from wdgrid.study import Study

EVIL = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


def picture(folder: Path) -> Path:
    """A figure for readers without scripts."""
    study = make_study(panels=[{"optimizer": "sgd"}])
    return save_heatmaps(heatmaps(study, "s", make_table(study)), folder)[0]


def write(out: Path, study: Study, table: pd.DataFrame, png: Path, environment: dict | None = None) -> Path:
    small = len(table) < 1000
    numbers = analyse(surfaces(table, study.row, study.column), draws=0, test_images=897) if small else {}
    environment = environment or {"device": "cpu"}
    found = findings(study, numbers, grids(study, table), environment)
    write_page(study, "mine", table, make_curves(table), numbers, found, environment, png, out)
    return out


def example(folder: Path) -> Path:
    """Four panels, two seeds, some cells diverged and some not trained."""
    study = make_study(title=EVIL, seeds=[0, 1])
    environment = {"commit": EVIL, "versions": {"torch": "2.15"}}
    return write(folder / "new" / "report.html", study, make_table(study, noise=0.02), picture(folder), environment)
