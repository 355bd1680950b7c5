"""`wdgrid serve` as a process."""

import signal
import socket
import subprocess
import time
import urllib.request

from helpers.commands import WDGRID


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Served:
    """`wdgrid serve` as a process."""

    def __init__(self, url, log, *options):
        self.url, self.log, self.options, self.port = url, log, options, free_port()
        self.start()

    def start(self):
        words = [*WDGRID, "serve", "--storage", self.url, "--port", str(self.port), *self.options]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(words, stderr=log)
        until(self.answers)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.base}/healthz") as answer:
                return answer.status == 200
        except OSError:
            return False

    @property
    def base(self):
        return f"http://127.0.0.1:{self.port}"

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)


def until(true, seconds=90):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
