"""Workers and the cells that they hold: nobody's cells are lost, whatever ends a worker."""

from multiprocessing import Pipe

import pytest

from wdgrid.errors import MachineError
from wdgrid.runner import crew as module
from wdgrid.runner.crew import IDLE_S, MAX_DEATHS, SILENT_S, Crew
from wdgrid.runner.handle import _Piped
from wdgrid.runner.messages import Alive, Done, Epoch, Order, Stopped
from wdgrid.study.sections import Cosine


class FakeWorker(_Piped):
    """A worker whose other end the test holds."""

    used, last = None, ()

    def __init__(self, environment):
        self.environment, self.asked, self.stopped = environment, False, False
        self.connection, self.theirs = Pipe()

    def ask_to_end(self):
        self.asked = True
        for message in self.last:
            self.theirs.send(message)
        self.theirs.close()

    def stop(self):
        self.stopped = True
        self.connection.close()

    kill = stop

    def processor_seconds(self):
        return self.used


@pytest.fixture
def released():
    return []


def unexpected(*given):
    raise AssertionError(given)


@pytest.fixture
def crew(released):
    with Crew(FakeWorker, released.extend, unexpected) as crew:
        yield crew


def order(cells):
    return Order("sgd", Cosine(kind="cosine"), 4, False, cells, 3, None, "digest", 60.0)


def test_messages_come_with_their_worker(crew):
    for _ in range(3):
        crew.hire()
    crew.members[1].worker.theirs.send(Epoch(1))
    assert [(m is crew.members[1], message) for m, message in crew.messages(1)] == [(True, Epoch(1))]
    assert list(crew.messages(0)) == []


def test_an_order_reaches_its_worker_and_progress_counts_epochs(crew):
    crew.hire()
    (member,) = crew.members
    member.train(order(["a", "b"]), ["a", "b"])
    assert member.worker.theirs.recv().cells == ["a", "b"] and member.cells_done == 0
    member.epochs_done = 1
    assert member.cells_done == 2 / 4


def test_at_the_end_all_are_stopped_and_all_cells_are_put_back(released):
    with pytest.raises(KeyboardInterrupt), Crew(FakeWorker, released.extend, unexpected) as crew:
        for cells in (["a"], [], ["b", "c"]):
            crew.hire()
            crew.members[-1].claims = cells
        raise KeyboardInterrupt
    assert released == ["a", "b", "c"] and all(member.worker.asked and member.worker.stopped for member in crew.members)


def test_a_dead_worker_is_replaced_and_its_cells_are_put_back(crew, released):
    crew.hire({"A": "1"})
    for death in range(1, MAX_DEATHS + 1):
        (member,) = crew.members
        member.claims = [death]
        member.worker.theirs.close()
        assert [message for _, message in crew.messages(1)] == [None]
        if death < MAX_DEATHS:
            crew.replace_dead(member)
    with pytest.raises(MachineError, match=f"{MAX_DEATHS} worker processes died or hung"):
        crew.replace_dead(member)
    assert released == list(range(1, MAX_DEATHS + 1)) and crew.members == []


def test_a_dismissed_worker_is_gone(crew, released):
    crew.hire()
    crew.hire()
    first, second = crew.members
    first.claims = ["a"]
    crew.dismiss(first)
    assert crew.members == [second] and first.worker.stopped and not second.worker.stopped and released == ["a"]


def test_what_workers_send_when_they_are_asked_to_end_is_not_lost(released):
    """One finished its chunk in this moment, one saved it, one saved what it could not, one is gone."""
    finished = []

    def finish(member, done):
        finished.append((member.claims, done.outcomes))
        member.claims = []

    with Crew(FakeWorker, released.extend, finish) as crew:
        for i, message in enumerate((Done(["outcome"]), Stopped(True), Stopped(False), None)):
            crew.hire()
            member = crew.members[-1]
            member.claims = [f"a{i}", f"b{i}"]
            member.worker.last = [Epoch(1), message] if message else []
    assert finished == [(["a0", "b0"], ["outcome"])] and crew.saved == 2
    assert released == ["a1", "b1", "a2", "b2", "a3", "b3"]


@pytest.fixture
def watch(crew, monkeypatch):
    """Watches a worker with a chunk every 15 s, by a clock of its own; the seconds until it is taken to hang."""
    crew.hire()
    (member,) = crew.members
    member.claims = ["a"]

    def watch(at_each_look, looks=1000):
        now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
        crew._watched = 0.0
        for _ in range(looks):
            now += 15
            at_each_look(member, now)
            if found := list(crew.hanging()):
                assert found[0][0] is member
                return now, found[0][1]
        return None

    return watch


def test_a_worker_without_a_message_and_without_computing_hangs(watch):
    def stopped(member, _now):
        member.worker.used = 7.0

    seconds, why = watch(stopped)
    assert IDLE_S < seconds <= IDLE_S + 30 and "no use of the processor" in why


def test_a_worker_in_preparation_is_given_five_times_as_long(watch):
    def preparing(member, _now):
        member.claims, member.worker.used = [], 7.0

    assert 5 * IDLE_S < watch(preparing)[0] <= 5 * IDLE_S + 30


@pytest.mark.parametrize("used", [None, 1.0])
def test_a_worker_that_computes_without_a_message_hangs_after_an_hour(watch, used):
    def computing(member, now):
        member.worker.used = used and used * now

    seconds, why = watch(computing)
    assert SILENT_S < seconds <= SILENT_S + 30 and "no step done in 60 minutes" in why


def test_a_worker_that_sends_messages_does_not_hang(watch, crew):
    def alive(member, _now):
        member.worker.theirs.send(Alive(0.5))
        assert [message for _, message in crew.messages(1)] == [Alive(0.5)]

    assert watch(alive, looks=20) is None


def test_the_time_in_which_the_sweep_itself_was_stopped_does_not_count(watch, crew):
    def suspended(member, now):
        member.worker.used = 7.0
        if now == 30:
            crew._watched -= 10_000

    seconds, _ = watch(suspended)
    assert IDLE_S - 15 < seconds <= IDLE_S + 30
