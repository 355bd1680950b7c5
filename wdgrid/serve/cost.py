"""The line about a study that is shown beside its cost before it is submitted."""

from collections.abc import Mapping
from typing import Any


def check_line(cost: Mapping[str, Any]) -> str:
    """What to know before a study is started, in one line, from what `wdgrid plan --json` measured."""
    cells = sum(panel["cells"] for panel in cost["panels"])
    return (
        f"{cells} cells in chunks of {cost['chunk']} on {cost['device']}, {cost['workers']} worker processes, "
        f"about {_span(cost['seconds'])} of training"
    )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
