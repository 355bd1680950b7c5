"""Controls access: checks host, origin, token, size and rate of each request before the application handles it."""

import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from wdgrid.printable import printable
from wdgrid.serve.problems import problem
from wdgrid.serve.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "wdgrid_session"
SESSION_S = 30 * 86400
MOST_BYTES = 2**20 + 2**16  # the largest study file, and the JSON around it
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/healthz", "/login", "/static/")  # paths that need no token
LOGIN = "/login"
LOG = logging.getLogger("wdgrid.serve.access")
HEADERS = {
    # Plotly and the map set styles by script; only scripts from the service's own files may run.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Buckets:
    """Limits the events per second of each client, with `burst` at once; old clients are removed."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Whether the client is within its limit; each call counts as one event."""
        now = time.monotonic()
        left, at = self._left.pop(client, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_second)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > 10_000:
            self._left.popitem(last=False)
        return left >= 1


class Doors:
    """Middleware around the application; it also sets the security headers and writes the access log."""

    def __init__(self, app: App, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.reads = Buckets(settings.reads_per_second, 10 * settings.reads_per_second)
        self.writes = Buckets(settings.writes_per_second, 6 * settings.writes_per_second)
        self.logins = Buckets(0.1, 5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                extra = (
                    {**HEADERS} if scope["path"].startswith("/static/") else {**HEADERS, "cache-control": "no-store"}
                )
                named = [(name.encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message["headers"], *(pair for pair in named if pair[0] not in given)]
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal is None:
                await self.app(scope, _bounded(receive), sending)
            else:
                await refusal(scope, receive, sending)
        finally:
            # The query is never logged, and no path contains a token.
            LOG.info(
                "%s",
                json.dumps(
                    {
                        "client": _client(scope),
                        "method": scope["method"],
                        "path": printable(scope["path"]),
                        "status": status,
                        "ms": round(1000 * (time.monotonic() - began), 1),
                    }
                ),
            )

    def _refusal(self, scope: Scope) -> Any:
        """The response to a refused request; None for an accepted one."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        client = _client(scope)
        if not (self.reads if method in SAFE else self.writes).take(client):
            return problem(429, "too many requests; wait a little", headers={"Retry-After": "2"})
        if not self.host_allowed(headers.get("host", "")):
            return problem(421, "this name is not one of the service's; give it to wdgrid serve --allow-host")
        if method not in SAFE:
            if not _same_origin(headers):
                return problem(403, "requests from other sites are refused")
            if path == LOGIN and not self.logins.take(client):
                return problem(429, "too many attempts; wait ten seconds", headers={"Retry-After": "10"})
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return problem(413, f"a request has at most {MOST_BYTES} bytes")
        if path.startswith(OPEN) or self.settings.token is None or self._knows(headers):
            return None
        if method in SAFE and "text/html" in headers.get("accept", ""):
            return _redirect(LOGIN)
        return problem(
            401, "log in, or send the token as Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"}
        )

    def host_allowed(self, host: str) -> bool:
        """Whether a Host header is an address, localhost, or one of the service's names (against DNS rebinding)."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
            if name in {"localhost", *(one.lower() for one in self.settings.hosts)}:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows(self, headers: dict[str, str]) -> bool:
        """Whether a request has the token, or a valid cookie in its place."""
        token = self.settings.token or ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and equal(given.strip(), token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and session_valid(cookie.value, token)


def equal(given: str, token: str) -> bool:
    """Whether two texts are equal, compared in a time that does not reveal where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def new_session(token: str) -> str:
    """A cookie's value that replaces the token for SESSION_S seconds, without containing it."""
    until = f"{int(time.time()) + SESSION_S}.{secrets.token_urlsafe(12)}"
    return f"{until}.{_signed(until, token)}"


def session_valid(value: str, token: str) -> bool:
    """Whether a cookie's value was made with this token and has not expired."""
    until, _, signature = value.rpartition(".")
    end = until.partition(".")[0]
    return equal(signature, _signed(until, token)) and end.isascii() and end.isdigit() and int(end) > time.time()


def _signed(text: str, token: str) -> str:
    return hmac.new(token.encode(), f"wdgrid session {text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _same_origin(headers: dict[str, str]) -> bool:
    """Whether a request that changes something comes from the service's own pages, or from no page at all."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "unknown"


def _redirect(to: str) -> Any:
    from starlette.responses import RedirectResponse

    return RedirectResponse(to, 303)


def _bounded(receive: Receive) -> Receive:
    """Reads a request's body, up to MOST_BYTES; the rest of a longer body is not read."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BYTES:
            return {"type": "http.disconnect"}
        return message

    return bounded
