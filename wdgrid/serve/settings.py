"""Defines the settings of the service: storage, access control, and what a submitted study may name."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The operator's settings.

    `token` None: everyone who reaches the address has access. `hosts` are host names of the service, in addition to
    localhost and addresses. `code` are the networks and datasets that a submitted study may name in addition to the
    shipped ones, as `package.module:function` or `package.module`; `data` the folders that it may read. `most_cells`
    limits a submitted study. `work`: the queue is trained beside the server, on the Ray cluster at the address `ray`
    if it is given. `behind_proxy`: the client's address is the one that a proxy on this machine reports.
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
