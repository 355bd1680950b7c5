"""Runs Ray Tune's grid_search around the same training loop: one trial for each cell, one core for each trial.

    python ray_tune.py work.json --results FOLDER [--style careful|usual]

Needs `ray[tune]`, which wdgrid does not install. Ray's processes stay for several trials. Prints one line of JSON.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}

import ray
from ray import tune


def main() -> None:
    """One Tuner a panel, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="JSON file with the cells")
    parser.add_argument("--results", type=Path, required=True, help="where Ray keeps trials")
    parser.add_argument("--style", choices=("careful", "usual"), default="careful")
    options = parser.parse_args()
    work = json.loads(options.work.read_text(encoding="utf-8")) | {"precision": "float32"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ray.init(num_cpus=cores, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    trials, cells = 0, set()
    for panel in work["panels"]:
        trial = tune.with_resources(partial(_trial, work, panel["optimizer"], options.style), {"cpu": 1})
        space = {axis: tune.grid_search(panel[axis]) for axis in ("lr", "weight_decay")}
        run = tune.RunConfig(name=panel["optimizer"], storage_path=str(options.results.absolute()), verbose=0)
        found = tune.Tuner(
            trial, param_space=space, tune_config=tune.TuneConfig(reuse_actors=True), run_config=run
        ).fit()
        trials += len(found)
        cells |= {(panel["optimizer"], *r.config.values()) for r in found if not r.error and "error" in r.metrics}
    print("\n" + json.dumps({"trials": trials, "cells": len(cells)}))


def _trial(work: dict[str, Any], optimizer: str, style: str, config: dict[str, float]) -> None:
    """Runs in one of Ray's processes; Ray gives it one thread."""
    from minibatches import minibatches
    from training import train

    def report(error: float, epoch: int) -> None:
        tune.report({"error": error, "epoch": epoch})

    train(work, optimizer, config["lr"], config["weight_decay"], minibatches(work, style), report)


if __name__ == "__main__":
    main()
