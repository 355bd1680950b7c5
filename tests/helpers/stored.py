"""Stores filled without training: planned from a study, finished with fabricated outcomes."""

import math
from collections.abc import Callable
from pathlib import Path

from wdgrid.runner.reconcile import plan
from wdgrid.store import Store
from wdgrid.study import Cell, Curve, Outcome, Study


def fabricated(error: float) -> Outcome:
    blown = not math.isfinite(error)
    curve = Curve([] if blown else [error + 10, error], [] if blown else [1.0, 0.5], [] if blown else [1.0, 0.5])
    loss = math.nan if blown else 0.5
    return Outcome(error, loss, loss, 0.1, 7.0, 17 if blown else None, 0.1, curve)


def valley(cell: Cell) -> float:
    """Errors with a lowest cell at a rate of 1/4 without decay; the largest rates and decays diverge."""
    lr, decay = cell.hyperparameters["lr"], cell.hyperparameters["weight_decay"]
    return math.inf if lr >= 1 and decay > 0.05 else 10 + 100 * abs(lr - 0.25) + 100 * decay


def fill(
    store: Store,
    name: str,
    study: Study,
    error: Callable[[Cell], float],
    at_most: int = 10**9,
    only: dict[str, list[tuple[str, str]]] | None = None,
) -> int:
    """Finishes up to `at_most` waiting cells (of those in `only`) with the errors given; how many were."""
    planned = {(c.panel, c.seed, c.multiples): c for cells in study.cells().values() for c in cells}
    done = 0
    for (panel, seed), waiting in store.pending(name, only).items():
        wanted = min(waiting, at_most - done)
        if wanted > 0:
            claims = store.claim(name, panel, seed, wanted, "test", only=only)
            cells = [planned[c.panel, c.seed, c.multiples] for c in (claim.cell for claim in claims)]
            store.finish([(k, fabricated(error(c))) for k, c in zip(claims, cells, strict=True)], "test")
            done += len(claims)
    return done


def make_store(folder: Path, name: str, study: Study, error: Callable[[Cell], float], at_most: int = 10**9) -> str:
    """studies/NAME.db in `folder`; its URL."""
    (folder / "studies").mkdir(exist_ok=True)
    url = f"sqlite:///{folder}/studies/{name}.db"
    with Store(url) as store:
        plan(store, name, study)
        fill(store, name, study, error, at_most)
    return url
