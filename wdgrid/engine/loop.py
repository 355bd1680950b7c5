"""Trains a chunk: K cells on the same minibatches, each with its own weights, learning rate and weight decay.

A cell's result depends only on the cell and on the chunk size K: chunks are padded to K, no operation sums over cells,
and random numbers are functions of (seed, epoch or step).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from wdgrid import data as datasets
from wdgrid.engine import divergence
from wdgrid.engine.checkpoint import Checkpoint, State
from wdgrid.engine.workbench import Workbench
from wdgrid.models.decay import parts
from wdgrid.optim.fused import Rule
from wdgrid.optim.schedule import etas, normalization
from wdgrid.study import Cell, Curve, Outcome
from wdgrid.study.sections import Schedule

EVALUATION_BATCH = 1024  # images; bounds the memory of a test pass
PAUSE_S = 1.0  # a chunk trains about this long between two checks of the clock
Progress = Callable[[float], None]  # called with the epochs done; with a fraction about once a second within one
Stop = Callable[[], bool]  # called about once a second, between two steps; returns whether to end training


class StoppedError(Exception):
    """Training was stopped on request. `saved`: whether a checkpoint holds all of its progress."""

    def __init__(self, saved: bool) -> None:
        super().__init__("training was asked to end")
        self.saved = saved


@dataclass(frozen=True)
class Job:
    """The settings that a panel's cells share."""

    optimizer: str
    schedule: Schedule
    epochs: int
    normalized: bool


def train(
    bench: Workbench,
    job: Job,
    cells: Sequence[Cell],
    size: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    stop: Stop = lambda: False,
) -> list[Outcome]:
    """Trains up to `size` cells of one panel and seed to the end; the outcome of each.

    `size` is K: fewer cells are padded to it, so that a result does not depend on their number. With a checkpoint,
    training continues from the last one, also within an epoch, and ends with the same bits as without an interruption.
    Raises StoppedError if `stop` returns true; progress is saved first.
    """
    started = time.monotonic()
    chunk = Chunk(bench, job, cells, size)
    epoch, saved = (checkpoint.load() if checkpoint else None) or (0, None)
    if saved:
        chunk.restore(saved)

    def pause(least: float = PAUSE_S) -> None:
        if done := len(chunk.losses):
            progress(epoch + done / (bench.steps_per_epoch + 1))
        if stop():
            raise StoppedError(checkpoint is not None and checkpoint.save(epoch, chunk.state()))
        if checkpoint and checkpoint.due(least):
            checkpoint.save(epoch, chunk.state())

    while epoch < job.epochs and chunk.alive.any():
        chunk.epoch(epoch, pause)
        epoch += 1
        progress(epoch)
        pause(0.0)
    return chunk.outcomes(time.monotonic() - started)


