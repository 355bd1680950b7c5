"""Events of a sweep as text."""

import time
from collections.abc import Sequence

from wdgrid.runner.events import Event, Notice, Planned, Replaced, RoundChosen, SlowSearch, SweepEnded, Waiting


def message(event: Event) -> str | None:
    """The message for an event; None if it has none."""
    match event:
        case Replaced():
            return f"{event.study}: this study replaces the stored one, of which no cell was trained"
        case Planned():
            return _planned(event)
        case SlowSearch():
            share = f"about {100 * event.share:.0f} % of the whole grid's time"
            return f"{event.study}: this network trains many cells at once, so the search takes {share}"
        case RoundChosen():
            return f"{event.study}: training the {event.chosen} most promising of {event.cells} cells in full"
        case Waiting():
            return f"{event.study}: waiting for {event.cells} cells {_held(event.until)}"
        case SweepEnded():
            return ended(event)
        case Notice():
            return event.text
        case _:
            return None


def _planned(event: Planned) -> str:
    if event.added == event.cells:
        return f"{event.study}: {event.cells} cells to train"
    parts = [
        (event.finished, f"{event.finished} of {event.cells} cells are finished"),
        (event.added, f"{event.added} are new"),
        (event.put_back, f"{event.put_back} were held by a process that is gone"),
        (event.retried, f"{event.retried} failed and are trained again"),
        (1, f"training the {event.missing} missing" if event.missing else "nothing to train"),
    ]
    return f"{event.study}: {_joined(', ', parts)}"


def _joined(separator: str, parts: Sequence[tuple[int, str]]) -> str:
    """The texts whose number is not 0."""
    return separator.join(text for number, text in parts if number)


def _held(until: float | None) -> str:
    lease = "" if until is None else time.strftime(" (leased until %H:%M:%S, if not renewed)", time.localtime(until))
    return f"that another process holds{lease}"


def ended(event: SweepEnded) -> str:
    """How many cells are finished at the end, and what to do about the others."""
    parts = [
        (1, f"{event.finished} of {event.cells} cells are finished"),
        (event.failed, f"{event.failed} failed (to train them again: --retry, in Python retry=True)"),
        (
            event.elsewhere,
            f"{event.elsewhere} {_held(event.until)} are missing (to wait for them: --wait, in Python wait=True)",
        ),
        (event.waiting, f"{event.waiting} are not trained (the same command trains them)"),
    ]
    return f"{event.study}: {_joined('; ', parts)}"


def span(seconds: float) -> str:
    """The remaining time, rounded: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
