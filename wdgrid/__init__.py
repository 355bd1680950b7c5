"""Trains a grid of (learning rate, weight decay) cells and measures whether the two can be tuned separately.

From Python: `load_study` reads a study, `sweep` trains it, `load` reads stored results. torch, Optuna and pandas are
imported when they are first needed.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wdgrid.errors import MachineError, StoreError, StudyFileError, UsageError, UsersFaultError, WdgridError

if TYPE_CHECKING:
    from wdgrid.results import Best, Results, TorchOptimizer
    from wdgrid.runner.check import Checked
    from wdgrid.runner.events import Event
    from wdgrid.study import Study

__version__ = version("wdgrid")
__all__ = [
    "Best",
    "Checked",
    "Event",
    "MachineError",
    "Results",
    "StoreError",
    "Study",
    "StudyFileError",
    "TorchOptimizer",
    "UsageError",
    "UsersFaultError",
    "WdgridError",
    "__version__",
    "check",
    "load",
    "load_study",
    "sweep",
]
_TYPES = {
    "Best": "wdgrid.results",
    "Checked": "wdgrid.runner.check",
    "Event": "wdgrid.runner.events",
    "Results": "wdgrid.results",
    "Study": "wdgrid.study",
    "TorchOptimizer": "wdgrid.results",
}


def __getattr__(name: str) -> Any:
    """The types of the API, imported when they are first used."""
    if name not in _TYPES:
        raise AttributeError(f"module 'wdgrid' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_TYPES[name]), name)


def load_study(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, allow_code: bool = True
) -> "Study":
    """A study, validated and frozen, from a study file, from its name, or from a mapping with a study file's content.

    A name stands for studies/NAME.toml here, else for a study that ships with wdgrid. `overrides` are
    `path.to.field=value`, as after `wdgrid sweep --set`. Without `allow_code`, a study that names code as
    `package.module:function` is refused. Raises StudyFileError with one line for each fault.

    >>> import wdgrid
    >>> study = wdgrid.load_study("digits", ["task.epochs=2"])
    >>> study.task.epochs, list(study.panel_names())
    (2, ['sgd', 'sgdw', 'adam', 'adamw'])
    >>> axes = {"lr": {"values": "1..1/4"}, "weight_decay": {"values": "0, 1"}}
    >>> mine = wdgrid.load_study({"task": {"epochs": 2}, "axes": axes, "panels": [{"optimizer": "sgd"}]})
    >>> len(mine.cells()["sgd"])
    6
    """
    from wdgrid.study.bundled import study_path
    from wdgrid.study.file import load_study as read
    from wdgrid.study.file import refuse_code, study_of

    if not isinstance(source, Mapping):
        return read(study_path(str(source)), overrides, allow_code=allow_code)
    study = study_of(source, overrides)
    if not allow_code:
        refuse_code(study)
    return study


def check(
    study: "Study | str | Path | Mapping[str, Any]",
    *,
    overrides: Sequence[str] = (),
    model: Callable[..., Any] | None = None,
    data: object = None,
) -> "Checked":
    """Tries a study's network and data: a minibatch forward and backward, and a test pass; nothing is stored.

    The arguments are as in `sweep`, which does the same before it plans a cell. Raises StudyFileError, UsageError or
    another WdgridError, which names the user's file and line, where the study cannot be trained.

    >>> import torch, wdgrid
    >>> axes = {"lr": {"values": "1, 1/2"}, "weight_decay": {"values": "0, 1"}}
    >>> study = {"axes": axes, "panels": [{"optimizer": "sgdw"}], "task": {}}
    >>> found = wdgrid.check(study, model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    >>> found.inputs, found.outputs, found.classes, found.parameters, found.cells
    ((1, 8, 8), 10, 10, 650, 4)
    """
    from wdgrid.runner import objects
    from wdgrid.runner.check import check as try_out
    from wdgrid.study import Study

    definition = study if isinstance(study, Study) else load_study(study, overrides)
    with objects.named(definition, model, data) as tried:
        return try_out(tried)


def sweep(
    study: "Study | str | Path | Mapping[str, Any]",
    *,
    overrides: Sequence[str] = (),
    name: str | None = None,
    storage: str | Path | None = None,
    model: Callable[..., Any] | None = None,
    data: object = None,
    progress: "bool | Callable[[Event], None]" = True,
    allow_code: bool = True,
    workers: int | None = None,
    checkpoint_minutes: float = 5.0,
    extend: bool = False,
    coarse: bool = False,
    retry: bool = False,
    wait: bool = False,
    ray: bool | str = False,
    gpus_per_worker: float | None = None,
    checkpoints: str | Path | None = None,
) -> "Results":
    """Trains the cells of a study that are not trained yet, and returns its results. The same call again resumes it.

    `study` is what `load_study` returned, or what it takes, with `overrides` and `allow_code`. The study is stored
    under `name`, which is needed unless a file or a name was given. `storage` is a URL, or the path of an SQLite file;
    by default NAME.db beside the study file, in studies/ if there is such a folder here, else here. `workers` is the
    number of processes that train; the default is one a core. `checkpoint_minutes` is the time between checkpoints
    within a chunk. `extend` allows new axis values, seeds and panels. `coarse` searches for the best cells only.
    `retry` trains failed cells again, also those that failed three times. `wait` waits for cells that other processes
    hold, and trains those that they drop. `ray` trains on a Ray cluster: its address HOST:PORT, or True for the one
    that this machine belongs to. `workers` is then by default as many as the cluster has room for, and each takes
    `gpus_per_worker` GPUs. `checkpoints` is a folder for checkpoints, with `ray` on storage that every node has.
    `progress` shows progress on stderr; if it is a function, it is called with
    the events of `wdgrid.runner.events` instead, the last of which, `SweepEnded`, has the numbers of finished and
    missing cells.

    `model` and `data` are Python objects that replace the study's network and dataset. `model` is a function that
    returns a new network. It is called once for each seed, with torch seeded, so that seeds differ in their initial
    weights. `data` is train_x, train_y, test_x, test_y as tensors or NumPy arrays (classes are integers from 0), or a
    function that returns them. If the study itself names a function, yours gets the same `model_args` or
    `dataset_args`, else no arguments. A sweep with objects trains in this process, with one thread (or on the GPU).
    Only a call with the same objects can resume or extend it, because no command and no other machine can import them.
    The stored study holds the SHA-256 of the data's bytes and of the network's layers and shapes (not of its code);
    another object under the same name is refused as a changed study.

    Ctrl-C raises KeyboardInterrupt after the workers have ended; finished cells are stored. Raises StudyFileError if
    the study is not valid or another one is stored under its name, UsersFaultError if it cannot be trained, UsageError
    for other bad input, and MachineError if the machine failed (finished cells are stored).

    >>> import numpy as np, torch, wdgrid
    >>> random = np.random.default_rng(0)
    >>> y = random.integers(0, 2, 80)
    >>> x = random.normal(size=(80, 3)) + y[:, None]
    >>> axes = {"lr": {"values": "1, 1/2"}, "weight_decay": {"values": "0, 1", "unit": 0.01}}
    >>> study = {"task": {"epochs": 2, "batch_size": 20}, "axes": axes, "panels": [{"optimizer": "sgdw"}]}
    >>> data = x[:60], y[:60], x[60:], y[60:]
    >>> results = wdgrid.sweep(study, name="blobs", model=lambda: torch.nn.Linear(3, 2), data=data, progress=False)
    >>> results.table()["state"].tolist()
    ['complete', 'complete', 'complete', 'complete']
    """
    from wdgrid.runner import naming, objects
    from wdgrid.runner.check import check_code
    from wdgrid.runner.cluster import AUTO, ray_of
    from wdgrid.runner.handle import cores, memory_for_workers, started_early
    from wdgrid.study import Study
    from wdgrid.study.file import refuse_code

    in_process = model is not None or data is not None
    if in_process and workers not in (None, 1):
        raise UsageError(f"workers = {workers}: a network or data given as Python objects are trained by one worker")
    if in_process and ray:
        raise UsageError("ray: a network or data given as Python objects are trained in this process")
    if isinstance(study, Study) and overrides:
        raise UsageError("overrides: give them to load_study; a Study cannot be changed")
    word = str(study) if isinstance(study, str | Path) else None
    place = naming.place_of(word, name, storage, new=True)
    definition = study if isinstance(study, Study) else load_study(study, overrides, allow_code=allow_code)
    if not allow_code:
        refuse_code(definition)
    if not in_process:
        check_code(definition)
    database = naming.sqlite_path(place.url)
    is_new = database is not None and not database.exists()  # else there may be nothing to train
    elsewhere = in_process or ray is not False
    n_cells = sum(len(cells) for cells in definition.cells().values())
    early = min(workers or cores(), memory_for_workers(), n_cells) if is_new and not elsewhere else 0
    with started_early(early):
        from wdgrid.results import Results
        from wdgrid.runner.run import Settings, sweep_store
        from wdgrid.runner.run import sweep as run

        settings = Settings(
            checkpoints=Path(checkpoints) if checkpoints else place.checkpoints,
            workers=workers,
            ray=ray_of(AUTO if ray is True else ray or None, gpus_per_worker),
            shared=checkpoints is not None,
            checkpoint_seconds=60 * checkpoint_minutes,
            extend=extend,
            coarse=coarse,
            retry=retry,
            wait=wait,
            in_process=in_process,
            attributes=naming.command_attributes(word, overrides) if word and not in_process else {},
            environment=objects.words(model, data),
        )
        with (
            objects.named(definition, model, data) as trained,
            sweep_store(place.url) as store,
            _listening(progress) as listen,
        ):
            run(store, place.name, trained, settings, listen)
    return Results(place.name, place.url)


@contextmanager
def _listening(progress: "bool | Callable[[Event], None]") -> "Generator[Callable[[Event], None]]":
    if callable(progress):
        yield progress
    elif progress:
        from wdgrid.cli.progress import show

        with show(quiet=False) as listen:
            yield listen
    else:
        yield lambda event: None


def load(name: str | Path, *, storage: str | Path | None = None) -> "Results":
    """The results of a stored study, by its name or its file; `storage` is as in `sweep`.

    Raises UsageError if the storage cannot be opened or does not hold the study.

    >>> import wdgrid
    >>> results = wdgrid.load("blobs")
    >>> sorted(results.analysis())
    ['sgdw']
    >>> best = results.best()
    >>> best.torch().name, sorted(best.torch().arguments)
    ('SGD', ['lr', 'momentum'])
    """
    from wdgrid.results import Results
    from wdgrid.runner.naming import place_of

    place = place_of(str(name), None, storage)
    return Results(place.name, place.url)
