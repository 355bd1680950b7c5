"""`wdgrid compare A B`: compares two studies, two panels, or one with the paper's figures."""

# pandas has no type stubs.
# pyright: reportMissingTypeStubs=false

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdgrid.cli.common import AsJson, Out, Quiet, Storage, chosen_panels, echo, name_and_panel, print_json, say
from wdgrid.errors import UsageError

CIFAR10_TEST = 10_000  # images behind each of the paper's test errors

if TYPE_CHECKING:
    import pandas as pd

    from wdgrid.analysis.compare import Side
    from wdgrid.study import Study

What = typer.Argument(
    help="A stored study (digits), its file (studies/digits.toml), one panel (digits/adamw), or the paper's reference "
    "values (paper:figure1, paper:figure2, paper:figure2/SGDW)."
)


def compare(
    a: Annotated[str, What],
    b: Annotated[str, What],
    storage: Storage = None,
    out: Out = Path("reports"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two studies or panels: best errors and their difference, rank correlation, shared circles, one figure."""
    from wdgrid.analysis.compare import compare as measure
    from wdgrid.analysis.compare import pairs as matched
    from wdgrid.report.comparison import comparison_lines, comparison_rows, draw_comparison, save_comparison
    from wdgrid.report.output import replaced

    sides = [_sides(what, storage) for what in (a, b)]
    pairs = matched(*sides)
    if not pairs:
        has = "; ".join(f"{what} has {', '.join(found)}" for what, found in zip((a, b), sides, strict=True))
        raise UsageError(f"no panel of {a} matches one of {b}: {has}; name one panel of each, as in digits/adamw")
    found = [measure(*pair) for pair in pairs]
    folder = out / f"compare-{_slug(a)}-vs-{_slug(b)}"
    with replaced(folder) as fresh:
        save_comparison(draw_comparison(pairs, found), fresh / "compare.png")
    path = folder / "compare.png"
    if as_json:
        print_json({"a": a, "b": b, "pairs": comparison_rows(found), "figure": path.as_posix()})
    else:
        echo("\n\n".join("\n".join(comparison_lines(one)) for one in found))
    left = [
        side.label
        for place, one in enumerate(sides)
        for side in one.values()
        if all(side is not pair[place] for pair in pairs)
    ]
    if left:
        say(f"not compared, because the other side has no such panel: {', '.join(left)}", quiet)
    say(f"written: {path}", quiet)


def _slug(what: str) -> str:
    """A name that can be part of a folder's name: `paper-figure2-SGDW` for `paper:figure2/SGDW`."""
    head, toml, panel = what.partition(".toml")
    name = f"{Path(head).name}{panel}" if toml else what
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def _sides(what: str, storage: str | None) -> "dict[str, Side]":
    """The panels that the user names, by their names."""
    if what.startswith("paper:"):
        return _paper(what)
    name, panel = name_and_panel(what)
    return chosen_panels(what, panel, _study(name, storage))


def _paper(what: str) -> "dict[str, Side]":
    from wdgrid.analysis.compare import Side
    from wdgrid.analysis.separability import analyse
    from wdgrid.analysis.surface import paper_surfaces

    name, _, wanted = what.removeprefix("paper:").partition("/")
    if name not in ("figure1", "figure2"):
        raise UsageError(f"paper:{name}: there are paper:figure1 and paper:figure2")
    surfaces = chosen_panels(what, wanted, paper_surfaces(figure=int(name[-1])))
    schedules = {"fixed": "constant", "step": "step", "cos": "cosine"}
    sides: dict[str, Side] = {}
    for panel, numbers in analyse(surfaces, test_images=CIFAR10_TEST).items():
        optimizer, _, schedule = panel.lower().partition(" ")
        shown = surfaces[panel].as_printed()
        sides[panel] = Side(
            f"paper:{name}/{panel}", panel, optimizer, schedules.get(schedule, "cosine"), shown, numbers
        )
    return sides


def _study(what: str, storage: str | None) -> "dict[str, Side]":
    from wdgrid.runner.naming import existing, open_store, stored_study

    name, url = existing(what, storage)
    with open_store(url) as store:
        study, table, attrs = stored_study(store, name), store.table(name), store.attrs(name)
    return _of_table(name, study, table, attrs)


def _of_table(name: str, study: "Study", table: "pd.DataFrame", attrs: dict[str, Any]) -> "dict[str, Side]":
    from wdgrid.analysis.compare import Side
    from wdgrid.analysis.surface import surfaces
    from wdgrid.report import analyse_table

    numbers, shown = analyse_table(study, table, attrs), surfaces(table, study.row, study.column)
    panels = study.panel_names()
    return {
        panel: Side(
            f"{name}/{panel}",
            panel,
            panels[panel].optimizer,
            panels[panel].schedule.kind,
            surface.as_printed(),
            numbers[panel],
            study.report.top_k,
            study.normalized(panels[panel]),
        )
        for panel, surface in shown.items()
        if panel in panels
    }
