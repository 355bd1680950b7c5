"""Benchmarks: compares wdgrid with what a user would run instead, each as a whole command, in one run.

    python benchmarks/run.py [--quick] [--cells N] [--epochs E] [--rows mlp,small-cnn,cnn,resnet8] [--repeats N]
                             [--parts peers,growth,storage] [--peers loop,two,ray] [--style careful|usual]
                             [--no-malloc] [--no-full] [--device cpu|cuda]

Markdown goes to stdout, to be pasted into RESULTS.md; progress to stderr. Runs are interleaved: A B C A B C. Ray Tune
takes part when named, where `pip install "ray[tune]"` was run beside wdgrid. `--device cuda` puts the peers part on a
GPU, Ray Tune apart; it was never run on one.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bookkeeping
import growth
import machine
import table
from contenders import CONTENDERS, HERE, WDGRID
from work import NETWORKS, Network, Work, full, least, subset


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, help="cells on which all are compared; each row's own if not given")
    parser.add_argument("--epochs", type=int, help="epochs of those; each row's own if not given")
    parser.add_argument("--rows", default=",".join(NETWORKS), help="networks (default: %(default)s)")
    parser.add_argument("--parts", default="peers,growth,storage", help="what is measured (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each contender (default: %(default)s)")
    peers = ", ".join(name for name, contender in CONTENDERS.items() if not contender.is_wdgrid)
    parser.add_argument("--peers", help=f"of {peers}; each row's own if not given")
    parser.add_argument("--style", choices=("careful", "usual"), help="how peers are written; each row's own")
    parser.add_argument("--no-malloc", action="store_true", help="withhold wdgrid's malloc settings from the peers")
    parser.add_argument("--no-full", action="store_true", help="do not run wdgrid on the whole digits study")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the peers part trains")
    parser.add_argument("--quick", action="store_true", help="all tiny, once: does it work? Numbers mean nothing")
    options = parser.parse_args()
    if unknown := [name for name in (options.peers or "").split(",") if name and name not in CONTENDERS]:
        parser.error(f"--peers: {', '.join(unknown)}; there are {peers}")
    if options.device == "cuda" and not machine.has_gpu():
        parser.error("--device cuda: torch sees no CUDA device")
    if options.device != "cpu" and "ray" in (options.peers or "").split(","):
        parser.error("--device: Ray Tune is given cores only")
    if options.quick:
        options.cells, options.epochs = options.cells or 4, options.epochs or 1
        options.repeats, options.no_full = 1, True
    parts = options.parts.split(",")
    began = time.perf_counter()
    peaks = [_peak(options)]
    for line in _head(options):
        print(line, flush=True)
    with tempfile.TemporaryDirectory(prefix="wdgrid-bench-") as name:
        bench = Bench(Path(name), options)
        if "peers" in parts:
            found = [bench.network(NETWORKS[row]) for row in options.rows.split(",")]
            peaks.append(_peak(options))
            _print(table.peers(found, peaks, "lack" if options.no_malloc else "have", options.device))
        if "growth" in parts:
            sizes = [20, 100] if options.quick else [100, 1000, 10_000]
            say(f"growth: {sizes} cells")
            _print(growth.table(list(growth.points(WDGRID, bench.fresh(), sizes, [1, 2]))))
        if "storage" in parts:
            _print(bench.storage())
        for note in sorted(bench.notes):
            print(f"\n{note}.")
        for failure in bench.failures:
            print(f"\nFailed: {failure}")
    print(f"\n{time.perf_counter() - began:.0f} s in all.")


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _print(lines: Iterator[str]) -> None:
    print()
    for line in lines:
        print(line, flush=True)


def _peak(options: argparse.Namespace) -> float:
    say("float32 GEMM peak")
    return machine.gemm_peak(0.3 if options.quick else 2.0, options.device)


def _head(options: argparse.Namespace) -> Iterator[str]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    yield f"## {time.strftime('%Y-%m-%d %H:%M')}, commit {machine.commit()}"
    yield ""
    yield f"`python benchmarks/run.py {' '.join(sys.argv[1:])}`"
    yield ""
    yield f"Device: {machine.device_name(options.device)}; load average at the start {load:.2f}. {machine.versions()}."
    if options.quick:
        yield "\n**--quick: far too little work for any of these numbers to mean anything.**"


class Bench:
    """Runs contenders in fresh folders and keeps what failed."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        from wdgrid.runner.handle import MALLOC

        self.folder, self.options = folder, options
        self.malloc = {} if options.no_malloc else MALLOC
        self.failures: list[str] = []
        self.notes: set[str] = set()
        self.count = 0

    def fresh(self) -> Path:
        """An empty folder."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        return folder

    def network(self, network: Network) -> table.Row:
        """One network: start-up, the shared piece of work and, for wdgrid, the full study; interleaved."""
        cells, epochs = self.options.cells or network.cells, self.options.epochs or network.epochs
        peers = self.options.peers.split(",") if self.options.peers else network.contenders
        contenders = dict.fromkeys([n for n in network.contenders if CONTENDERS[n].is_wdgrid] + list(peers))
        style = self.options.style or network.style
        row = table.Row(subset(network, cells, epochs), full(network), least(network), style, tuple(contenders))
        for repeat in range(self.options.repeats):
            for work in (row.least, row.shared):
                for contender in row.contenders:
                    self._measure(row, contender, work, repeat)
            if network.full and not self.options.no_full:
                self._measure(row, "wdgrid", row.full, repeat)
        return row

    def _measure(self, row: table.Row, contender: str, work: Work, repeat: int) -> None:
        say(f"{work.network.factory} {work}: {contender}, run {repeat + 1} of {self.options.repeats}")
        folder = self.fresh()
        study, cells = work.write(folder, self.options.device)
        command = CONTENDERS[contender].command(study, cells, folder, row.style)
        try:
            if CONTENDERS[contender].is_wdgrid:  # with nothing prepared: it decodes images and compiles within the time
                environment = {"WDGRID_DATA": str(folder / "data"), **CONTENDERS[contender].environment}
                done, trials = machine.run(command, environment), work.cells
                if diverged := sum(panel["diverged"] for panel in json.loads(done.out)):
                    what = f"{work.network.title}, {work}, {CONTENDERS[contender].title}"
                    self.notes.add(f"{what}: {diverged} cells diverged; peers train such cells to the end")
            else:
                done = machine.run(command, self.malloc)
                told = json.loads(done.out.splitlines()[-1])
                if told["cells"] != work.cells:
                    raise machine.RunError(f"{contender} {work}: {told['cells']} of {work.cells} cells are there")
                trials = told["trials"]
            row.add(contender, work, done, trials)
        except machine.RunError as error:
            say(str(error))
            self.failures.append(str(error))
        shutil.rmtree(folder)

    def storage(self) -> Iterator[str]:
        """Milliseconds a trial, and the share of storage calls in the digits study's wall time."""
        quick, folder = self.options.quick, self.fresh()
        say("store calls by themselves")
        cells = 48 if quick else 484
        each = bookkeeping.per_trial(folder, cells, 1 if quick else 5)
        yield (
            f"Storage (SQLite on disk, {bookkeeping.POINTS} points of 3 curves a trial, {cells} trials, chunks of "
            f"{bookkeeping.CHUNK}), ms a trial: {', '.join(f'{name} {ms:.3f}' for name, ms in each.items())}; "
            f"together **{sum(each.values()):.3f}**."
        )
        network = NETWORKS["mlp"]
        small = quick or self.options.no_full
        work = subset(network, self.options.cells or network.cells, self.options.epochs or network.epochs)
        work = work if small else full(network)
        study, _ = work.write(folder)
        say(f"a sweep of {work} with its store calls timed")
        command = [sys.executable, str(HERE / "bookkeeping.py"), "sweep", str(study), str(folder), str(machine.cores())]
        done = machine.run(command)
        calls = json.loads(done.out.splitlines()[-1])["calls"]
        spent = sum(seconds for name, (_, seconds) in calls.items() if name not in bookkeeping.READING)
        reading = sum(seconds for name, (_, seconds) in calls.items() if name in bookkeeping.READING)
        yield (
            f"\nOf a `wdgrid sweep` of {work} (cells × epochs) lasting {done.seconds:.1f} s, planning, queue and "
            f"results took {spent:.2f} s: **{100 * spent / done.seconds:.2f} %** of the wall time (n = 1), "
            f"{1000 * spent / work.cells:.2f} ms a cell, workers computing meanwhile; reading it all for the report "
            f"(the import of pandas included) another {reading:.2f} s. By call: "
            + ", ".join(f"{name} {n} × {1000 * seconds / n:.1f} ms" for name, (n, seconds) in calls.items())
            + "."
        )


if __name__ == "__main__":
    main()
