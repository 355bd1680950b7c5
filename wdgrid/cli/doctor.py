"""`wdgrid doctor`: prints what this machine has, and possible problems."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from wdgrid.cli.common import AsJson, echo, print_json


@dataclass(frozen=True)
class Machine:
    """What `wdgrid doctor` finds."""

    versions: dict[str, str]
    cores: int
    gpus: list[str]
    c_compiler: str | None
    gemm_gflops_one_core: float
    gemm_gflops_all_cores: float
    memory_gib: float
    disk_free_gib: float
    storage_folder: str


def doctor(
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Look at this storage instead: damage and left-overs, and how to mend them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: device, cores, versions, memory, matrix speed, storage, and possible problems.

    With --storage: check a storage, too; exit status 1 if it has a problem.
    """
    if storage is not None:
        _look_at(storage, as_json)
        return
    here = Path("studies") if Path("studies").is_dir() else Path()
    machine = _machine(here)
    found = {**asdict(machine), "warnings": list(_warnings(machine, here))}
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        typer.echo(f"{key.replace('_', ' '):24} {_words(value)}")


def _look_at(url: str, as_json: bool) -> None:
    from wdgrid.runner.naming import open_store

    with open_store(url) as store:
        name, found = store.url, store.problems()
        studies = [] if found else store.studies()
    if as_json:
        print_json({"storage": name, "problems": found})
    for line in [] if as_json else found or [f"{name}: intact; {len(studies)} studies"]:
        echo(line)
    if found:
        raise typer.Exit(1)


def _machine(here: Path) -> Machine:
    from importlib.metadata import version

    from wdgrid.engine.estimate import devices, gemm_rate
    from wdgrid.engine.memory import free
    from wdgrid.engine.native.backend import works
    from wdgrid.engine.native.compiler import compiler
    from wdgrid.runner.handle import cores

    n = cores()
    return Machine(
        versions={name: version(name) for name in ("wdgrid", "torch", "optuna", "numpy", "pandas")},
        cores=n,
        gpus=devices(),
        c_compiler=" ".join(compiler()) if works() else None,
        gemm_gflops_one_core=round(gemm_rate(1), 1),
        gemm_gflops_all_cores=round(gemm_rate(n), 1),
        memory_gib=round(free("cpu") / 2**30, 1),
        disk_free_gib=round(shutil.disk_usage(here).free / 2**30, 1),
        storage_folder=str(here.resolve()),
    )


def _words(value: "dict[str, str] | list[str] | str | float | None") -> str:
    match value:
        case None | []:
            return "none"
        case dict():
            return ", ".join(f"{k} {v}" for k, v in value.items())
        case list():
            return "; ".join(value)
        case _:
            return str(value)


def _warnings(machine: Machine, here: Path) -> Iterator[str]:
    from wdgrid.store.address import network_file_system

    if not os.access(here, os.W_OK):
        yield f"{here.resolve()} cannot be written: give --storage and --out"
    if machine.disk_free_gib < 1:
        yield "less than 1 GiB of disk is free"
    if machine.memory_gib < 1 * machine.cores:
        yield "less than 1 GiB of memory a core: give --workers"
    if not machine.c_compiler:
        yield "no C compiler that works (cc, or what $CC names): perceptrons take about three times as long on a CPU"
    if machine.gpus:
        yield "the CUDA path has never run on a GPU: compare a small study with one of --device cpu before you trust it"
    if kind := network_file_system(here):
        yield f"storage is on a network file system ({kind}): give --storage postgresql+psycopg://…, or a local file"
