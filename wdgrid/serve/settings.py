"""How the service runs: the storage, the doors, and what a submitted study may name."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """All that the operator decides.

    `token` None: everyone who reaches the address is let in. `hosts` are names by which browsers reach the service,
    beside localhost and addresses. `code` are the networks and datasets that a submitted study may name beside the
    shipped ones, as `package.module:function` or `package.module`; `data` the folders that it may read. `most_cells`
    bounds a submitted study. `work`: the queue is trained beside the server, on the Ray cluster at the address `ray`
    if there is one. `behind_proxy`: the client's address is that which a proxy on this machine tells.
    """

    url: str
    host: str = "127.0.0.1"
    port: int = 8642
    token: str | None = None
    hosts: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    data: tuple[Path, ...] = ()
    most_cells: int = 20_000
    work: bool = True
    ray: str | None = None
    behind_proxy: bool = False
    json_logs: bool = False
    reads_per_second: float = 100.0
    writes_per_second: float = 5.0
    folder: Path = field(default_factory=Path.cwd)
