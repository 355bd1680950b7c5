"""Classifies how training went wrong, from a cell's losses: four classes, each with the step at which it began.

All thresholds are relative to H, the loss of guessing (`Chance`). A minibatch is noisy, so no single loss decides, but
the last WINDOW (10) losses together. *Now* is the smallest of these ten. *Quiet* is the level of the best earlier
window: the smallest, over all windows that ended before these ten began, of the largest loss in the window. If now >
quiet, each of ten minibatches in a row was worse than every minibatch of the best earlier window. Random minibatches
hardly ever do that unless the network has changed.

- *non-finite*: a loss was infinite or NaN. The training loop detects it; step: that of the loss.
- *late blow-up*: quiet ≤ H/100, now ≥ 100 quiet and now ≥ H/100 000 (below that, float32 rounding is too large); step:
  the first of the ten. Or a rise, as at the start of a spike, that was not over at the end; step: that of the rise.
- *stuck at chance*: from some epoch to the end, the mean training loss was ≥ 0.95 H and the test error within three
  standard deviations of chance; step: the first of the first such epoch (1: it never learned).
- *spike*: a rise (quiet < H, so something was learned; now ≥ 3 quiet and now ≥ quiet + H/10) that ended: a whole window
  was below that threshold later; step: the first of the ten of the first rise.

A cell has one class, the first in this list that applies; a rise that did not end comes after *stuck at chance*. Warm
restarts raise the learning rate, and the loss rises as intended: earlier windows are forgotten at a restart.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wdgrid.study import Curve
from wdgrid.study.cells import Divergence

WINDOW = 10  # losses
SPIKE, SPIKE_BY = 3.0, 0.1  # a spike is at least 3 times quiet, and quiet + 0.1 H
QUIET, BLOWN, ROUNDING = 0.01, 100.0, 1e-5  # of a late blow-up: quiet at most 0.01 H, now at least 100 quiet and 1e-5 H
AT_CHANCE, DEVIATIONS = 0.95, 3.0  # least loss in H; standard deviations of the test error of guessing


class Chance(NamedTuple):
    """The results of guessing: `loss` H in nats (the entropy of the training labels), and `error` in percent.

    `error` is the error of always predicting the most frequent test label, minus three standard deviations.
    """

    loss: float
    error: float


def chance(train_y: Tensor, test_y: Tensor) -> Chance:
    """Chance for these labels [N] and [M]."""
    share = train_y.bincount().double() / len(train_y)
    right = float(test_y.bincount().max()) / len(test_y)
    deviation = math.sqrt(right * (1 - right) / len(test_y))
    return Chance(float(torch.special.entr(share).sum()), 100 * (1 - right - DEVIATIONS * deviation))


class Trace(NamedTuple):
    """The state of the classification of K cells.

    `recent` [2·WINDOW − 1, K] are the last losses, `quiet` [K] is the quiet of the windows before them. `spike_at`,
    `risen_at` and `blown_at` [K] are steps from 1, 0 for none.
    """

    recent: Tensor
    quiet: Tensor
    spike_at: Tensor
    risen_at: Tensor
    blown_at: Tensor


def start(cells: int) -> Trace:
    """The state of K cells before the first step."""
    nothing = torch.full((2 * WINDOW - 1, cells), math.inf, dtype=torch.float64)
    return Trace(nothing, nothing[0].clone(), *(torch.zeros(cells, dtype=torch.int64) for _ in range(3)))


def restart(trace: Trace) -> Trace:
    """The state after a warm restart: without earlier windows or an unfinished rise, but with what was detected."""
    fresh = start(len(trace.quiet))
    return trace._replace(recent=fresh.recent, quiet=fresh.quiet, risen_at=fresh.risen_at)


def follow(trace: Trace, losses: Tensor, done: int, chance_loss: float) -> Trace:
    """The state after `losses` [T, K] of the steps after step `done`; it does not depend on how steps are divided."""
    seen = torch.cat([trace.recent, losses.double()])
    windows = seen.unfold(0, WINDOW, 1)  # [T + WINDOW, K, WINDOW]
    least, most = windows.amin(-1), windows.amax(-1)
    quiets = torch.minimum(most.cummin(0).values, trace.quiet)[: len(losses)]
    least, most = least[WINDOW:], most[WINDOW:]
    bar = torch.maximum(SPIKE * quiets, quiets + SPIKE_BY * chance_loss)
    risen = (quiets < chance_loss) & (least >= bar)
    blown = (quiets <= QUIET * chance_loss) & (least >= (BLOWN * quiets).clamp(min=ROUNDING * chance_loss))
    count = torch.arange(1, len(losses) + 1)[:, None]
    over = (count * (most < bar)).amax(0)  # the last of these steps at which the loss was below the threshold, 0: none
    begins = done + 2 - WINDOW
    return Trace(
        recent=seen[len(losses) :],
        quiet=quiets[-1],
        spike_at=_first(trace.spike_at, risen, begins),
        risen_at=_first(trace.risen_at * (over == 0), risen & (count > over), begins),
        blown_at=_first(trace.blown_at, blown, begins),
    )


def _first(known: Tensor, happened: Tensor, begins: int) -> Tensor:
    """The known step [K] or, if it is 0, the first step of the window of the first True in `happened` [T, K]."""
    found = (begins + happened.int().argmax(0)) * happened.any(0)
    return torch.where(known > 0, known, found)


def verdict(
    trace: Trace, cell: int, diverged_at: int | None, curve: Curve, guess: Chance, steps_per_epoch: int
) -> tuple[Divergence | None, int | None]:
    """Class and step of a cell after its last step; (None, None) if nothing went wrong."""
    spike, risen, blown = (int(steps[cell]) for steps in (trace.spike_at, trace.risen_at, trace.blown_at))
    stuck = _stuck_at(curve.train_loss, curve.test_error, guess, steps_per_epoch)
    found: tuple[tuple[Divergence, int | None], ...] = (
        ("non-finite", diverged_at),
        ("late blow-up", blown),
        ("stuck at chance", stuck),
        ("late blow-up", risen),
        ("spike", spike),
    )
    for kind, step in found:
        if step:
            return kind, step
    return None, None


def _stuck_at(losses: Sequence[float], errors: Sequence[float], guess: Chance, steps_per_epoch: int) -> int | None:
    """The first step of the first epoch after which loss and error stay at those of guessing; None if there is none."""
    epoch = len(losses)
    while epoch and losses[epoch - 1] >= AT_CHANCE * guess.loss and errors[epoch - 1] >= guess.error:
        epoch -= 1
    return None if epoch == len(losses) else epoch * steps_per_epoch + 1
