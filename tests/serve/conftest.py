"""A storage with two studies, and the service over it, without a server and without a worker."""

import pytest
from starlette.testclient import TestClient

from helpers.served import Served
from helpers.stored import fill, valley
from helpers.synthetic_tables import make_study
from wdgrid.runner.reconcile import plan
from wdgrid.serve.app import make_app
from wdgrid.serve.settings import Settings
from wdgrid.store import Store


@pytest.fixture
def study():
    return make_study(panels=[{"optimizer": "sgd"}, {"optimizer": "adamw", "lr_unit": 0.1}])


@pytest.fixture
def place(tmp_path, template, study):
    """The URL of an SQLite storage with a finished study and one that is half done."""
    url = f"sqlite:///{tmp_path}/study.db"
    (tmp_path / "study.db").write_bytes(template.read_bytes())
    with Store(url) as store:
        for name, most in (("whole", 10**9), ("half", 40)):
            plan(store, name, study)
            fill(store, name, study, valley, most)
    return url


@pytest.fixture
def settings(place):
    return Settings(place, work=False)


@pytest.fixture
def client(settings):
    with TestClient(make_app(settings), base_url="http://127.0.0.1:8642") as opened:
        yield opened


@pytest.fixture
def service(place, tmp_path):
    started = []

    def start(*options):
        started.append(Served(place, tmp_path / "log", *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            assert one.end() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
