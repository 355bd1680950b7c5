"""`wdgrid plan`: estimates what a study will cost on this machine."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from wdgrid.cli.common import AsJson, NoCode, StudyWord, print_json

if TYPE_CHECKING:
    from wdgrid.runner.measure import StudyCost

WORTH_IT = 0.7  # a search that takes a larger share of the whole grid's time saves too little


def plan(
    study_word: StudyWord,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, such as task.epochs=5. May be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    no_code: NoCode = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one a core if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a study will cost: cells, steps, FLOPs, memory and time, from a few measured steps; trains nothing.

    A study file that names code as package.module:function runs it.
    """
    from wdgrid.cli.progress import show_preparing
    from wdgrid.runner.check import check_code
    from wdgrid.runner.measure import measure
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path

    path = study_path(study_word)
    study = load_study(path, override or [], allow_code=not no_code)
    check_code(study)
    with show_preparing() as tell:
        cost = measure(study, workers, tell)
    if as_json:
        found = asdict(cost)
        print_json({"study": path.stem, "network": found.pop("backend"), **found})
    else:
        _print_cost(path.stem, cost)


def _print_cost(name: str, cost: "StudyCost") -> None:
    typer.echo(
        f"{name}: network of {cost.parameters} parameters ({cost.backend}), chunks of {cost.chunk} cells, "
        f"{cost.workers} worker processes on {cost.device}"
    )
    if cost.measured:
        times = ", ".join(f"{name} {time:g}" for name, time in cost.measured.items())
        typer.echo(f"measured, µs a step of a cell: {times}")
    typer.echo(f"{'panel':20} {'cells':>7} {'steps':>12} {'TFLOP':>9} {'seconds':>9} {'state a worker':>15}")
    for panel in cost.panels:
        typer.echo(
            f"{panel.panel:20} {panel.cells:7} {panel.steps:12} {panel.tflop:9.3g} {panel.seconds:9.1f} "
            f"{panel.state_mib:11.1f} MiB"
        )
    typer.echo(
        f"about {cost.seconds:.0f} s of training, measured with one process alone; starting takes some seconds "
        "more, and processes that share caches and memory slow each other down"
    )
    typer.echo(_coarse_words(cost))


def _coarse_words(cost: "StudyCost") -> str:
    """What `--coarse` would save."""
    if cost.coarse_seconds is None:
        return "--coarse: not for this grid, which is too small for a search"
    share = cost.coarse_seconds / cost.seconds
    if share > WORTH_IT:
        return (
            f"--coarse is not worth it here: about {100 * share:.0f} % of that time, many cells train at once; "
            "it finds the best cells only, and leaves separability open"
        )
    return (
        f"--coarse: about {cost.coarse_seconds:.0f} s ({100 * share:.0f} %) for the best cells only; "
        "separability stays open"
    )
