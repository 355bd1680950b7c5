"""Measures what a study will cost on this machine, from a few steps; nothing is stored."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wdgrid.runner.eta import even_chunk, repays_measuring, seconds
from wdgrid.runner.handle import cores
from wdgrid.runner.rounds import search_share
from wdgrid.study import Study

if TYPE_CHECKING:
    from wdgrid.engine import Workbench


@dataclass(frozen=True)
class PanelCost:
    """The cost of a panel: `cells` over all seeds, their `steps`, model FLOPs in 10¹², and wall time.

    `state_mib` is the memory of weights, gradients and moments of a worker's chunk.
    """

    panel: str
    cells: int
    steps: int
    tflop: float
    seconds: float
    state_mib: float


@dataclass(frozen=True)
class StudyCost:
    """The cost of a study: device, backend, parameters, cells of a chunk, workers, and wall time with all workers.

    `coarse_seconds` is the wall time of a search (`--coarse`) instead; None if the grid is too small for one.
    `measured` has µs a step of a cell by backend and K, if the study is long enough for backends to be measured.
    """

    device: str
    backend: str
    parameters: int
    chunk: int
    workers: int
    panels: list[PanelCost]
    seconds: float
    coarse_seconds: float | None
    measured: dict[str, float]


def measure(study: Study, workers: int | None, tell: Callable[[str, int, int], None]) -> StudyCost:
    """Measures a study with one process; `workers` None: one per core. `tell` is called with progress on the data.

    Raises DataError, ModelError or LoadingError if the study's data or network cannot be loaded.
    """
    from wdgrid.engine import Job, Workbench, chunk_size, one_thread
    from wdgrid.engine.choice import fastest
    from wdgrid.engine.estimate import cost

    one_thread()
    bench = Workbench(study.task, tell)
    per_seed = math.prod(len(axis.values) for axis in study.axes.values())
    size = even_chunk(per_seed, chunk_size(bench))
    processes = (workers or cores()) if bench.device.type == "cpu" else 1
    panels: list[PanelCost] = []
    cells, measured = study.cells(), dict[str, float]()
    if _repays(bench, study, size, processes):
        name, panel = next(iter(study.panel_names().items()))
        job = Job(panel.optimizer, panel.schedule, study.panel_epochs(panel), study.normalized(panel))
        best = fastest(bench, job, [cell for cell in cells[name] if cell.seed == study.seeds[0]], size)
        size = size if best.cells == size else even_chunk(per_seed, best.cells)
        bench, measured = bench.computing(best.backend), best.microseconds
    chunks = math.ceil(per_seed / size) * len(study.seeds)
    for name, panel in study.panel_names().items():
        epochs, n = study.panel_epochs(panel), len(cells[name])
        job = Job(panel.optimizer, panel.schedule, epochs, study.normalized(panel))
        one = cost(bench, job, [c for c in cells[name] if c.seed == study.seeds[0]][:size], size)
        panels.append(
            PanelCost(
                panel=name,
                cells=n,
                steps=n * epochs * bench.steps_per_epoch,
                tflop=n * epochs * (one.train_flops + one.test_flops) / 1e12,
                seconds=seconds(chunks * epochs, one.epoch_seconds, min(processes, chunks)),
                state_mib=one.state_bytes / 2**20,
            )
        )
    network = bench.network(study.seeds[0], 1)
    total, backend = sum(panel.seconds for panel in panels), bench.probe(size).backend
    share = search_share(study, size, one_by_one=backend == "native")
    coarse = None if share is None else share * total
    return StudyCost(str(bench.device), backend, network.size, size, processes, panels, total, coarse, measured)


def _repays(bench: "Workbench", study: Study, size: int, processes: int) -> bool:
    """Whether a sweep would measure the backends."""
    passed = bench.probe(size).seconds if bench.device.type == "cpu" else None
    per_seed = math.prod(len(axis.values) for axis in study.axes.values())
    epochs = sum(study.panel_epochs(panel) for panel in study.panel_names().values()) * len(study.seeds)
    steps = math.ceil(per_seed / size) * epochs * bench.steps_per_epoch
    return passed is not None and repays_measuring(steps, passed, processes)
