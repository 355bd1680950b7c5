"""What a cell's result depends on beside its study: the device, torch, and the backend in which it is computed.

Another environment rounds differently, and training amplifies that: one cell may end a point of error away, though the
map stays the same. So one run's workers must be alike, and a study that was resumed elsewhere says so.
"""

from collections.abc import Mapping
from typing import Any

FACTS, THEN = ("device", "torch", "backend", "mkl_mode"), ", then "


def stored_environment(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The environment among a study's stored attributes; earlier versions called the backend "form"."""
    environment = dict(attributes.get("environment", {}))
    if "form" in environment:
        environment.setdefault("backend", environment.pop("form"))
    return environment


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is other now than in all that there was earlier, as a line; empty if nothing is."""
    new = [fact for fact in FACTS if earlier.get(fact) and now[fact] not in earlier[fact].split(THEN)]
    return "; ".join(f"{fact}: {earlier[fact]}{THEN}{now[fact]}" for fact in new)


def merged(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The facts of all that there was, in order."""
    seen = {fact: earlier[fact].split(THEN) if earlier.get(fact) else [] for fact in FACTS}
    return {fact: THEN.join(dict.fromkeys([*seen[fact], now[fact]])) for fact in FACTS}
