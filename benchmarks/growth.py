"""Measures how a sweep's cost grows with its cells. A cell has two steps, so nearly all of the cost is overhead."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import machine

SIDES = {100: (10, 10), 1000: (25, 40), 10_000: (100, 100)}
STUDY = """\
title = "growth"
[task]
dataset = "digits"
train_size = 100
model_args = {{ hidden = [8] }}
batch_size = 50
epochs = 1
device = "cpu"
[axes.lr]
values = {rows}
[axes.weight_decay]
values = {columns}
[[panels]]
optimizer = "sgd"
"""


@dataclass(frozen=True)
class Point:
    """One size: the times of the whole sweep and of its report, drawn again by itself."""

    cells: int
    workers: int
    sweep: machine.Run
    report: machine.Run


def points(wdgrid: list[str], folder: Path, sizes: list[int], workers: list[int]) -> Iterator[Point]:
    """Every size with every number of workers, once each."""
    for cells in sizes:
        rows, columns = SIDES.get(cells) or (1, cells)
        study = folder / "growth.toml"
        # Multiples of 1/1024 and up, all far from divergence.
        values = {"rows": [f"{i + 1}/1024" for i in range(rows)], "columns": [f"{i}/65536" for i in range(columns)]}
        study.write_text(STUDY.format(**values), encoding="utf-8")
        for n in workers:
            where = folder / f"growth-{cells}-{n}"
            where.mkdir()
            storage = ["--storage", f"sqlite:///{(where / 'growth.db').as_posix()}", "--out", str(where), "-q"]
            sweep = machine.run([*wdgrid, "sweep", str(study), "--workers", str(n), *storage])
            report = machine.run([*wdgrid, "report", "growth", *storage])
            yield Point(cells, n, sweep, report)


def table(found: list[Point]) -> Iterator[str]:
    """Markdown."""
    yield "| cells | workers | sweep s (n = 1) | report s | ms a cell, report off | peak MiB: parent | largest child |"
    yield "|---|---|---|---|---|---|---|"
    for p in found:
        each = 1000 * (p.sweep.seconds - p.report.seconds) / p.cells
        memory = f"{p.sweep.parent_mib:.0f} | {p.sweep.largest_child_mib:.0f}"
        yield f"| {p.cells} | {p.workers} | {p.sweep.seconds:.1f} | {p.report.seconds:.1f} | {each:.2f} | {memory} |"
    for n in sorted({p.workers for p in found}):
        own = [p for p in found if p.workers == n]
        if len(own) > 1:
            a, b = own[0], own[-1]
            seconds = (b.sweep.seconds - b.report.seconds) - (a.sweep.seconds - a.report.seconds)
            each = 1000 * seconds / (b.cells - a.cells)
            yield (
                f"\nBetween {a.cells} and {b.cells} cells, {n} worker(s), reports left out: {each:.3f} ms a "
                f"further cell, {b.sweep.parent_mib - a.sweep.parent_mib:+.0f} MiB in the parent, "
                f"{b.sweep.largest_child_mib - a.sweep.largest_child_mib:+.0f} MiB in the largest child."
            )
