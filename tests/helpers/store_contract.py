"""What the store's tests put into it, and what Optuna makes of that."""

from collections import Counter
from contextlib import contextmanager

import optuna

from wdgrid.study import Cell, Curve, Outcome

optuna.logging.set_verbosity(optuna.logging.WARNING)
SETTINGS = {"adamw": {"optimizer": "adamw", "schedule": "cosine", "epochs": 3}}


@contextmanager
def optuna_storage(url):
    storage = optuna.storages.RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def optuna_trials(url, study_name="digits/adamw"):
    with optuna_storage(url) as storage:
        return optuna.load_study(study_name=study_name, storage=storage).get_trials()


def grid(rows=2, cols=3, seeds=(0,), panel="adamw", first=0):
    return [
        Cell(panel, seed, {"lr": 0.001 * 2**i, "weight_decay": 0.1 * j, "beta1": 0.9, "eps": 1e-8}, (f"{2**i}", f"{j}"))
        for seed in seeds
        for i in range(first, first + rows)
        for j in range(cols)
    ]


def outcome(error=5.0, **given):
    curve = Curve([30.0, 10.0, error], [1.0, 0.5, 0.2], [1.1, 0.6, 0.3])
    fields = {"test_loss": 0.2, "train_loss": 0.3, "l2_term": 0.01, "weight_norm": 7.0, "diverged_at": None}
    return Outcome(**{"test_error": error, **fields, "seconds": 1.5, "curve": curve, **given})


def plan(store, cells=None, study="digits", digest="sha", **given):
    panels = given.pop("panels", None) or {"adamw": grid() if cells is None else cells}
    return store.create(study, panels, '{"a": 1}', digest, {"device": "cpu"}, SETTINGS, **given)


def states(store, study="digits"):
    return dict(Counter(store.table(study)["state"]))
