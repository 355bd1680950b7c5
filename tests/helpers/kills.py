"""Sweeps that are killed at random moments, in random ways, and resumed: the stored table must not show it.

    PYTHONPATH=tests python -m helpers.kills --n 100 [--seed 0]

A chain is one study: its sweep is begun, killed, begun again, killed again, and at last left to end.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers.commands import TASK, study_toml
from wdgrid.store import Store

# The command as a user runs it, but that a worker is taken to hang after 2 s rather than 60.
SWEEP = [
    sys.executable,
    "-c",
    "import sys\nfrom wdgrid.runner import coordinator, crew\n"
    "crew.IDLE_S, crew.WATCH_S, coordinator.WATCH_S = 2.0, 0.5, 0.5\n"
    "from wdgrid.cli import main\nsys.exit(main())",
    "sweep", "study.toml", "--workers", "2", "--wait", "--checkpoint-minutes",
]  # fmt: skip
STUDY = "seeds = [0, 1, 2, 3]\n" + study_toml(TASK, "1..1/8", "0, 1/4..4", 0.016, sgd=1.0, adamw=0.1)
EPOCHS = 120
LIMIT_S = 300.0  # for a sweep to end by itself


@dataclass(frozen=True)
class Kill:
    """A signal, to what of a sweep, and the statuses with which the sweep may end then (0: it goes on to its end)."""

    number: signal.Signals
    to: str  # group, parent or worker
    statuses: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.number.name} to the {self.to}"


KILLS = [
    Kill(signal.SIGKILL, "group", (-9,)),
    Kill(signal.SIGKILL, "parent", (-9,)),
    Kill(signal.SIGKILL, "worker", (0,)),
    Kill(signal.SIGSTOP, "worker", (0,)),
    Kill(signal.SIGTERM, "worker", (0,)),
    Kill(signal.SIGTERM, "parent", (143,)),
    Kill(signal.SIGTERM, "group", (143,)),
    Kill(signal.SIGINT, "parent", (130,)),
    Kill(signal.SIGINT, "group", (130,)),
    Kill(signal.SIGHUP, "group", (129,)),
]


class Sweep:
    """A sweep in a session of its own."""

    def __init__(self, folder: Path, minutes: str) -> None:
        self.log = folder.parent / f"{folder.name}.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [*SWEEP, minutes], cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def lines(self) -> int:
        return len(self.log.read_text().splitlines())

    def wait(self, seconds: float) -> int:
        return self.process.wait(timeout=seconds)

    def members(self) -> list[int]:
        """Pids of all processes of its session, but for zombies."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                fields = path.read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                    found.append(int(path.parent.name))
        return found

    def workers(self) -> list[int]:
        found = []
        for pid in self.members():
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def send(self, kill: Kill, draw: random.Random) -> bool:
        """Whether there was somebody to send the signal to."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is not None:
                return False
            if kill.to == "worker":
                workers = self.workers()
                if not workers:
                    return False
                os.kill(draw.choice(workers), kill.number)
            elif kill.to == "group":
                os.killpg(self.process.pid, kill.number)
            else:
                self.process.send_signal(kill.number)
            return True
        return False


def table(folder: Path) -> pd.DataFrame:
    """What is stored, without what differs from run to run, in an order of its own."""
    with Store(f"sqlite:///{folder}/study.db", create=False) as store:
        frame = store.table("study").drop(columns=["seconds", "number"])
    return frame.sort_values(["panel", "seed", "lr", "weight_decay"]).reset_index(drop=True)


def prepare(folder: Path, epochs: int) -> Path:
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY.replace("epochs = 3", f"epochs = {epochs}"))
    return folder


def reference(folder: Path, epochs: int = EPOCHS) -> pd.DataFrame:
    """The table of a sweep that nothing happened to."""
    sweep = Sweep(prepare(folder, epochs), "5")
    assert sweep.wait(LIMIT_S) == 0, sweep.log.read_text()
    return table(folder)


def chain(folder: Path, expected: pd.DataFrame, draw: random.Random, kills: int, epochs: int = EPOCHS) -> Iterator[str]:
    """Kills one study's sweep up to so many times, then lets it end; yields what happened. May raise AssertionError."""
    prepare(folder, epochs)
    stored = 0
    for _ in range(kills):
        if stored == len(expected):
            break
        kill, minutes = draw.choice(KILLS), draw.choice("05")
        sweep = Sweep(folder, minutes)
        after = draw.choice((0, 1, 1, 1, 2, 3))  # lines that it printed
        while sweep.lines() < after and sweep.process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 4 if after < 2 else 1))
        sent, began = sweep.send(kill, draw), time.monotonic()
        try:
            status = sweep.wait(LIMIT_S)
            seconds = time.monotonic() - began
            said = sweep.log.read_text()
            what = f"{kill} after {after} lines: status {status}, {seconds:.1f} s"
            assert "Traceback" not in said or after == 0, f"{what}\n{said}"  # SWEEP imports outside of main
            allowed = {0, *kill.statuses}
            if after == 0 or "nothing to train" in said or "are finished" in said:
                allowed.add(-kill.number)  # before and after training a signal does what it does to any program
            assert status in (allowed if sent else {0}), f"{what}\n{said}"
            if kill.number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) and status != 0:
                assert seconds < 10, f"{what}\n{said}"
            while sweep.members() and time.monotonic() - began - seconds < 1:
                time.sleep(0.02)
            assert not sweep.members(), f"{what}: a process is left\n{said}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(sweep.process.pid, signal.SIGKILL)
        if there := re.search(r"study: (\d+) of 192 cells are there", said):
            assert int(there[1]) == stored, said
        stored = _check_stored(folder, expected, what, said, resting=status > 0)
        yield f"{what}, {stored} cells stored" + ("" if sent else " (too late)")
    sweep = Sweep(folder, "5")
    assert sweep.wait(LIMIT_S) == 0, sweep.log.read_text()
    pd.testing.assert_frame_equal(table(folder), expected)  # to the bit
    assert {path.name for path in folder.iterdir()} == {"study.toml", "study.db", "reports"}
    assert len(list((folder / "reports" / "study").iterdir())) == 5
    assert len(list((folder / "reports").iterdir())) == 1


