"""Makes SIGTERM and SIGHUP end a sweep as Ctrl-C does."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Terminated(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """128 plus the signal's number, as a shell reports it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT)


@contextmanager
def as_interrupts() -> Generator[None]:
    """Within the block, the first SIGTERM or SIGHUP raises Terminated; further ones are ignored while the sweep ends.

    A signal that was already ignored (by nohup) stays ignored.
    """
    numbers = [number for name in NAMES if (number := getattr(signal, name, None)) is not None]
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in that thread only
        numbers = []
    before = {n: handler for n in numbers if (handler := signal.getsignal(n)) != signal.SIG_IGN}

    def leave(number: int, _frame: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
