"""Estimates how long training takes: remaining epochs of chunks × seconds of one / number of workers.

`wdgrid plan` and a sweep use the same model and the same division into chunks. `wdgrid plan` measures an epoch
beforehand; a sweep measures it on its own workers.
"""

import math
from collections import deque
from collections.abc import Mapping

MEASURING_S, REPAID = 8.0, 20  # time of measuring if a step took none; how many times longer training has to take
MEASURED_PASSES = 40  # passes over K cells in measuring
REMEMBERED = 200  # epochs whose mean is the pace


def even_chunk(cells: int, at_most: int) -> int:
    """K for `cells` cells of a panel and seed in chunks of limited size: equal chunks, which need the least padding.

    If there are several chunks and the limit is even, K is even, so that K·C channels fill vector registers more often.
    """
    chunks = math.ceil(cells / at_most)
    size = math.ceil(cells / chunks)
    return size + 1 if chunks > 1 and size % 2 and at_most % 2 == 0 else size


def chunk_epochs(cells: Mapping[tuple[str, int], int], epochs: Mapping[str, int], size: int) -> int:
    """Epochs of chunks that `cells` by (panel, seed) need, in chunks of `size`; `epochs` is each panel's budget."""
    return sum(math.ceil(n / size) * epochs[panel] for (panel, _), n in cells.items())


def seconds(chunk_epochs: float, epoch_seconds: float, workers: int) -> float:
    """Wall time of this number of epochs of chunks, if one takes a worker `epoch_seconds`."""
    return chunk_epochs * epoch_seconds / workers


def repays_measuring(steps: float, pass_seconds: float, workers: int) -> bool:
    """Whether backends are measured before `steps` steps of chunks, if a pass takes `pass_seconds`.

    A single timed pass is inaccurate, so a step is assumed to take half as long.
    """
    training = steps * pass_seconds / 2 / workers
    return training > REPAID * (MEASURING_S + MEASURED_PASSES * pass_seconds)


class Pace:
    """A sweep's measured speed. `to_go` counts epochs of chunks."""

    def __init__(self, to_go: int, workers: int) -> None:
        self.to_go, self.workers = to_go, workers
        self._seen: deque[float] = deque(maxlen=REMEMBERED)
        self._guess: float | None = None  # seconds of an epoch, from the first part of one
        self.first: float | None = None  # first estimate of the total seconds, when every worker had reported an epoch

    def epoch(self, took: float, since_start: float) -> None:
        """A worker finished an epoch of its chunk in `took` seconds, `since_start` after training began."""
        self.to_go -= 1
        self._seen.append(took)
        if self.first is None and len(self._seen) >= self.workers:
            self.first = since_start + (self.left or 0.0)

    def part(self, took: float, share: float) -> None:
        """A worker trained `share` of an epoch in `took` seconds."""
        self._guess = took / share

    @property
    def left(self) -> float | None:
        """Seconds left; None before a worker reported its first steps."""
        epoch = sum(self._seen) / len(self._seen) if self._seen else self._guess
        return None if epoch is None else seconds(max(0, self.to_go), epoch, self.workers)
