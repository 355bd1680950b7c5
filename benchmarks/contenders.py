"""Lists the contenders: the name of each in the tables, and its whole command."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import machine

HERE = Path(__file__).parent
WDGRID = [sys.executable, "-c", "import sys; from wdgrid.cli import main; sys.exit(main())"]


@dataclass(frozen=True)
class Contender:
    """Its name in the tables, its script (none for wdgrid), and its options."""

    title: str
    script: str = ""
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_wdgrid(self) -> bool:
        """Whether it is wdgrid, in whatever precision."""
        return not self.script

    def command(self, study: Path, cells: Path, folder: Path, style: str) -> list[str]:
        """The command that trains a study file, or the same cells as JSON, with results in a folder."""
        storage = ["--storage", f"sqlite:///{(folder / 'trials.db').as_posix()}"]
        if self.is_wdgrid:
            own = ["--out", str(folder), "--workers", str(machine.cores()), "--json", "-q"]
            return [*WDGRID, "sweep", str(study), *storage, *own, *self.arguments]
        kept = ["--results", str(folder)] if self.script == "ray_tune.py" else storage
        return [sys.executable, str(HERE / self.script), str(cells), *kept, "--style", style, *self.arguments]


ONE, TWO, SHORT = ("--processes", "1"), ("--processes", "2"), ("--precision", "bfloat16")
CONTENDERS = {
    "wdgrid": Contender("`wdgrid sweep`"),
    "wdgrid-torch": Contender("`wdgrid sweep` without a C compiler", environment={"CC": ""}),
    "wdgrid-bf16": Contender("`wdgrid sweep`, bfloat16", arguments=("--set", "task.precision=bfloat16")),
    "loop": Contender("GridSampler loop, 1 process, default threads", "peers.py", ONE),
    "two": Contender("GridSampler loop, 2 processes, 1 thread each", "peers.py", TWO),
    "loop-bf16": Contender("GridSampler loop, 1 process, bfloat16 autocast", "peers.py", (*ONE, *SHORT)),
    "two-bf16": Contender("GridSampler loop, 2 processes, bfloat16 autocast", "peers.py", (*TWO, *SHORT)),
    "ray": Contender("Ray Tune grid_search, 1 thread a trial", "ray_tune.py"),
}
