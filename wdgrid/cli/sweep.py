"""`wdgrid sweep`: trains the missing cells of a study, then draws its report."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from wdgrid.cli.common import AsJson, NoCode, Out, Quiet, Storage, StudyWord, Style
from wdgrid.cli.resume_command import SweepCommand

MISSING = 3  # exit status if cells have no result at the end


class WithRay(TyperCommand):
    """A command whose option --ray may be given without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the address "auto" after a --ray without an address."""
        from wdgrid.runner.cluster.address import AUTO, looks_like_address

        for i in reversed(range(len(args))):
            if args[i] == "--ray" and not (i + 1 < len(args) and looks_like_address(args[i + 1])):
                args.insert(i + 1, AUTO)
        return super().parse_args(ctx, args)


def sweep(
    study_word: StudyWord,
    storage: Storage = None,
    out: Out = Path("reports"),
    name: Annotated[str | None, typer.Option(help="Name of the study; by default the name of its file.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; overrides task.device.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, such as task.epochs=5. May be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add new axis values, seeds or panels to the stored study.")
    ] = False,
    coarse: Annotated[
        bool,
        typer.Option(
            help="Search for the best cells only, at no more than a quarter of the grid's cells × epochs: train every "
            "second value of each axis for a quarter of the epochs, then the most promising cells in full. The others "
            "are not trained, so separability is not measured; without --coarse the same command trains them.",
        ),
    ] = False,
    no_code: NoCode = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Train failed cells again, also those that failed three times.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for cells that other processes hold; train those that they drop."),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of worker processes; by default one a core, or one on a GPU. With --ray: workers on the "
            "cluster; by default as many as it has room for.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Train on a Ray cluster: HOST:PORT, or no address for the cluster that this machine belongs to. Needs "
            "wdgrid[ray] on every node.",
            metavar="[ADDRESS]",
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            help="With --ray: GPUs for each worker, such as 0.5; by default 1 if the study may use a GPU and the "
            "cluster has any."
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints, with --ray on storage that every node has. By default beside the database; "
            "with --ray they are copied to this machine.",
            metavar="DIR",
        ),
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between checkpoints inside a chunk that takes longer than that.")
    ] = 5.0,
    style: Style = "cells",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train the cells of a study that are not trained yet, then draw its report. The same command resumes it.

    A study file that names code as package.module:function runs it.

    Exit status: 0 if every cell is finished; 3 if cells are missing at the end, because they failed before or another
    process holds them (the last line says what to do); 1 after a fault of the machine; 2 for bad input; 130,
    143 or 129 after Ctrl-C, SIGTERM or SIGHUP.
    """
    import wdgrid
    from wdgrid.cli.drawing import Preparation, draw
    from wdgrid.cli.progress import show
    from wdgrid.cli.signals import as_interrupts, exit_status
    from wdgrid.report.output import check_output
    from wdgrid.runner import naming
    from wdgrid.runner.events import Event, SweepEnded, TrainingStarted
    from wdgrid.study.bundled import study_path

    overrides = [*(override or []), *([f"task.device={device}"] if device else [])]
    path = study_path(study_word)
    name = naming.checked_name(name or path.stem)
    check_output(out / name)
    gpus = None if gpus_per_worker is None else f"{gpus_per_worker:g}"
    options = {"--ray": ray, "--gpus-per-worker": gpus, "--checkpoints": checkpoints}
    given = tuple(word for option, value in options.items() if value is not None for word in (option, str(value)))
    command = SweepCommand(study_word, tuple(overrides), storage, name if name != path.stem else None, coarse, given)
    missing, preparing = 0, Preparation()
    try:
        with as_interrupts(), show(quiet, str(command)) as shown:

            def listen(event: Event) -> None:
                nonlocal missing
                match event:
                    case TrainingStarted():
                        preparing.start()
                    case SweepEnded():
                        missing = event.missing
                    case _:
                        pass
                shown(event)

            wdgrid.sweep(
                study_word,
                overrides=overrides,
                name=name,
                storage=storage,
                progress=listen,
                allow_code=not no_code,
                workers=workers,
                checkpoint_minutes=checkpoint_minutes,
                extend=extend,
                coarse=coarse,
                retry=retry,
                wait=wait,
                ray=ray or False,
                gpus_per_worker=gpus_per_worker,
                checkpoints=checkpoints,
            )
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(exit_status(interrupt)) from None
    preparing.join()
    url = naming.storage_url(storage, naming.database_folder(study_word, name), name)
    with naming.open_store(url) as store:
        draw(store, name, out, style, as_json, quiet, replace(command, coarse=False, options=()))
    if missing:
        raise typer.Exit(MISSING)
