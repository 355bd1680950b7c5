"""How training went wrong although a number came out: what a cell's losses say, in four classes, each with its step.

Everything is in units of H, the loss of guessing (`Chance`). A minibatch is noisy, so no single loss decides: all of
the last WINDOW (10) losses do. *Quiet* is, over all windows that ended before these ten began, the smallest of their
largest losses; *now* is the smallest of the ten. If now > quiet, every one of ten batches in a row was worse than any
batch of the best ten before: a draw of batches hardly ever does that unless the network changed.

- *non-finite*: a loss was infinite or not a number. The loop finds it; step: that loss's.
- *late blow-up*: quiet ≤ H/100, and now ≥ 100 quiet and ≥ H/100 000 (below lies float32's rounding); step: the first of
  the ten. Or a rise, as a spike begins, that was not over at the end; step: that rise's.
- *stuck at chance*: from some epoch to the end, the mean training loss was ≥ 0.95 H and the test error within three
  standard deviations of chance; step: the first of the first such epoch (1: it never learned).
- *spike*: a rise (quiet < H, so something was learned; now ≥ 3 quiet and now ≥ quiet + H/10) that was over later: a
  whole window below that bar; step: the first of the ten of the first rise.

A cell has one class: the first above that applies, a rise that did not end coming after *stuck at chance*. Where a
schedule raises the rate again (warm restarts) the loss rises by intent: what was quiet is forgotten there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wdgrid.study import Curve
from wdgrid.study.cells import Divergence

WINDOW = 10  # losses
SPIKE, SPIKE_BY = 3.0, 0.1  # times quiet, and H more than quiet
QUIET, BLOWN, ROUNDING = 0.01, 100.0, 1e-5  # of H, times quiet, of H
AT_CHANCE, DEVIATIONS = 0.95, 3.0  # of H, standard deviations of the test error of guessing


class Chance(NamedTuple):
    """What guessing comes to: `loss` H in nats (the entropy of the training labels), and `error` in percent.

    `error` is that of the most frequent class of the test labels, less three standard deviations of n such draws.
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
    """What is remembered of K cells' losses; the steps (from 1; 0: none) are [K].

    `recent` [2·WINDOW − 1, K] are the last losses, `quiet` [K] is the quiet of the windows before them.
    """

    recent: Tensor
    quiet: Tensor
    spike_at: Tensor
    risen_at: Tensor
    blown_at: Tensor


def start(cells: int) -> Trace:
    """Nothing seen yet of K cells."""
    nothing = torch.full((2 * WINDOW - 1, cells), math.inf, dtype=torch.float64)
    return Trace(nothing, nothing[0].clone(), *(torch.zeros(cells, dtype=torch.int64) for _ in range(3)))


def restart(trace: Trace) -> Trace:
    """The rate was raised: what was quiet is forgotten, and whether the loss is up; what happened is not."""
    fresh = start(len(trace.quiet))
    return trace._replace(recent=fresh.recent, quiet=fresh.quiet, risen_at=fresh.risen_at)


def follow(trace: Trace, losses: Tensor, done: int, chance_loss: float) -> Trace:
    """Goes on by `losses` [T, K], `done` steps having been before. Where a trace is cut makes no difference."""
    seen = torch.cat([trace.recent, losses.double()])
    windows = seen.unfold(0, WINDOW, 1)  # [T + WINDOW, K, WINDOW]
    least, most = windows.amin(-1), windows.amax(-1)
    quiets = torch.minimum(most.cummin(0).values, trace.quiet)[: len(losses)]
    least, most = least[WINDOW:], most[WINDOW:]
    bar = torch.maximum(SPIKE * quiets, quiets + SPIKE_BY * chance_loss)
    risen = (quiets < chance_loss) & (least >= bar)
    blown = (quiets <= QUIET * chance_loss) & (least >= (BLOWN * quiets).clamp(min=ROUNDING * chance_loss))
    count = torch.arange(1, len(losses) + 1)[:, None]
    over = (count * (most < bar)).amax(0)  # the last of these steps at which the loss was down, 0: none
    begins = done + 2 - WINDOW
    return Trace(
        recent=seen[len(losses) :],
        quiet=quiets[-1],
        spike_at=_first(trace.spike_at, risen, begins),
        risen_at=_first(trace.risen_at * (over == 0), risen & (count > over), begins),
        blown_at=_first(trace.blown_at, blown, begins),
    )


def _first(known: Tensor, happened: Tensor, begins: int) -> Tensor:
    """The step known [K], or else where the window of the first True in [T, K] begins."""
    found = (begins + happened.int().argmax(0)) * happened.any(0)
    return torch.where(known > 0, known, found)


def verdict(
    trace: Trace, cell: int, diverged_at: int | None, curve: Curve, guess: Chance, steps_per_epoch: int
) -> tuple[Divergence | None, int | None]:
    """Class and step of a cell that has come to its end; (None, None) where nothing went wrong."""
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
    """The first step of the first epoch from which on loss and error are those of guessing."""
    epoch = len(losses)
    while epoch and losses[epoch - 1] >= AT_CHANCE * guess.loss and errors[epoch - 1] >= guess.error:
        epoch -= 1
    return None if epoch == len(losses) else epoch * steps_per_epoch + 1
