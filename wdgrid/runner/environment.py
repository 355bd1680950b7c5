"""The environment stored with a study: versions and times, and what a cell's result depends on beside its study.

That is the device, torch, and the backend in which it is computed.

Another environment rounds differently, and training amplifies that: one cell may end a point of error away, though the
map stays the same. So one run's workers must be alike, and a study that was resumed elsewhere says so.
"""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from wdgrid.store import Store

FACTS, THEN = ("device", "torch", "backend", "mkl_mode", "products"), ", then "
OURS = "wdgrid"  # the version, which the start of a run stores


def stored_environment(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The environment among a study's stored attributes; earlier versions called the backend "form"."""
    environment = dict(attributes.get("environment", {}))
    if "form" in environment:
        environment.setdefault("backend", environment.pop("form"))
    return environment


def remember(store: Store, name: str, **entries: Any) -> None:
    """Adds to a study's stored environment."""
    store.set_attrs(name, {"environment": {**stored_environment(store.attrs(name)), **entries}})


def own_version() -> dict[str, str]:
    """wdgrid's version, which every worker of this process must have."""
    return {OURS: version(OURS)}


def run_facts() -> dict[str, str | None]:
    """Versions, commit and start of a run."""
    return {**own_version(), "optuna": version("optuna"), "commit": _commit(), "started": now()}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat()


def _commit() -> str | None:
    """The commit of the working directory's repository, with + where it has changes; None outside of one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is other now than in all that there was earlier, as a line; empty if nothing is."""
    new = [fact for fact in (*FACTS, OURS) if earlier.get(fact) and now[fact] not in earlier[fact].split(THEN)]
    return "; ".join(f"{fact}: {earlier[fact]}{THEN}{now[fact]}" for fact in new)


def merged(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The facts of all that there was, in order."""
    seen: dict[str, list[str]] = {fact: earlier[fact].split(THEN) if earlier.get(fact) else [] for fact in FACTS}
    return {fact: THEN.join(dict.fromkeys([*seen[fact], str(now[fact])])) for fact in FACTS}
