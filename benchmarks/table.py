"""Makes the tables from the measurements of wdgrid and its peers."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from contenders import CONTENDERS
from machine import Run
from work import Work, flops


@dataclass
class Row:
    """One network's runs: each contender's wall times and trials, by the work that was done."""

    shared: Work
    full: Work
    least: Work
    style: str
    contenders: tuple[str, ...]
    runs: dict[tuple[str, Work], list[tuple[Run, int]]] = field(default_factory=dict)

    def add(self, contender: str, work: Work, run: Run, trials: int) -> None:
        """Notes one run."""
        self.runs.setdefault((contender, work), []).append((run, trials))

    def seconds(self, contender: str, work: Work) -> list[float]:
        """Wall times, in the order of the runs."""
        return [run.seconds for run, _ in self.runs.get((contender, work), [])]

    def median(self, contender: str, work: Work) -> float:
        """Median wall time; NaN where nothing was measured."""
        return statistics.median(self.seconds(contender, work) or [float("nan")])

    def trials(self, contender: str, work: Work) -> float:
        """Mean number of trials, the repeated ones among them."""
        return statistics.fmean([trials for _, trials in self.runs.get((contender, work), [])] or [float("nan")])

    def per_step(self, contender: str) -> float:
        """Seconds a cell-step that the shared work took beyond what starting takes; per trial that really ran.

        Counting trials rather than cells keeps GridSampler's duplicates, many in little work and few in the full
        study, out of what is extrapolated: that favours the peer.
        """
        start, shared = self.median(contender, self.least), self.median(contender, self.shared)
        share = self.trials(contender, self.shared) / self.shared.cells
        return (shared - start) / (self.shared.cell_steps * share - self.least.cell_steps)

    def is_noise(self, contender: str) -> bool:
        """Whether the shared work took so little time beyond start-up that the difference is mostly noise."""
        return self.median(contender, self.shared) < 2 * self.median(contender, self.least)

    def at_full(self, contender: str) -> tuple[float, bool]:
        """Seconds of the full study, and whether they were measured rather than extrapolated."""
        measured = self.seconds(contender, self.full)
        if measured:
            return statistics.median(measured), True
        beyond = self.full.cell_steps - self.least.cell_steps
        return self.median(contender, self.least) + beyond * self.per_step(contender), False

    def rate(self, work: Work, seconds: float) -> tuple[float, float]:
        """Achieved GFLOP/s: training steps alone, and with the test after every epoch."""
        step, test = flops(work.network)
        training = work.cell_steps * step
        testing = work.cells * work.epochs * test
        return training / seconds / 1e9, (training + testing) / seconds / 1e9

    def ratios(self, contender: str, seconds: float, wdgrid: Callable[[str], float]) -> str:
        """A peer's seconds over those of wdgrid, in each of the ways wdgrid ran; `wdgrid` says what it took."""
        if contender == "wdgrid":
            return "1"
        against = [name for name in self.contenders if CONTENDERS[name].is_wdgrid]
        if CONTENDERS[contender].is_wdgrid:
            against = against[:1]
        return " / ".join(f"**{seconds / wdgrid(name):.2f}**" for name in against)


def peers(rows: list[Row], peaks: list[float], malloc: str, device: str = "cpu") -> Iterator[str]:
    """Both tables: the same work done by all, then the full study."""
    peak = max(peaks)
    whose, how = ("all cores", ", the larger of processes and threads") if device == "cpu" else ("the GPU", "")
    measured = ", ".join(f"{p:.0f}" for p in peaks)
    styles = ", ".join(f"{row.shared.network.title} *{row.style}*" for row in rows)
    yield (
        f"Float32 GEMM peak of {whose}: {peak:.0f} GFLOP/s (2048³{how}; measured before and after: {measured}); "
        f"bfloat16 is set against it, too. Peers {malloc} wdgrid's malloc settings. How they are written: {styles}. "
        "Every time is of a whole command, imports, storage and (wdgrid) report included. "
        "GFLOP/s and shares of the peak: training steps alone / with tests. Where wdgrid ran in two ways (float32 and "
        "bfloat16, with and without a C compiler), peers' ratios are to the one / to the other."
    )
    yield ""
    yield "**The same work, measured by all** (times: median, least–most)"
    yield ""
    yield "| network | cells × epochs | what ran | n | trials | s | start-up s | time / wdgrid's | GFLOP/s | share |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        for contender in row.contenders:
            yield _shared(row, contender, peak)
    yield ""
    yield (
        "Start-up is the same command on 1 cell × 1 epoch. Trials beyond the cells are GridSampler's duplicates: many "
        "in little work, few in much; they are part of these times, not of the next table's."
    )
    yield ""
    yield (
        "**The full study, 484 × 100.** Extrapolated (~): start-up + cell-steps × the measured time a cell-step and "
        "trial; GridSampler's growing cost and duplicates are left out, which favours the peers. "
        "(?): the work lasted less than start-up again, so that its noise decides: give more --cells or --epochs."
    )
    yield ""
    yield "| network | what ran | µs a cell-step | s | time / wdgrid's | GFLOP/s | share |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        for contender in row.contenders:
            yield _full(row, contender, peak)


def _shared(row: Row, contender: str, peak: float) -> str:
    work, times = row.shared, row.seconds(contender, row.shared)
    if not times:
        return f"| {work.network.title} | {work} | {CONTENDERS[contender].title} | 0 | | failed | | | | |"
    seconds = statistics.median(times)
    ratio = row.ratios(contender, seconds, lambda name: row.median(name, work))
    spread = f"{seconds:.1f} ({min(times):.1f}–{max(times):.1f})"
    trials, start = row.trials(contender, work), row.median(contender, row.least)
    title = CONTENDERS[contender].title
    return (
        f"| {work.network.title} | {work} | {title} | {len(times)} | {trials:g} | {spread} | {start:.1f} | {ratio} | "
        f"{_rates(row, work, seconds, peak)} |"
    )


def _full(row: Row, contender: str, peak: float) -> str:
    seconds, measured = row.at_full(contender)
    if math.isnan(seconds):
        return f"| {row.full.network.title} | {CONTENDERS[contender].title} | | failed | | | |"
    ratio = row.ratios(contender, seconds, lambda name: row.at_full(name)[0])
    n = len(row.seconds(contender, row.full))
    told = f"{seconds:.1f} (measured, n = {n})" if measured else f"~{seconds:.0f}"
    mark = " (?)" if row.is_noise(contender) else ""
    title = CONTENDERS[contender].title
    return (
        f"| {row.full.network.title} | {title} | {1e6 * row.per_step(contender):.0f}{mark} | {told} | {ratio} | "
        f"{_rates(row, row.full, seconds, peak)} |"
    )


def _rates(row: Row, work: Work, seconds: float, peak: float) -> str:
    training, both = row.rate(work, seconds)
    return f"{training:.1f} / {both:.1f} | {100 * training / peak:.1f} / {100 * both / peak:.1f} %"
