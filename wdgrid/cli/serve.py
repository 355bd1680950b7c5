"""`wdgrid serve`: serves studies to browsers."""

import ipaddress
import os
import secrets
import socket
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer

from wdgrid.cli.common import say
from wdgrid.cli.queue import ServedStorage, served_url
from wdgrid.errors import MachineError, UsageError

LEAST_TOKEN = 16  # characters


def serve(
    storage: ServedStorage = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs a token.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8642,
    token: Annotated[
        bool, typer.Option("--token", help="Make a token, without which nobody is let in, and print it once.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="Read the token from this file, which only you can read.", metavar="FILE")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which browsers reach the service. May be repeated.", metavar="NAME"),
    ] = None,
    allow_code: Annotated[
        list[str] | None,
        typer.Option(
            help="Code that submitted studies may name: package.module:function, or all of package.module. It runs as "
            "you. May be repeated.",
            metavar="CODE",
        ),
    ] = None,
    allow_data: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that submitted studies may read as data. May be repeated.", metavar="DIR"),
    ] = None,
    most_cells: Annotated[int, typer.Option(min=1, help="Cells that a submitted study may have.")] = 20_000,
    no_work: Annotated[
        bool, typer.Option("--no-work", help="Train nothing here; wdgrid queue --work does, on any machine.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="Train on this Ray cluster: HOST:PORT or auto.", metavar="ADDRESS")
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="Believe the client's address that a proxy on this machine passes on."),
    ] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")] = False,
) -> None:
    """Serve the studies of a storage to browsers: watch, compare, submit, queue. The queue is trained beside it."""
    try:
        from wdgrid.serve.run import serve as run
        from wdgrid.serve.settings import Settings
    except ModuleNotFoundError as error:
        raise UsageError(f"wdgrid serve needs {error.name}: python -m pip install 'wdgrid[serve]'") from None

    secret, is_new = _token(host, token, token_file)
    settings = Settings(
        url=served_url(storage),
        host=host,
        port=port,
        token=secret,
        hosts=tuple(allow_host or ()),
        code=tuple(allow_code or ()),
        data=tuple(allow_data or ()),
        most_cells=most_cells,
        work=not no_work,
        ray=ray,
        behind_proxy=behind_proxy,
        json_logs=json_logs,
    )
    _check_port(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/"
    say(f"wdgrid serves {address}")
    if secret is not None and is_new:  # after the #, which browsers do not send
        say(f"log in at {address}login#{secret}\nthe token is shown once, and another one is made at the next start")
    sys.stderr.flush()
    raise typer.Exit(run(settings))


def _check_port(host: str, port: int) -> None:
    """Raises MachineError if nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise MachineError(
            f"--host {host} --port {port}: {os.strerror(error.errno) if error.errno else error}"
        ) from None


def _token(host: str, made: bool, file: Path | None) -> tuple[str | None, bool]:
    """The token, and whether it is new. Raises UsageError if one is required, or if its file is not safe."""
    if file is not None:
        return _token_of(file), False
    if made:
        return secrets.token_urlsafe(24), True
    if not _is_loopback(host):
        raise UsageError(
            f"--host {host}: other machines can reach this address, so that a token is needed: "
            "give --token, or --token-file FILE"
        )
    return None, False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token_of(file: Path) -> str:
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"--token-file {file}: others can read it; chmod 600 {file}")
    if len(text) < LEAST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            f"--token-file {file}: a token has at least {LEAST_TOKEN} letters, digits or signs, and no spaces"
        )
    return text
