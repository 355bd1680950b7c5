"""Describes the environment stored with a study: versions, times, and the facts that change a cell's result.

These facts are the device, torch and the backend.

Another environment rounds differently, and training amplifies the difference: the error of one cell may change by a
point, while the map as a whole stays the same. So the workers of one run must have the same environment, and the
report names the environments of a study that was resumed elsewhere.
"""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from wdgrid.store import Store

FACTS, THEN = ("device", "torch", "backend", "mkl_mode", "products"), ", then "
OURS = "wdgrid"  # wdgrid's version, stored at the start of a run


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
    """The commit of the working directory's repository, with + if it has changes; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The facts that differ from all earlier environments, as a line; empty if none does."""
    new = [fact for fact in (*FACTS, OURS) if earlier.get(fact) and now[fact] not in earlier[fact].split(THEN)]
    return "; ".join(f"{fact}: {earlier[fact]}{THEN}{now[fact]}" for fact in new)


def merged(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The facts of all environments, in order."""
    seen: dict[str, list[str]] = {fact: earlier[fact].split(THEN) if earlier.get(fact) else [] for fact in FACTS}
    return {fact: THEN.join(dict.fromkeys([*seen[fact], str(now[fact])])) for fact in FACTS}
