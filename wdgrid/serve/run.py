"""Runs the service: the server, and the queue's worker as a process that ends with the server."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import uvicorn

from wdgrid.runner.naming import open_store
from wdgrid.serve.app import make_app
from wdgrid.serve.jobs import COMMAND, environment
from wdgrid.serve.settings import Settings

STOP_S = 5  # to finish open requests
WORKER_STOP_S = 40.0  # for a sweep to put its cells back
MOST_CONNECTIONS = 2000
LOG = logging.getLogger("wdgrid.serve")


class Server(uvicorn.Server):
    """A server that ends its event streams when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, stopped: asyncio.Event) -> None:
        super().__init__(config)
        self._stopped = stopped

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops the server; called by SIGTERM and SIGINT."""
        self._stopped.set()
        super().handle_exit(sig, frame)


class WorkerProcess:
    """`wdgrid queue --work` beside the server; it is restarted if it dies."""

    def __init__(self, url: str, ray: str | None) -> None:
        self._words = ["queue", "--work", "--storage", url, *(["--ray", ray] if ray else [])]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="queue worker", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop its sweep and itself, and wait for its end."""
        self._stopping.set()
        self._thread.join(WORKER_STOP_S + 5)

    def _keep(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            began = time.monotonic()
            status = self._run()
            if not self._stopping.is_set():
                pause = 1.0 if time.monotonic() - began > 60 else min(60.0, 2 * pause)
                LOG.warning("the queue's worker ended with status %s; it is started again in %.0f s", status, pause)
                self._stopping.wait(pause)

    def _run(self) -> int:
        """One run of the worker, whose standard input is open until this process ends."""
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(WDGRID_STOP_WITH_STDIN="1"),
            start_new_session=True,  # this process passes Ctrl-C on to it
        )
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(f"{json.dumps(self._words)}\n")
        process.stdin.flush()
        threading.Thread(target=_log_lines, args=(process.stderr,), daemon=True).start()
        while process.poll() is None:
            if self._stopping.wait(0.5):
                process.terminate()
                try:
                    process.wait(WORKER_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        return process.returncode


def _log_lines(stream: Any) -> None:
    for line in stream:
        if text := line.strip():
            LOG.info("worker: %s", text)


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Ignores a signal, after the server has stopped."""


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Formats log records as one JSON object per line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        text = record.getMessage()
        line |= json.loads(text) if record.name.endswith(".access") else {"message": text}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Formats log records as one line of text."""
        if record.name.endswith(".access"):
            of = json.loads(record.getMessage())
            text = f"{of['client']} {of['method']} {of['path']} {of['status']} {of['ms']} ms"
        else:
            text = record.getMessage()
        lines = (
            f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(record.created))} {record.levelname.lower()} {text}"
        )
        return lines + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


def log_to_stderr(as_json: bool) -> None:
    """Makes the service and its server log to standard error, as lines or as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _Lines())
    for name in ("wdgrid.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit status. Raises UsageError if the storage cannot be opened."""
    log_to_stderr(settings.json_logs)
    open_store(settings.url, create=True).close()
    app = make_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # `doors` writes the access log
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
        ws="none",
    )
    server = Server(config, app.state.service.hub.stopped)
    worker = WorkerProcess(settings.url, settings.ray) if settings.work else None
    if worker:
        worker.start()
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after it has stopped
        signal.signal(number, _ignored)
    try:
        server.run()
    except SystemExit:  # for example, the port is in use
        return 1
    finally:
        if worker:
            worker.stop()
    return 0 if server.started else 1
