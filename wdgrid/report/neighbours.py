"""Writes a study's finished cells as offline runs of TensorBoard, MLflow or Weights & Biases, one run a cell and seed.

A run has the hyperparameters, the learning curves and the final errors in percent. A diverged cell has no error, but
the step at which it diverged.
"""

# The three libraries are extras, and typed in part or not at all.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportAttributeAccessIssue=false

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from wdgrid.errors import OutputError, UsageError
from wdgrid.report.export import HYPERPARAMETERS
from wdgrid.report.output import check_output

Neighbour = Literal["tensorboard", "mlflow", "wandb"]
FINAL = ("test_error", "validation_error", "test_loss", "train_loss", "weight_norm", "seconds")
CURVES = ("test_error", "validation_error", "test_loss", "train_loss")


@dataclass(frozen=True)
class Run:
    """One finished cell and seed. `curves` are (name, epoch, value); `facts` say what no number does."""

    name: str
    panel: str
    hyperparameters: dict[str, float]
    facts: dict[str, str]
    final: dict[str, float]
    curves: list[tuple[str, int, float]]


def runs_of(table: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Run]:
    """The finished cells of a study, from its tables."""
    by_trial = dict(iter(curves.groupby(["panel", "number"], sort=False)))
    for cell in table.loc[table["state"] == "complete"].to_dict("records"):
        panel, number = str(cell["panel"]), int(cell["number"])
        block: Any = by_trial.get((panel, number), curves.iloc[:0])
        facts = {name: str(cell[name]) for name in ("panel", "optimizer", "schedule", "epochs", "seed", "row", "col")}
        if not pd.isna(cell["diverged_at"]):
            facts["diverged_at"] = str(int(cell["diverged_at"]))
        yield Run(
            f"{panel}-{number:05d}",
            panel,
            _finite({name: cell[name] for name in HYPERPARAMETERS}),
            facts,
            _finite({name: cell[name] for name in FINAL}),
            [
                (kind, int(epoch), float(value))
                for kind in CURVES
                if kind in block
                for epoch, value in zip(block["epoch"], block[kind], strict=True)
                if math.isfinite(value)
            ],
        )


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not pd.isna(value) and math.isfinite(value)}


def export_runs(to: Neighbour, study: str, table: pd.DataFrame, curves: pd.DataFrame, out: Path) -> int:
    """Writes the runs into the folder `out`, whole or not at all; how many there are.

    Raises UsageError where the library is missing or the folder is not empty, OutputError where it cannot be written.
    """
    write: Callable[[str, Sequence[Run], Path], None] = {
        "tensorboard": _tensorboard,
        "mlflow": _mlflow,
        "wandb": _wandb,
    }[to]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already and is not an empty folder; give --out another one")
    check_output(out)
    runs = list(runs_of(table, curves))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as part:
            place = Path(part, "runs")
            place.mkdir()
            write(study, runs, place.absolute())
            if out.is_dir():
                out.rmdir()
            shutil.move(place, out)
    except ModuleNotFoundError:
        raise UsageError(f"--to {to} needs a library that is missing: python -m pip install 'wdgrid[{to}]'") from None
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    return len(runs)


def _tensorboard(study: str, runs: Sequence[Run], out: Path) -> None:
    """One folder of events a run, for `tensorboard --logdir`; its hyperparameters are in the HPARAMS tab."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    for run in runs:
        folder = out / run.name
        folder.mkdir(parents=True)
        with (folder / f"events.out.tfevents.{int(now)}.wdgrid").open("wb") as file:
            writer = RecordWriter(file)
            given = hparams_pb({**run.hyperparameters, **run.facts}, trial_id=run.name, start_time_secs=now)
            events = [Event(wall_time=now, file_version="brain.Event:2")]
            events.append(Event(wall_time=now, summary=given))
            points = [*run.curves, *((f"final/{name}", 0, value) for name, value in run.final.items())]
            for name, epoch, value in points:
                summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                events.append(Event(wall_time=now, step=epoch, summary=summary))
            for event in events:
                writer.write(event.SerializeToString())
            writer.flush()


def _mlflow(study: str, runs: Sequence[Run], out: Path) -> None:
    """A database for `mlflow ui --backend-store-uri sqlite:///OUT/mlflow.db`, with one experiment."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    experiment = client.create_experiment(study, artifact_location="artifacts")
    now = int(1000 * time.time())
    for run in runs:
        made = client.create_run(experiment, run_name=run.name).info.run_id
        last = max((epoch for _, epoch, _ in run.curves), default=0)
        metrics = [Metric(name, value, now, epoch) for name, epoch, value in run.curves]
        metrics += [Metric(f"final_{name}", value, now, last) for name, value in run.final.items()]
        params = [Param(name, f"{value:.17g}") for name, value in run.hyperparameters.items()]
        tags = [RunTag(name, value) for name, value in run.facts.items()]
        for first in range(0, max(1, len(metrics)), 1000):  # as many as a batch may have
            client.log_batch(made, metrics[first : first + 1000], [] if first else params, [] if first else tags)
        client.set_terminated(made)


def _wandb(study: str, runs: Sequence[Run], out: Path) -> None:
    """Offline runs in OUT/wandb, which `wandb sync` uploads where one wants that."""
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    for run in runs:
        settings = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
        )
        made = wandb.init(
            mode="offline",
            dir=str(out),
            project=study,
            name=run.name,
            group=run.panel,
            config={**run.hyperparameters, **run.facts},
            settings=settings,
        )
        by_epoch: dict[int, dict[str, float]] = {}
        for name, epoch, value in run.curves:
            by_epoch.setdefault(epoch, {})[name] = value
        for epoch, values in sorted(by_epoch.items()):
            made.log(values, step=epoch)
        made.summary.update({f"final_{name}": value for name, value in run.final.items()})
        made.finish()
