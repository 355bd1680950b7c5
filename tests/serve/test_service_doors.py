"""Who is let in: hosts, origins, tokens, sizes, rates; and what is never told."""

import logging
import time
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from wdgrid.cli import main
from wdgrid.serve import doors
from wdgrid.serve.app import make_app
from wdgrid.serve.doors import Buckets, new_session, session_valid

TOKEN = "a-token-of-the-group-42"


@pytest.fixture
def guarded(settings):
    made = make_app(replace(settings, token=TOKEN, hosts=("grid.example.org",)))
    with TestClient(made, base_url="http://grid.example.org", follow_redirects=False) as opened:
        yield opened


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.evil.com", "", "localhost.evil.com:80", "[::1", "a b"])
def test_names_of_others_are_refused(client, host):
    answer = client.get("/api/studies", headers={"host": host})
    assert answer.status_code == 421 and answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8642", "[::1]:8642", "192.168.1.7"])
def test_addresses_and_localhost_are_let_in(client, host):
    assert client.get("/api/studies", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example.com"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_change_nothing(client, headers):
    answer = client.post("/api/queue", json={"shipped": "digits", "name": "x"}, headers=headers)
    assert answer.status_code == 403 and client.get("/api/queue").json()["entries"] == []


def test_the_own_pages_and_programs_may(client):
    for name, headers in (("a", {"origin": "http://127.0.0.1:8642", "sec-fetch-site": "same-origin"}), ("b", {})):
        answer = client.post("/api/queue", json={"shipped": "digits", "name": name}, headers=headers)
        assert answer.status_code == 201


def test_without_the_token_there_is_nothing_but_the_login(guarded):
    for path in (
        "/api/studies",
        "/api/openapi.json",
        "/api/queue",
        "/api/studies/whole/files/trials.csv",
        "/api/events",
    ):
        answer = guarded.get(path)
        assert (
            answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer" and "half" not in answer.text
        )
    assert guarded.post("/api/queue/1/cancel").status_code == 401
    sent = guarded.get("/", headers={"accept": "text/html"})
    assert sent.status_code == 303 and sent.headers["location"] == "/login"
    assert [guarded.get(p).status_code for p in ("/login", "/healthz", "/static/login.js")] == [200] * 3
    assert guarded.get("/static/../api/studies").status_code in (401, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer ü"},
        {"cookie": f"wdgrid_session={TOKEN}"},
        {"cookie": "wdgrid_session=9999999999.x.0"},
        {"cookie": "wdgrid_session="},
        {"cookie": '="; wdgrid_session'},
    ],
)
def test_what_is_not_the_token_does_not_open(guarded, headers):
    sent = {name: value.encode("utf-8") for name, value in headers.items()}
    assert guarded.get("/api/studies", headers=sent).status_code == 401


def test_the_token_opens_as_a_header_and_is_exchanged_for_a_cookie(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    assert guarded.get("/api/studies", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guarded.post("/login", json={"token": "wrong"}).status_code == 401
    answer = guarded.post("/login", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204 and TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert guarded.get("/api/studies").status_code == 200
    assert guarded.get("/", headers={"accept": "text/html"}).status_code == 200
    assert TOKEN not in caplog.text


def test_sessions_end_and_belong_to_one_token(monkeypatch):
    made = new_session("one-token")
    assert session_valid(made, "one-token") and not session_valid(made, "another")
    until, nonce, signature = made.split(".")
    assert not session_valid(f"{int(until) + 9}.{nonce}.{signature}", "one-token")
    later = time.time() + doors.SESSION_S + 1
    monkeypatch.setattr(doors.time, "time", lambda: later)
    assert not session_valid(made, "one-token")


def test_guessing_is_slowed_down(guarded):
    tries = [guarded.post("/login", json={"token": f"guess{k}"}) for k in range(7)]
    assert [one.status_code for one in tries] == [401] * 5 + [429] * 2 and tries[-1].headers["retry-after"] == "10"


def test_large_requests_are_refused(client):
    answer = client.post("/api/validate", content=b"x" * (doors.MOST_BYTES + 1))
    assert answer.status_code == 413

    def endless():
        for _ in range(40):
            yield b"x" * 2**16

    answer = client.post("/api/validate", content=endless())
    assert answer.status_code in (400, 413, 422)


def test_rates_are_bounded_for_each_client(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(doors.time, "monotonic", lambda: now[0])
    bucket = Buckets(2.0, 3.0)
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]
    assert bucket.take("b")
    now[0] = 0.5
    assert [bucket.take("a") for _ in range(2)] == [True, False]


def test_too_many_changes_are_refused(settings):
    with TestClient(make_app(replace(settings, writes_per_second=0.5)), base_url="http://localhost") as one:
        got = [one.post("/api/validate", json={"toml": ""}).status_code for _ in range(5)]
    assert got == [200] * 3 + [429] * 2


def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/api/studies", "/static/live.js", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert ("immutable" in headers["cache-control"]) == path.startswith("/static")


def refused(capsys, *arguments):
    assert main(["serve", *arguments]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def test_another_address_needs_a_token(capsys, tmp_path):
    for host in ("0.0.0.0", "192.168.1.7", "::", "grid.example.org"):
        assert "so that a token is needed: give --token, or --token-file FILE" in refused(capsys, "--host", host)
    file = tmp_path / "token"
    assert "cannot be read: No such file" in refused(capsys, "--token-file", str(file))
    file.write_text("short")
    assert "others can read it; chmod 600" in refused(capsys, "--token-file", str(file))
    file.chmod(0o600)
    assert "at least 16 letters" in refused(capsys, "--token-file", str(file))


def test_code_is_allowed_by_name_only(settings, place):
    from helpers.commands import SMALL

    text = SMALL.replace("model_args = { hidden = [16] }", 'model = "mine.nets:small"')
    for code, valid in (
        (("mine.nets:small",), True),
        (("mine.nets",), True),
        (("mine",), False),
        (("mine.nets:other",), False),
    ):
        with TestClient(make_app(replace(settings, code=code)), base_url="http://localhost") as one:
            assert one.post("/api/validate", json={"toml": text}).json()["valid"] is valid