def _check_stored(folder: Path, expected: pd.DataFrame, what: str, said: str, *, resting: bool) -> int:
    """What is stored after a kill is right, and, where the sweep could, no cell is left RUNNING. How many cells are."""
    try:
        now = table(folder)
    except Exception as error:
        assert "no such file" in str(error) or "holds no studies" in str(error) or "no study called" in str(error), what
        return 0
    done = now["state"] == "complete"
    pd.testing.assert_frame_equal(now.loc[done], expected.loc[done], check_dtype=False)
    assert not resting or "running" not in set(now["state"]), f"{what}\n{said}"
    return int(done.sum())


def main() -> None:
    """Parses, kills, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first chain (default: %(default)s)")
    parser.add_argument("--chain", type=int, default=5, help="kills of one study (default: %(default)s)")
    options = parser.parse_args()
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        signal.signal(number, usual)  # a shell that starts this in the background has them ignored
    counts, seed = Counter[str](), options.seed
    with tempfile.TemporaryDirectory() as name:
        expected = reference(Path(name) / "reference")
        while counts.total() < options.n:
            for line in chain(Path(name) / f"chain-{seed}", expected, random.Random(seed), options.chain):
                print(f"chain {seed}: {line}", flush=True)
                if not line.endswith("(too late)"):
                    counts[line.partition(" after ")[0]] += 1
            seed += 1
            print(f"chain {seed - 1}: the table is the uninterrupted one; {counts.total()} kills so far", flush=True)
    for kill, n in sorted(counts.items()):
        print(f"{n:4} {kill}")


if __name__ == "__main__":
    main()
