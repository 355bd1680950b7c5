"""What a cell's result depends on beside its study: the device, torch, and the form in which it is computed.

Other ones round otherwise, and training amplifies that: one cell may end a point of error away, though the map stays
the same. So one run's workers must be alike, and a study that went on elsewhere says so. Knows environments only.
"""

from collections.abc import Mapping
from typing import Any

FACTS, THEN = ("device", "torch", "form"), ", then "


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is other now than in all that there was earlier, as a line; empty if nothing is."""
    new = [fact for fact in FACTS if earlier.get(fact) and now[fact] not in earlier[fact].split(THEN)]
    return "; ".join(f"{fact}: {earlier[fact]}{THEN}{now[fact]}" for fact in new)


def of_both(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The facts of all that there was, in order."""
    seen = {fact: earlier[fact].split(THEN) if earlier.get(fact) else [] for fact in FACTS}
    return {fact: THEN.join(dict.fromkeys([*seen[fact], now[fact]])) for fact in FACTS}
