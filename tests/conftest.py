"""What all tests share."""

import os
import shutil
import signal
import time

import pytest
import torch

from helpers.zoo import make

for number, usual in ((signal.SIGINT, signal.default_int_handler), (getattr(signal, "SIGHUP", 0), signal.SIG_DFL)):
    if number and signal.getsignal(number) is signal.SIG_IGN:  # as a shell or nohup starts what runs in the background:
        signal.signal(number, usual)  # commands under test would inherit that

BROWSER = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
BROWSER += " --disable-component-update --disable-sync"
POSTGRES = os.environ.get("WDGRID_TEST_POSTGRES")


@pytest.fixture(autouse=True)
def _as_a_worker_computes():
    """One thread; and whatever a command run in this process set is set back (hypothesis needs subnormal numbers)."""
    torch.set_num_threads(1)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for what is downloaded and prepared."""
    monkeypatch.setenv("WDGRID_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zoo(tmp_path, cache):
    """A folder of small images; `tests/zoo.py` knows them."""
    return make(tmp_path / "zoo")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.skipif(not POSTGRES, reason="WDGRID_TEST_POSTGRES gives no URL")),
    ]
)
def fresh_url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
        return
    import sqlalchemy as sa

    admin = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"wdgrid_test_{os.getpid()}_{time.monotonic_ns()}"
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield sa.make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    from wdgrid.store import Store

    path = tmp_path_factory.mktemp("template") / "study.db"
    Store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def url(fresh_url, template):
    """A storage with its schema; on SQLite a copy, because Optuna takes a third of a second to make one."""
    if fresh_url.startswith("sqlite"):
        shutil.copy(template, fresh_url.removeprefix("sqlite:///"))
    return fresh_url


@pytest.fixture
def store(url):
    """The store's contract is tested through this, over SQLite and PostgreSQL."""
    from wdgrid.store import Store

    with Store(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium():
    """A browser; without one these tests are skipped, except in CI, where its absence is a fault."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if not found:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium and the Python package playwright")
        pytest.skip("needs Chromium (apt-get install chromium) and the Python package playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=BROWSER.split())
        yield browser
        browser.close()
