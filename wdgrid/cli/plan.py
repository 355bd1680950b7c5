"""`wdgrid plan` and `wdgrid doctor`: what a study will cost here, and what "here" is, before anything is trained."""

import math
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from wdgrid.cli.common import AsJson, StudyWord, print_json


def plan(
    study_word: StudyWord,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, such as task.epochs=5. May be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one a core if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a study will cost: cells, steps, FLOPs, memory and time, from a few measured steps; trains nothing."""
    from wdgrid.cli.progress import show_preparing
    from wdgrid.engine import Job, Workbench, chunk_size, one_thread
    from wdgrid.engine.estimate import cost
    from wdgrid.runner.eta import even_chunk, seconds
    from wdgrid.runner.run import cores
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path

    path = study_path(study_word)
    study = load_study(path, override or [])
    one_thread()
    with show_preparing() as tell:
        bench = Workbench(study.task, tell)
    per_seed = math.prod(len(axis.values) for axis in study.axes.values())
    size = even_chunk(per_seed, chunk_size(bench))
    chunks = math.ceil(per_seed / size) * len(study.seeds)
    on_cpu = bench.device.type == "cpu"
    processes = (workers or cores()) if on_cpu else 1
    rows, cells = [], study.cells()
    for name, panel in study.panel_names().items():
        epochs = study.panel_epochs(panel)
        job = Job(panel.optimizer, panel.schedule, epochs, study.normalized(panel))
        one = cost(bench, job, [c for c in cells[name] if c.seed == study.seeds[0]][:size], size)
        rows.append(
            {
                "panel": name,
                "cells": len(cells[name]),
                "steps": len(cells[name]) * epochs * bench.steps_per_epoch,
                "tflop": len(cells[name]) * epochs * (one.train_flops + one.test_flops) / 1e12,
                "seconds": seconds(chunks * epochs, one.epoch_seconds, min(processes, chunks)),
                "state_mib": one.state_bytes / 2**20,
            }
        )
    network = bench.network(study.seeds[0], 1)
    told = {
        "study": path.stem,
        "device": str(bench.device),
        "network": bench.backend,
        "parameters": network.size,
        "chunk": size,
        "workers": processes,
        "panels": rows,
        "seconds": sum(row["seconds"] for row in rows),
    }
    print_json(told) if as_json else _print_plan(told)


def _print_plan(told: dict[str, Any]) -> None:
    typer.echo(
        f"{told['study']}: network of {told['parameters']} parameters ({told['network']}), "
        f"chunks of {told['chunk']} cells, {told['workers']} worker processes on {told['device']}"
    )
    typer.echo(f"{'panel':20} {'cells':>7} {'steps':>12} {'TFLOP':>9} {'seconds':>9} {'state a worker':>15}")
    for row in told["panels"]:
        typer.echo(
            f"{row['panel']:20} {row['cells']:7} {row['steps']:12} {row['tflop']:9.3g} {row['seconds']:9.1f} "
            f"{row['state_mib']:11.1f} MiB"
        )
    typer.echo(
        f"about {told['seconds']:.0f} s of training, measured with one process alone; starting takes some seconds "
        "more, and processes that share caches and memory slow each other down"
    )


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: device, cores, versions, memory, matrix speed, storage, and what to beware of."""
    from importlib.metadata import version

    from wdgrid.engine.estimate import devices, gemm_rate
    from wdgrid.engine.memory import free
    from wdgrid.engine.native.backend import works
    from wdgrid.engine.native.compiler import compiler
    from wdgrid.runner.run import cores

    n = cores()
    here = Path("studies") if Path("studies").is_dir() else Path()
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in ("wdgrid", "torch", "optuna", "numpy", "pandas")},
        "cores": n,
        "gpus": devices(),
        "c_compiler": " ".join(compiler()) if works() else None,
        "gemm_gflops_one_core": round(gemm_rate(1), 1),
        "gemm_gflops_all_cores": round(gemm_rate(n), 1),
        "memory_gib": round(free("cpu") / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(here).free / 2**30, 1),
        "storage_folder": str(here.resolve()),
    }
    found["warnings"] = list(_warnings(found, here))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = "; ".join(value) or "none"
        value = "none" if value is None else value
        typer.echo(f"{key.replace('_', ' '):24} {value}")


def _warnings(found: dict[str, Any], here: Path) -> Any:
    if not os.access(here, os.W_OK):
        yield f"{here.resolve()} cannot be written: give --storage and --out"
    if found["disk_free_gib"] < 1:
        yield "less than 1 GiB of disk is free"
    if found["memory_gib"] < 1 * found["cores"]:
        yield "less than 1 GiB of memory a core: give --workers"
    if not found["c_compiler"]:
        yield "no C compiler that works (cc, or what $CC names): perceptrons take about three times as long on a CPU"
    if found["gpus"]:
        yield "the CUDA path has never run on a GPU: compare a small study with one of --device cpu before you trust it"
    mounts = Path("/proc/mounts")
    if mounts.exists():
        folders = [line.split()[1:3] for line in mounts.read_text(encoding="utf-8").splitlines()]
        inside = [(len(m), kind) for m, kind in folders if str(here.resolve()).startswith(m)]
        if inside and max(inside)[1] in ("nfs", "nfs4", "cifs", "smb3", "lustre"):
            yield "storage is on a network file system, where SQLite may lose data: give --storage postgresql+psycopg://…"
