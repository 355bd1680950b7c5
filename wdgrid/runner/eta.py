"""How long training will take: epochs of chunks to go, times the seconds of one, shared by the workers.

One model for `wdgrid plan`, which measures an epoch beforehand, and for a sweep, which learns it from its own workers;
both divide cells into the same chunks.
"""

import math
from collections import deque
from collections.abc import Mapping

MEASURING_S, REPAID = 8.0, 20  # what measuring takes where a step takes no time; how much longer training has to take
MEASURED_PASSES = 40  # passes over K cells that measuring takes
REMEMBERED = 200  # epochs whose mean is the pace


def even_chunk(cells: int, at_most: int) -> int:
    """K for `cells` cells of a panel and seed in chunks of at most so many: chunks alike, so the least padding.

    Several chunks are of an even K where the most is even: so K·C channels fill vector registers more often.
    """
    chunks = math.ceil(cells / at_most)
    size = math.ceil(cells / chunks)
    return size + 1 if chunks > 1 and size % 2 and at_most % 2 == 0 else size


def chunk_epochs(cells: Mapping[tuple[str, int], int], epochs: Mapping[str, int], size: int) -> int:
    """Epochs of chunks that `cells` by (panel, seed) need, in chunks of `size`; `epochs` is each panel's budget."""
    return sum(math.ceil(n / size) * epochs[panel] for (panel, _), n in cells.items())


def seconds(chunk_epochs: float, epoch_seconds: float, workers: int) -> float:
    """Wall time of so many epochs of chunks, where one takes a worker `epoch_seconds`."""
    return chunk_epochs * epoch_seconds / workers


def repays_measuring(steps: float, pass_seconds: float, workers: int) -> bool:
    """Whether backends are measured before so many `steps` of chunks, where a pass takes `pass_seconds`.

    A pass that is timed once says little: a step is taken to be half as long.
    """
    training = steps * pass_seconds / 2 / workers
    return training > REPAID * (MEASURING_S + MEASURED_PASSES * pass_seconds)


class Pace:
    """What a sweep has learnt of its own speed. `to_go` counts epochs of chunks."""

    def __init__(self, to_go: int, workers: int) -> None:
        self.to_go, self.workers = to_go, workers
        self._seen: deque[float] = deque(maxlen=REMEMBERED)
        self._guess: float | None = None  # seconds of an epoch, from the first part of one
        self.first: float | None = None  # seconds that the whole was expected to take once every worker had told of one

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
        """Seconds to go; None before a worker told of its first steps."""
        epoch = sum(self._seen) / len(self._seen) if self._seen else self._guess
        return None if epoch is None else seconds(max(0, self.to_go), epoch, self.workers)
