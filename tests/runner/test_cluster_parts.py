"""What `--ray` does before and beside the cluster: options, the user's modules, checkpoints, refusals."""

import importlib.util
from types import SimpleNamespace

import pytest

from helpers.commands import SMALL
from wdgrid.cli import main
from wdgrid.cli.sweep import WithRay
from wdgrid.errors import MachineError, UsageError
from wdgrid.runner import environment, reconcile
from wdgrid.runner.cluster import AUTO, ClusterWorker, Ray, ray_of
from wdgrid.runner.cluster.code import MOST_BYTES, copy_modules, own_modules
from wdgrid.runner.cluster.mirror import Mirror
from wdgrid.runner.coordinator import Coordinator, Means
from wdgrid.runner.crew import Crew
from wdgrid.runner.events import Notice
from wdgrid.runner.messages import Lost, Order, Ready
from wdgrid.store import Store
from wdgrid.study import Cell, load_study
from wdgrid.study.sections import Cosine


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["s", "--ray"], AUTO),
        (["--ray", "s"], AUTO),
        (["s", "--ray", "--workers", "2"], AUTO),
        (["s", "--ray", "head:6379"], "head:6379"),
        (["--ray", "[::1]:6379", "s"], "[::1]:6379"),
        (["s", "--ray=10.0.0.1:6379"], "10.0.0.1:6379"),
        (["s"], None),
    ],
)
def test_the_address_may_be_left_out(monkeypatch, words, expected):
    import typer

    seen = []
    app = typer.Typer()

    @app.command(cls=WithRay)
    def sweep(study: str, ray: str | None = None, workers: int | None = None) -> None:
        seen.append((study, ray))

    app(words, standalone_mode=False)
    assert seen == [("s", expected)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--ray", "ray://head:10001"], 2, "must be HOST:PORT, or auto"),
        (["--gpus-per-worker", "1"], 2, "needs --ray"),
        (["--ray", "--gpus-per-worker", "-1"], 2, "must be from 0 to 64"),
    ],
)
def test_options_that_cannot_be_meant_are_one_line(here, capsys, options, status, said):
    assert main(["sweep", "small.toml", *options]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not list(here.glob("*.db"))


def test_ray_that_is_not_installed_is_one_line_that_names_the_extra(here, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sweep", "small.toml", "--ray", "-q"]) == 2
    assert "pip install 'wdgrid[ray]'" in capsys.readouterr().err


def test_without_an_address_there_is_no_cluster():
    assert ray_of(None, None) is None and ray_of(AUTO, 0.5) == Ray(AUTO, 0.5)
    with pytest.raises(UsageError, match="HOST:PORT"):
        Ray("head")


def test_a_module_travels_with_what_it_imports_and_nothing_else(tmp_path):
    (tmp_path / "mine.py").write_text("import json, numpy, helper\nfrom package.inner import x\n")
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "other.py").write_text("1 / 0")
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "inner.py", "table.csv", "__pycache__/inner.pyc"):
        (tmp_path / "package" / name).write_text("")
    found = own_modules(["mine:network", "digits"], tmp_path)
    assert [path.name for path in found] == ["helper.py", "mine.py", "package"]
    copy_modules(found, tmp_path / "copy")
    copied = sorted(str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*.*"))
    assert copied == ["helper.py", "mine.py", "package/__init__.py", "package/inner.py", "package/table.csv"]
    assert own_modules(["torch.nn:Linear", "mlp"], tmp_path) == []


def test_a_module_that_is_not_python_travels_all_the_same(tmp_path):
    (tmp_path / "mine.py").write_text("def network(:")
    assert own_modules(["mine:network"], tmp_path) == [tmp_path / "mine.py"]  # the worker says what is wrong with it


def test_large_modules_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    with (tmp_path / "mine" / "weights.bin").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UsageError, match=r"mine: would travel to every node, and is larger than 10 MiB"):
        copy_modules(own_modules(["mine:network"], tmp_path), tmp_path / "copy")


def test_copied_checkpoints_are_the_last_two_of_their_chunk(tmp_path):
    cell = Cell("sgd", 0, {"lr": 1.0, "weight_decay": 0.0}, ("1", "0"))
    order = Order("sgd", Cosine(kind="cosine"), 4, False, [cell], 3, tmp_path / "kept", "digest", 60.0)
    mirror = Mirror(order)
    assert mirror.files() == {} and mirror.keep({}) is None and not (tmp_path / "kept").exists()
    names = [f"{order.stem}-{epoch:06}.safetensors" for epoch in (1, 2, 3)]
    for name in names:
        assert mirror.keep({name: name.encode()}) is None
    (tmp_path / "kept" / "another-000001.safetensors").write_text("")
    assert mirror.files() == {name: name.encode() for name in names[1:]}
    mirror.clear()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["another-000001.safetensors"]
    (tmp_path / "file").write_text("")
    unwritable = Mirror(Order("sgd", order.schedule, 4, False, [cell], 3, tmp_path / "file", "digest", 60.0))
    assert "checkpoints cannot be written" in unwritable.keep({names[0]: b""})


