"""Runs what a user would run instead of wdgrid: Optuna's GridSampler around an ordinary training loop.

    python peers.py work.json --storage sqlite:///peers.db [--processes 2] [--style careful|usual]
                              [--precision bfloat16]

nn.Module, torch.optim, DataLoader, one Optuna study a panel, a trial a cell, the test error reported every epoch.
`--processes 1` keeps torch's default threads; with more, each has one thread and all share the storage, as Optuna's
documentation recommends. bfloat16 is torch.autocast. Two styles:

- careful: what is slow in pure Python is done for a whole minibatch (shift, flip, test), and JPEG files are decoded
  once, which favours the peer;
- usual: the shift in the dataset's `__getitem__`, JPEG files decoded there, the test set through a DataLoader.

It does not import wdgrid; `work.json` holds the cells (see `work.py`). Prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from minibatches import Train, minibatches


def main() -> None:
    """Creates the studies, then runs them here or in processes that join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="JSON file with the cells")
    parser.add_argument("--storage", required=True, help="Optuna storage URL")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--style", choices=("careful", "usual"), default="careful")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--join", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    work = json.loads(options.work.read_text(encoding="utf-8")) | {"precision": options.precision}
    storage = optuna.storages.RDBStorage(options.storage, engine_kwargs={"connect_args": {"timeout": 60}})
    if not options.join:
        for panel in work["panels"]:
            optuna.create_study(study_name=panel["optimizer"], storage=storage, direction="minimize")
    if options.processes > 1 and not options.join:
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, *sys.argv, "--join"]
        joined = [subprocess.Popen(command, env=one_thread) for _ in range(options.processes)]
        statuses = [process.wait() for process in joined]
        if any(statuses):
            sys.exit(1)
    else:
        sweep(work, storage, options.style, one_thread=options.join)
    if not options.join:
        print(json.dumps(_told(work, storage)))


def sweep(work: dict[str, Any], storage: optuna.storages.BaseStorage, style: str, *, one_thread: bool) -> None:
    """Every panel's grid, until it is exhausted."""
    import torch

    if one_thread:
        torch.set_num_threads(1)
    batches = minibatches(work, style)
    for panel in work["panels"]:
        grid = {"lr": panel["lr"], "weight_decay": panel["weight_decay"]}
        sampler = optuna.samplers.GridSampler(grid, seed=0)
        study = optuna.load_study(study_name=panel["optimizer"], storage=storage, sampler=sampler)
        if not sampler.is_exhausted(study):
            study.optimize(_objective(work, panel, batches))


def _told(work: dict[str, Any], storage: optuna.storages.BaseStorage) -> dict[str, int]:
    """Trials that ran (GridSampler repeats some between processes) and the cells they cover."""
    trials, cells, reports = 0, 0, 0
    for panel in work["panels"]:
        done = optuna.load_study(study_name=panel["optimizer"], storage=storage).get_trials(deepcopy=False)
        trials += len(done)
        cells += len({tuple(sorted(t.params.items())) for t in done if t.state.is_finished()})
        reports += sum(len(t.intermediate_values) for t in done)
    return {"trials": trials, "cells": cells, "reports": reports}


def _objective(
    work: dict[str, Any], panel: dict[str, Any], batches: tuple[Train, Iterable[Any]]
) -> Callable[[optuna.Trial], float]:
    """A trial is a cell."""
    from training import train

    lrs, decays = panel["lr"], panel["weight_decay"]

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", min(lrs), max(lrs))
        decay = trial.suggest_float("weight_decay", min(decays), max(decays))
        return train(work, panel["optimizer"], lr, decay, batches, trial.report)

    return objective


if __name__ == "__main__":
    main()
