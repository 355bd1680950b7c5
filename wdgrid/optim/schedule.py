"""The paper's four schedules: η_t and restart periods as tables over all steps of a run."""

import math

from wdgrid.study.sections import Constant, Cosine, Restarts, Schedule, Step


def periods(schedule: Schedule, epochs: int) -> list[int]:
    """Lengths in epochs of the periods that a run of `epochs` enters; the last may be cut short by the budget.

    Only warm restarts have more than one: T_0, T_0 T_mult, T_0 T_mult², … (ends at 100/300/700/1500 in the paper).
    """
    if not isinstance(schedule, Restarts):
        return [epochs]
    lengths, end = [schedule.period], schedule.period
    while end < epochs:
        lengths.append(lengths[-1] * schedule.multiplier)
        end += lengths[-1]
    return lengths


def etas(schedule: Schedule, epochs: int, steps_per_epoch: int) -> list[float]:
    """η_t for every step t = 0 … epochs·steps_per_epoch − 1 (section 4 and appendix B of the paper)."""
    total = epochs * steps_per_epoch
    match schedule:
        case Constant():
            return [1.0] * total
        case Step():
            edges = [milestone * total for milestone in schedule.milestones]
            return [schedule.factor ** sum(t >= edge for edge in edges) for t in range(total)]
        case Cosine() | Restarts():
            table: list[float] = []
            for length in periods(schedule, epochs):
                steps = length * steps_per_epoch
                inside = min(steps, total - len(table))  # the budget cuts the last period
                table += [0.5 + 0.5 * math.cos(math.pi * t / steps) for t in range(inside)]
            return table


def normalization(
    schedule: Schedule, epochs: int, steps_per_epoch: int, batch_size: int, train_size: int
) -> list[float]:
    """√(b/(B T)) for every step, T being the epochs of the current period: λ_t = λ_norm times this (appendix B.1)."""
    table: list[float] = []
    for length in periods(schedule, epochs):
        inside = min(length * steps_per_epoch, epochs * steps_per_epoch - len(table))
        table += [math.sqrt(batch_size / (train_size * length))] * inside
    return table