class FakeCluster:
    """A cluster whose workers do nothing by themselves."""

    slots, all_refused, waits_for = 2, False, None

    def __init__(self):
        self.stopped, self.refused = [], []

    def wanted(self, asked):
        return asked or self.slots

    def notice(self, asked):
        return self.waits_for

    def start(self, cells, chunk, variables):
        return ClusterWorker(self, object())

    def wait(self, workers, timeout):
        return []

    def send(self, worker, order):
        pass

    def end(self, worker):
        pass

    def stop(self, worker, *, refuse=False):
        (self.refused if refuse else self.stopped).append(worker)


@pytest.fixture
def at_work(here):
    """A coordinator and its crew on a fake cluster with room for two, and what they said."""
    study, said = load_study(here / "small.toml"), []
    with Store("sqlite:///small.db") as store:
        reconcile.plan(store, "small", study)
        means = Means(None, here / "checkpoints", cluster=FakeCluster())
        coordinator = Coordinator(store, "small", study, means, said.append)
        crew = Crew(coordinator._start_worker, coordinator._release, coordinator._finish, means.cluster.wait)
        yield SimpleNamespace(coordinator=coordinator, crew=crew, cluster=means.cluster, store=store, said=said)


def ready(**facts):
    same = dict.fromkeys(environment.FACTS, "cpu") | environment.own_version()
    return Ready(same | facts, 8, None)


def texts(events):
    return [event.text for event in events if isinstance(event, Notice)]


def test_as_many_workers_as_the_cluster_has_room_for_as_nodes_come(at_work):
    follow = at_work.coordinator._follow
    follow(at_work.cluster, at_work.crew)
    assert len(at_work.crew.members) == 2
    at_work.cluster.slots = 5
    follow(at_work.cluster, at_work.crew)
    assert len(at_work.crew.members) == 5
    at_work.cluster.slots = 1000
    at_work.coordinator.size = 8
    follow(at_work.cluster, at_work.crew)
    assert len(at_work.crew.members) == 48 / 8  # never more than chunks


def test_the_cells_of_a_lost_node_wait_again_and_it_is_said_once(at_work):
    coordinator, crew = at_work.coordinator, at_work.crew
    coordinator._follow(at_work.cluster, crew)
    for member in list(crew.members):
        coordinator._handle(ready(), member, crew)
    assert [len(member.claims) for member in crew.members] == [8, 8]
    for member in list(crew.members):
        coordinator._handle(Lost("10.0.0.7"), member, crew)
    assert crew.members == [] and at_work.store.count("small").n_waiting == 48 and coordinator.pending
    assert texts(at_work.said) == ["node 10.0.0.7 is gone; the cells of its workers wait again"]


@pytest.mark.parametrize("facts", [{"wdgrid": "9.9"}, {"torch": "other"}, {"device": "cpu (other)"}])
def test_a_worker_of_another_environment_is_dropped_and_its_node_refused(at_work, facts):
    coordinator, crew = at_work.coordinator, at_work.crew
    coordinator._follow(at_work.cluster, crew)
    first, second = crew.members
    coordinator._handle(ready(), first, crew)
    coordinator._handle(ready(**facts), second, crew)
    assert crew.members == [first] and at_work.cluster.refused == [second.worker._number]
    assert "its floating-point environment differs" in texts(at_work.said)[0]


def test_each_worker_has_its_own_gpu(at_work):
    at_work.coordinator._follow(at_work.cluster, at_work.crew)
    for member in list(at_work.crew.members):
        at_work.coordinator._handle(ready(device="cuda (X)"), member, at_work.crew)
    assert len(at_work.crew.members) == 2 and texts(at_work.said) == []


def test_a_cluster_of_refused_nodes_only_ends_the_sweep(at_work):
    at_work.cluster.all_refused = True
    with pytest.raises(MachineError, match="no node of the cluster"):
        at_work.coordinator._follow(at_work.cluster, at_work.crew)


def test_what_workers_wait_for_is_said_once_and_they_do_not_count_as_hanging(at_work):
    at_work.cluster.waits_for = "2 of 2 workers wait for 1 CPU each"
    for _ in range(2):
        at_work.coordinator._follow(at_work.cluster, at_work.crew)
        for member in at_work.crew.members:
            member.silent_s = 1e6
    at_work.coordinator._follow(at_work.cluster, at_work.crew)
    assert texts(at_work.said) == ["2 of 2 workers wait for 1 CPU each"]
    assert all(member.silent_s == 0 for member in at_work.crew.members)


def test_objects_of_this_process_do_not_travel(here):
    import wdgrid

    with pytest.raises(UsageError, match="trained in this process"):
        wdgrid.sweep("small.toml", model=lambda: None, ray=True)
