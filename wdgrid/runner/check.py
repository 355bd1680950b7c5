"""Tries a study's network and data before anything is planned: one minibatch forward and backward, one test pass."""

from collections.abc import Callable
from dataclasses import dataclass

from wdgrid.errors import StudyFileError, UsersFaultError, WdgridError
from wdgrid.runner.eta import even_chunk
from wdgrid.study import Study
from wdgrid.study.arguments import code_faults
from wdgrid.study.import_by_name import failed_at, in_words


@dataclass(frozen=True)
class Checked:
    """The result of a check: a study that can be trained.

    `inputs` is the shape of one example, `kind` the type of its numbers (float32, uint8, integers). `outputs` may be
    more than the `classes` of the labels. `chunk` cells train together; `cell_seconds` is the training time of a cell
    of the first panel, and `seconds` that of the whole study, in one process. `remarks` are lines for the user.
    """

    inputs: tuple[int, ...]
    kind: str
    examples: str
    train: int
    test: int
    outputs: int
    classes: int
    parameters: int
    device: str
    backend: str
    chunk: int
    cells: int
    cell_seconds: float
    seconds: float
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        data = f"{self.train} training and {self.test} test {self.examples} {'×'.join(map(str, self.inputs))}"
        second = f"{self.cell_seconds:.2g} s" if self.cell_seconds >= 0.01 else "less than 0.01 s"
        return (
            f"{data} ({self.kind}), {self.classes} classes; {self.parameters} parameters, {self.outputs} outputs; "
            f"{self.backend} on {self.device}, {self.chunk} cells at a time; {second} a cell, {self.cells} cells"
        )


def check_code(study: Study) -> None:
    """Raises StudyFileError, with one line per fault, if a function that the study names does not exist or fit.

    Only reads the functions' source; torch is not imported, and nothing is run.
    """
    if faults := list(code_faults(study.task)):
        raise StudyFileError(faults)


def check(study: Study, tell: Callable[[str, int, int], None] = lambda what, done, of: None) -> Checked:
    """Tries a study in this process; nothing is planned or stored. `tell` is called with progress on the data.

    Raises StudyFileError, DataError, ModelError, LoadingError or UsersFaultError, which name the user's file and line.
    """
    check_code(study)
    try:
        return _tried(study, tell)
    except (WdgridError, OSError, MemoryError):
        raise
    except Exception as error:
        raise UsersFaultError(f"{failed_at(error) or study.task.model}: {in_words(error)}") from error


def _tried(study: Study, tell: Callable[[str, int, int], None]) -> Checked:
    import math

    from wdgrid.data import examples
    from wdgrid.engine import Job, Workbench, chunk_size, one_thread
    from wdgrid.engine.estimate import cost

    one_thread()
    bench = Workbench(study.task, tell)
    data = bench.data
    per_seed = math.prod(len(axis.values) for axis in study.axes.values())
    size = even_chunk(per_seed, chunk_size(bench))
    probe = bench.probe(size)
    name, panel = next(iter(study.panel_names().items()))
    epochs, cells = study.panel_epochs(panel), study.cells()
    job = Job(panel.optimizer, panel.schedule, epochs, study.normalized(panel))
    epoch_s = cost(bench, job, cells[name][:size], size).epoch_seconds / size
    budget = sum(len(cells[name]) * study.panel_epochs(panel) for name, panel in study.panel_names().items())
    remarks = [probe.remark] if probe.remark else []
    if probe.fallback:
        remarks.append(f"one cell at a time, as wdgrid has no rule for them: {', '.join(probe.fallback)}")
    kind = "integers" if data.integers else str(data.train_x.dtype).removeprefix("torch.")
    return Checked(
        inputs=tuple(data.prepared(data.train_x[:1]).shape[1:]),
        kind=kind,
        examples=examples(data.train_x),
        train=len(data.train_x),
        test=len(data.test_x),
        outputs=bench.outputs,
        classes=data.classes,
        parameters=bench.network(study.seeds[0], 1).size,
        device=bench.device.type,
        backend=probe.backend,
        chunk=size,
        cells=sum(map(len, cells.values())),
        cell_seconds=epochs * epoch_s,
        seconds=budget * epoch_s,
        remarks=tuple(remarks),
    )