class Chunk:
    """One chunk in training."""

    def __init__(self, bench: Workbench, job: Job, cells: Sequence[Cell], size: int) -> None:
        if len({(cell.panel, cell.seed) for cell in cells}) != 1 or len(cells) > size:
            raise ValueError("a chunk holds at most K cells of one panel and one seed")
        self.bench, self.job, self.cells = bench, job, cells
        padded = [*cells, *[cells[-1]] * (size - len(cells))]
        names = cells[0].hyperparameters
        hyper = {n: torch.tensor([c.hyperparameters[n] for c in padded], dtype=torch.float64) for n in names}
        self.weight_decay = hyper["weight_decay"]
        self.seed = cells[0].seed
        self.network = bench.network(self.seed, size)
        self.rule = Rule(
            job.optimizer, self.network.theta, hyper, parts(self.network.columns, bench.probe(size).decay_multipliers)
        )
        steps = bench.steps_per_epoch
        self.etas = etas(job.schedule, job.epochs, steps)
        self.decays = [1.0] * len(self.etas)
        if job.normalized:
            self.decays = normalization(job.schedule, job.epochs, steps, bench.batch, len(bench.data.train_x))
        self.steps = bench.steps(self.network, self.rule, self.etas, self.decays, self.seed)
        self.alive = torch.arange(size) < len(cells)
        self.steps.freeze(~self.alive)  # padding
        self.diverged_at: list[int | None] = [None] * size
        self.curves = [Curve() for _ in cells]
        self.trace = divergence.start(size)
        self.losses = torch.empty(0, size, dtype=torch.float64)  # of the steps of an unfinished epoch
        self._together = 1  # steps between two pauses

    def epoch(self, number: int, pause: Callable[[], None] = lambda: None) -> None:
        """Trains and tests epoch `number` (from 0), or the rest of it; `pause` is called about once a second.

        An exception raised by `pause` passes through; the state at that moment can be saved.
        """
        data, steps = self.bench.data, self.bench.steps_per_epoch
        self._train(number, pause)
        errors, test_losses = self.evaluate(data.test_x, data.test_y, pause)
        validation_errors = validation_losses = None
        if data.val_x is not None and data.val_y is not None:
            validation_errors, validation_losses = self.evaluate(data.val_x, data.val_y, pause)
        losses, self.losses = self.losses, self.losses[:0]
        self._note(~losses.isfinite(), number * steps + 1)
        train_losses = losses.cumsum(0)[-1] / steps
        self._follow(losses, number * steps)
        self._stop(test_losses, (number + 1) * steps)
        if validation_losses is not None:
            self._stop(validation_losses, (number + 1) * steps)
        for k, curve in enumerate(self.curves):
            if self.alive[k]:
                curve.test_error.append(float(errors[k]))
                curve.test_loss.append(float(test_losses[k]))
                curve.train_loss.append(float(train_losses[k]))
                if validation_errors is not None:
                    curve.validation_error.append(float(validation_errors[k]))

    def _train(self, number: int, pause: Callable[[], None]) -> None:
        """Runs the rest of an epoch's steps, in groups of about PAUSE_S. The grouping does not change results."""
        batches = datasets.epoch(self.bench.data, self.seed, number, self.bench.task.batch_size)
        steps = self.bench.steps_per_epoch
        while (done := len(self.losses)) < steps:
            count = min(self._together, steps - done)
            began = time.monotonic()
            losses = self.steps.train(lambda i, done=done: batches(done + i), number * steps + done, count)
            self.losses = torch.cat([self.losses, losses])
            most = int(count * PAUSE_S / max(time.monotonic() - began, 1e-9))
            self._together = max(1, min(most, 10 * count))
            pause()

    def _follow(self, losses: Tensor, done: int) -> None:
        """Stores an epoch's losses [steps, K]; discards earlier ones if the schedule raised the learning rate."""
        if done and self.etas[done] > self.etas[done - 1]:
            self.trace = divergence.restart(self.trace)
        self.trace = divergence.follow(self.trace, losses, done, self.bench.chance.loss)

    def _note(self, broken: Tensor, begins: int) -> None:
        """Stores the first step at which the loss of a cell was not finite; `broken` [steps, K] bool."""
        for k in (self.alive & broken.any(0)).nonzero().flatten().tolist():
            self.diverged_at[k] = begins + int(broken[:, k].int().argmax())
        self.alive &= ~broken.any(0)

    def _stop(self, losses: Tensor, step: int) -> None:
        """Freezes the cells whose test loss [K] is not finite."""
        broken = self.alive & ~losses.isfinite()
        if broken.any():
            self._note(broken[None], step)
            self.steps.freeze(broken)

    def evaluate(self, all_x: Tensor, all_y: Tensor, pause: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor]:
        """Error in percent and mean loss over stored images [M, …] and classes [M], each [K] on the CPU."""

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for x, y in zip(all_x.split(EVALUATION_BATCH), all_y.split(EVALUATION_BATCH), strict=True):
                pause()
                yield self.bench.data.prepared(x), y

        errors, losses = self.steps.test(parts())
        return 100 * errors / len(all_x), losses / len(all_x)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name; the tensors themselves, not copies."""
        moments = {f"moment.{i}": moment for i, moment in enumerate(self.rule.state)}
        buffers = {f"buffer.{name}": buffer for name, buffer in self.network.buffers.items()}
        trace = {f"trace.{name}": tensor for name, tensor in self.trace._asdict().items()}
        return {"theta": self.network.theta, "alive": self.alive, **moments, **buffers, **trace}

    def state(self) -> State:
        """The content of a checkpoint."""
        plain = {"diverged_at": self.diverged_at, "curves": [asdict(curve) for curve in self.curves]}
        return self._tensors() | {"losses": self.losses}, plain

    def restore(self, state: State) -> None:
        """Restores a saved state."""
        tensors, plain = state
        for name, tensor in self._tensors().items():
            if name in tensors:  # checkpoints of earlier versions have no losses
                tensor.copy_(tensors[name])
        self.losses = tensors.get("losses", self.losses)
        self.steps.freeze(~(self.alive & self.losses.isfinite().all(0)))
        self.diverged_at = plain["diverged_at"]
        self.curves = [Curve(**curve) for curve in plain["curves"]]

    def outcomes(self, seconds: float) -> list[Outcome]:
        """Each cell's outcome; the `seconds` of the whole chunk are divided equally."""
        squares = self.network.theta.double().square().sum(dim=1).cpu()
        decayed = self.rule.decayed_squares()
        lam = self.weight_decay * self.decays[-1]
        nan = float("nan")
        chance, steps = self.bench.chance, self.bench.steps_per_epoch
        results = []
        for k, curve in enumerate(self.curves):
            alive = bool(self.alive[k])
            validation = None
            if self.bench.data.val_x is not None:
                validation = curve.validation_error[-1] if alive else float("inf")
            kind, since = divergence.verdict(self.trace, k, self.diverged_at[k], curve, chance, steps)
            results.append(
                Outcome(
                    test_error=curve.test_error[-1] if alive else float("inf"),
                    test_loss=curve.test_loss[-1] if alive else nan,
                    train_loss=curve.train_loss[-1] if alive else nan,
                    l2_term=float(0.5 * lam[k] * decayed[k]) if alive else nan,
                    weight_norm=float(squares[k].sqrt()) if alive else nan,
                    diverged_at=self.diverged_at[k],
                    seconds=seconds / len(self.cells),
                    curve=curve,
                    validation_error=validation,
                    divergence=kind,
                    divergence_step=since,
                )
            )
        return results
