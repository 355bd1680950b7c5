"""Runs wdgrid's own commands in separate processes, for work that takes seconds, needs torch or draws.

So the service does not implement a second time what a command does, and stays responsive. The arguments of a command
are passed through standard input, so that no list of processes shows a storage's password.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from wdgrid.serve.problems import BusyError

COMMAND = [
    sys.executable,
    "-c",
    "import json, sys; words = json.loads(sys.stdin.readline()); from wdgrid.cli import main; sys.exit(main(words))",
]
AT_ONCE = 1
MOST_WAITING = 16
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it wrote."""

    status: int
    out: bytes
    err: str

    @property
    def message(self) -> str:
        """The command's error message."""
        lines = [line.removeprefix("wdgrid: ") for line in self.err.splitlines() if line.startswith("wdgrid: ")]
        return "\n".join(lines) or f"the command ended with status {self.status}"


class Jobs:
    """Runs a limited number of commands at once; others wait, and BusyError is raised if too many wait."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def run(self, words: Sequence[str], timeout_s: float = TIMEOUT_S) -> Ended:
        """Runs a command. Raises BusyError if too many commands wait, or if it takes longer than `timeout_s`."""
        if self._waiting >= MOST_WAITING:
            raise BusyError("the service is busy; try again in a few seconds")
        with self._counted():
            async with self._turn:
                return await _run(words, timeout_s)

    @contextlib.contextmanager
    def _counted(self) -> Generator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


async def _run(words: Sequence[str], timeout_s: float) -> Ended:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, env=environment())
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(f"{json.dumps(list(words))}\n".encode())
    except TimeoutError:
        raise BusyError(f"{words[0]} took longer than {timeout_s:.0f} s and was stopped") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, out, err.decode("utf-8", "replace"))


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: this process' own, without colours."""
    return {**os.environ, "NO_COLOR": "1", "MPLBACKEND": "agg", **more}


def json_of(ended: Ended) -> Any:
    """The JSON output of a command with --json."""
    return json.loads(ended.out)
